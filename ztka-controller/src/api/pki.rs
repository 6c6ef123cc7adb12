//! The certificate authorities: how they are, and the steps of their rotations.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use ztka_api::{Authority, Code, Pki, PkiRotation, PkiStep, StepTaken, TakeStep, Waiting};
use ztka_pki::{
    AuthorityName, Awaited, HierarchyState, Purpose, Rotation, RotationError, Rotator, StoredAuthority, Straggler,
    UnknownPurpose,
};

use super::answer::{Answer, ApiError, Json};
use crate::Controller;

impl From<RotationError> for ApiError {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Waiting(waiting) => {
                let mut names: Vec<_> = waiting.iter().take(5).map(|straggler| straggler.who.clone()).collect();
                if waiting.len() > names.len() {
                    names.push("…".into());
                }
                let detail = format!("{} still to be waited for: {}", waiting.len(), names.join(", "));
                Self::new(Code::Refused, detail, "see `ztka pki status`, wait, or take the step with --anyway")
            }
            RotationError::Issue(_) | RotationError::Store(_) => Self::failed(error),
            RotationError::Import(_) => Self::invalid(error.to_string()),
            other => {
                let text = other.to_string();
                let (detail, action) = text.split_once("; ").unwrap_or((&text, "see `ztka pki status`"));
                Self::new(Code::Refused, detail, action)
            }
        }
    }
}

fn waiting(straggler: Straggler) -> Waiting {
    let for_what = match straggler.awaited {
        Awaited::Trust => "to take the new trust",
        Awaited::Certificate => "to renew its certificate",
        Awaited::ServerChain => "to present the new server chain",
        Awaited::Credential => "a kubeconfig by the old authority to be refreshed, or to expire",
        Awaited::Root => "a kubeconfig that knows the old root alone to be refreshed, or to expire",
        Awaited::Documents => "to be signed again",
        Awaited::Token => "an enrolment token for the old root to be used, revoked, or to expire",
        _ => "something that this version does not know",
    };
    Waiting { who: straggler.who, awaited: for_what.into(), last_seen: straggler.last_seen, until: straggler.until }
}

fn shown(name: &AuthorityName, signs: &StoredAuthority, rotation: Option<PkiRotation>) -> Answer<Authority> {
    let unreadable = || ApiError::failed("a stored CA certificate cannot be read");
    let (not_before, not_after) = signs.validity().ok_or_else(unreadable)?;
    let key = signs.key_id().ok_or_else(unreadable)?.0;
    Ok(Authority { name: name.to_string(), key, not_before, not_after, key_here: !signs.key.is_empty(), rotation })
}

impl Controller {
    async fn rotation(&self, name: &AuthorityName, rotation: &Rotation) -> Answer<PkiRotation> {
        let awaited = self.rotator().awaited(name).await?;
        Ok(PkiRotation {
            phase: rotation.phase.to_string(),
            since: rotation.since,
            automatic: rotation.automatic,
            paused: rotation.paused,
            reversed: rotation.reversed,
            other_key: rotation.standby.key_id().map(|key| key.0),
            waiting: awaited.into_iter().map(waiting).collect(),
        })
    }

    async fn authority(&self, state: &HierarchyState, name: &AuthorityName) -> Answer<Authority> {
        let rotation = match state.rotations.get(name) {
            Some(rotation) => Some((self.rotation(name, rotation).await?, rotation)),
            None => None,
        };
        let (wire, kept) = rotation.unzip();
        match name {
            AuthorityName::Root => shown(name, &state.root, wire),
            AuthorityName::Purpose(purpose) => {
                let signs = state.purposes.get(purpose);
                shown(name, signs.ok_or_else(|| ApiError::not_found("certificate authority", name))?, wire)
            }
            AuthorityName::Org(purpose, org) => {
                if let Some(signer) = kept.and_then(|rotation| rotation.signer.as_ref()) {
                    return shown(name, signer, wire);
                }
                let stored = self.0.stores.authorities.org_authority(org).await?;
                let stored = stored.ok_or_else(|| ApiError::not_found("certificate authority", name))?;
                let signs = if *purpose == Purpose::Users { &stored.users } else { &stored.agents };
                shown(name, signs, wire)
            }
        }
    }
}

/// Root and purposes, and organisations' authorities that are being rotated.
pub(super) async fn status(State(controller): State<Controller>) -> Answer<Json<Pki>> {
    controller.refresh_authorities().await?;
    let state = controller.hierarchy().state();
    let always = std::iter::once(AuthorityName::Root).chain(Purpose::ALL.map(AuthorityName::Purpose));
    let orgs = state.rotations.keys().filter(|name| matches!(name, AuthorityName::Org(..))).cloned();
    let mut authorities = Vec::new();
    for name in always.chain(orgs) {
        authorities.push(controller.authority(&state, &name).await?);
    }
    let members = controller.0.stores.members.live_members(controller.now()).await?;
    let newest = controller.newest_trust().await?;
    let current = |member: &&crate::store::LiveMember| member.acknowledged.as_ref().map(|said| said.trust) >= newest;
    let (members, current) = (members.len(), members.iter().filter(current).count());
    let names = controller.hierarchy().names();
    let (trust, domain, trust_domain) =
        (newest.map(|revision| revision.to_string()), names.domain.clone(), names.trust_domain.clone());
    let root = controller.hierarchy().root_pem();
    Ok(Json(Pki { authorities, trust, members, current, domain, trust_domain, root }))
}

/// A root whose key is elsewhere.
async fn publish_root(rotator: &Rotator, name: &AuthorityName, asked: &TakeStep) -> Answer<Result<(), RotationError>> {
    let (AuthorityName::Root, Some(new)) = (name, &asked.root) else {
        return Err(ApiError::invalid("a new root is for the authority root; use certificate for the others"));
    };
    let mut chains = BTreeMap::new();
    for (purpose, chain) in &new.certificates {
        let purpose: Purpose = purpose.parse().map_err(|error: UnknownPurpose| ApiError::invalid(error.to_string()))?;
        chains.insert(purpose, chain.clone());
    }
    let cross = Some(new.cross.as_str()).filter(|cross| !cross.is_empty());
    Ok(rotator.publish_root(&new.root, cross, &chains, asked.automatic).await)
}

/// Takes one step.
pub(super) async fn step(
    State(controller): State<Controller>,
    Path((name, step)): Path<(AuthorityName, PkiStep)>,
    Json(asked): Json<TakeStep>,
) -> Answer<Json<StepTaken>> {
    let rotator = controller.rotator();
    let (mut broken, mut requests) = (Vec::new(), BTreeMap::new());
    if let AuthorityName::Org(_, org) = &name {
        controller.directory().store().org(org).await?.ok_or_else(|| ApiError::not_found("organisation", org))?;
        controller.0.authorities.ensure_org(org).await.map_err(ApiError::failed)?;
    }
    let of_purpose = || match &name {
        AuthorityName::Purpose(purpose) => Ok(*purpose),
        _ => Err(ApiError::invalid("certificates are requested for a purpose; use servers, agents, …")),
    };
    let taken = match (step, &asked.certificate) {
        (PkiStep::Publish, _) if asked.root.is_some() => publish_root(&rotator, &name, &asked).await?,
        (PkiStep::Publish, Some(chain)) => rotator.publish_certified(of_purpose()?, chain, asked.automatic).await,
        (PkiStep::Publish, None) => rotator.publish(&name, asked.automatic).await,
        (PkiStep::Request, _) if name == AuthorityName::Root => rotator.requests().await.map(|made| {
            requests.extend(made.into_iter().map(|(purpose, request)| (purpose.to_string(), request)));
        }),
        (PkiStep::Request, _) => {
            let purpose = of_purpose()?;
            let made = rotator.request(purpose).await;
            made.map(|request| drop(requests.insert(purpose.to_string(), request)))
        }
        (PkiStep::Activate, _) => rotator.activate(&name, asked.anyway).await,
        (PkiStep::Retire, _) => rotator.retire(&name, asked.anyway).await,
        (PkiStep::Rollback, _) => rotator.roll_back(&name).await.map(|lost| broken = lost),
        (PkiStep::Pause, _) => rotator.pause(&name).await,
        (PkiStep::Resume, _) => rotator.resume(&name).await,
        (PkiStep::CutOff, _) => rotator.cut_off(&name).await.map(|lost| broken = lost),
    };
    controller.trust_authorities();
    taken?;
    // Published before the answer, so that what is asked next sees who has not taken it.
    if let Err(error) = controller.publish_due().await {
        tracing::error!(error = &error as &dyn std::error::Error, "documents cannot be signed now");
    }
    if let Err(error) = controller.confirm_trust().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "others do not know what is gone by here");
    }
    let authority = controller.authority(&controller.hierarchy().state(), &name).await?;
    Ok(Json(StepTaken { authority, broken: broken.into_iter().map(waiting).collect(), requests }))
}

impl Controller {
    async fn newest_trust(&self) -> Answer<Option<ztka_core::Revision>> {
        let kind = ztka_core::DocumentKind::Trust;
        let series = ztka_core::SeriesKey { kind, org: None, subject: String::new() };
        let snapshot = self.0.stores.documents.snapshot(&series, self.now()).await?;
        Ok(snapshot.map(|snapshot| snapshot.revision))
    }
}
