//! In front of every handler: who calls, may they, and the record of it.

use std::{net::IpAddr, str::FromStr};

use axum::{
    RequestExt as _,
    extract::{RawPathParams, Request},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::Method;
use ztka_api::{Code, PkiStep};
use ztka_audit::Stage;
use ztka_core::{AuditId, BindingName, ClusterId, CredentialId, GroupName, OrgId, RoleName, Subject, UserId, Verified};
use ztka_identity::{Caller, NotActive, StoreError};
use ztka_pki::{AuthorityName, Peer, TokenId};

use super::{
    Needs,
    answer::{Answer, ApiError},
    policy, tokens,
};
use crate::{
    Controller,
    audit::Act,
    policy::{Offices, Reach},
};

/// Lets a request through to its handler, with the [`Caller`] as extension, or answers it.
pub(super) async fn guard(controller: Controller, needs: Needs, mut request: Request, next: Next) -> Response {
    let checked = check(&controller, needs, &mut request).await;
    let (caller, org) = match checked {
        Ok(checked) => checked,
        Err(refused) => return refused.into_response(),
    };
    let source = request.extensions().get::<IpAddr>().copied();
    let (method, path) = (request.method(), request.uri().path());
    let act = Act::new(&caller, org.as_ref(), method, path, source, controller.now());
    let in_path = request.extensions().get::<InPath>();
    let allowed = match allow(&caller, needs, org.as_ref(), in_path) {
        Ok(()) => Ok(()),
        Err(refused) => match controller.holds(&caller, needs, org.as_ref(), in_path, method).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused),
            Err(error) => return ApiError::from(error).into_response(),
        },
    };
    if let Err(refused) = allowed {
        let event = act.refused(refused.problem().detail(), controller.now());
        if let Err(error) = controller.0.journal.record(event).await {
            tracing::error!(error = &*error, "a refusal is not on record");
        }
        return refused.into_response();
    }
    if let Err(missing) = exists(&controller, &caller, org.as_ref()).await {
        return missing.into_response();
    }
    // What shows what somebody did is on record as what changes something is.
    let changes = !matches!(*method, Method::GET) || needs == Needs::RecordingViewer;
    request.extensions_mut().insert(caller);
    if !changes {
        return next.run(request).await;
    }
    // A task of its own: a client that leaves neither stops a change halfway nor keeps its end from the record.
    let done = tokio::spawn(async move { change(&controller, &act, request, next).await });
    done.await.unwrap_or_else(|error| ApiError::failed(error).into_response())
}

/// Changes something, on record before and after.
async fn change(controller: &Controller, act: &Act, request: Request, next: Next) -> Response {
    let begun = act.event(Stage::RequestReceived, controller.now());
    if let Err(error) = controller.0.journal.record(begun).await {
        return ApiError::failed(error).into_response();
    }
    let response = next.run(request).await;
    controller.0.changed.notify_one();
    let mut done = act.done(response.status(), controller.now());
    if let Some(Noted(name, text)) = response.extensions().get::<Noted>() {
        done.annotations.set(name, text.as_str());
    }
    if let Err(error) = controller.0.journal.record(done).await {
        tracing::error!(error = &*error, "the end of a change is not on record");
    }
    response
}

/// Extension of an answer: what was changed, where the path does not say it, as an annotation of the record.
#[derive(Clone, Debug)]
pub(super) struct Noted(pub(super) &'static str, pub(super) String);

/// What the path names, where a rule looks at it.
#[derive(Clone, Debug)]
struct InPath {
    user: Option<UserId>,
    cluster: Option<ClusterId>,
}

/// Who calls, and the organisation in the path. Nothing is told to whoever is not a user with an active session.
async fn check(controller: &Controller, needs: Needs, request: &mut Request) -> Answer<(Caller, Option<OrgId>)> {
    let unauthenticated = |detail: String, action: &str| ApiError::new(Code::Unauthenticated, detail, action);
    let no_certificate =
        || unauthenticated("a client certificate is needed".into(), "call with a credential of `ztka kubeconfig`");
    let peer = request.extensions().get::<Verified<Peer>>().cloned().ok_or_else(no_certificate)?;
    let Subject::User { org, user, credential } = &peer.id.subject else { return Err(no_certificate()) };
    // The connection may be older than what has happened since.
    if peer.not_after <= controller.now() {
        return Err(unauthenticated("the certificate has expired".into(), "get a new credential"));
    }
    // By serial number or as a whole organisation; of credentials and users the directory knows in words.
    let revoked = controller.trust().is_revoked(&peer);
    let caller = controller.directory().whoami(user, credential).await.map_err(|error| match error {
        NotActive::Store(error) => ApiError::from(error),
        ended => {
            let text = ended.to_string();
            let (detail, action) = text.split_once("; ").unwrap_or((&text, ""));
            unauthenticated(detail.into(), action)
        }
    })?;
    if caller.user.org != *org {
        return Err(no_certificate());
    }
    if revoked {
        return Err(unauthenticated("the certificate is revoked".into(), "get a new credential"));
    }
    controller.0.uses.note(&caller.credential.id, controller.now());
    let params = request.extract_parts::<RawPathParams>().await;
    let params = params.map_err(|_| ApiError::invalid("the path is not what is expected; correct it"))?;
    let (mut in_path, mut named) = (InPath { user: None, cluster: None }, None);
    for (name, value) in &params {
        match name {
            "org" => named = Some(parse::<OrgId>("organisation", value)?),
            "user" => in_path.user = Some(parse("user", value)?),
            "cluster" => in_path.cluster = Some(parse("cluster", value)?),
            "credential" => drop(parse::<CredentialId>("credential", value)?),
            "token" => drop(parse::<TokenId>("token", value)?),
            "key" => drop(tokens::key(value).ok_or_else(|| ApiError::not_found("key", shown(value)))?),
            "group" => drop(parse::<GroupName>("group", value)?),
            "recording" if AuditId::parse(value).is_some() => {}
            "recording" => return Err(ApiError::not_found("recording", shown(value))),
            "role" => drop(parse::<RoleName>("role", value)?),
            "kind" => drop(policy::kind(value).ok_or_else(|| ApiError::not_found("kind", shown(value)))?),
            "object" if policy::is_object(value) => {}
            "object" => return Err(ApiError::not_found("object", shown(value))),
            "authority" => drop(parse::<AuthorityName>("certificate authority", value)?),
            "step" => drop(parse::<PkiStep>("step", value)?),
            "binding" => drop(parse::<BindingName>("binding", value)?),
            _ => return Err(ApiError::failed(format!("the rule {needs:?} does not know the parameter {name}"))),
        }
    }
    request.extensions_mut().insert(in_path);
    Ok((caller, named))
}

/// Somebody who has asked for a stream of an organisation, which goes on only as long as they administer it.
#[derive(Debug)]
pub(super) struct Administrator {
    controller: Controller,
    peer: Verified<Peer>,
    org: OrgId,
    needs: Needs,
}

impl Administrator {
    /// Whoever has this certificate; the guard has let them through.
    pub(super) fn new(controller: Controller, peer: Verified<Peer>, org: OrgId) -> Self {
        Self { controller, peer, org, needs: Needs::OrgReader }
    }

    /// The same of another rule.
    pub(super) fn by(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// Asked before each piece of the stream, since what the guard has found may be long ago.
    pub(super) async fn still_is(&self) -> bool {
        let Subject::User { user, credential, .. } = &self.peer.id.subject else { return false };
        if self.peer.not_after <= self.controller.now() || self.controller.trust().is_revoked(&self.peer) {
            return false;
        }
        let caller = self.controller.directory().whoami(user, credential).await;
        let Ok(caller) = caller else { return false };
        allow(&caller, self.needs, Some(&self.org), None).is_ok()
            || self.controller.looks_at(&caller, self.needs, &self.org).await
    }
}

impl Controller {
    /// True if somebody may call a route by what they hold in the policy of their organisation.
    async fn holds(
        &self,
        caller: &Caller,
        needs: Needs,
        org: Option<&OrgId>,
        in_path: Option<&InPath>,
        method: &Method,
    ) -> Result<bool, StoreError> {
        let Some(org) = org.filter(|org| **org == caller.user.org) else { return Ok(false) };
        if matches!(needs, Needs::Caller | Needs::Member | Needs::SystemAdmin) {
            return Ok(false);
        }
        let (known, who) = (self.policy(org).await?, self.principal(&caller.user).await?);
        let policy = &known.document;
        let offices = Offices::of(policy, &who, self.now());
        let id = in_path.and_then(|path| path.cluster.as_ref());
        let cluster = id.and_then(|id| policy.clusters.iter().find(|cluster| cluster.id == *id));
        Ok(match needs {
            Needs::OrgAdmin => offices.allow(Reach::Org, true),
            Needs::OrgReader => offices.allow(Reach::Org, false),
            Needs::RecordingViewer => offices.allow(Reach::Org, true) || offices.allow(Reach::Recordings, false),
            Needs::Oneself => offices.allow(Reach::Org, *method != Method::GET),
            Needs::ClusterMaker => offices.allow(Reach::Cluster(None), true),
            // Nothing is told of a cluster that is not there to whoever may not see every one.
            Needs::ClusterAdmin => offices.allow(cluster.map_or(Reach::Org, |one| Reach::Cluster(Some(one))), true),
            Needs::ClusterReader => offices.allow(cluster.map_or(Reach::Org, |one| Reach::Cluster(Some(one))), false),
            Needs::PolicyAdmin => offices.allow(Reach::Policy, true),
            Needs::PolicyReader => offices.allow(Reach::Policy, false),
            Needs::Caller | Needs::Member | Needs::SystemAdmin => false,
        })
    }

    /// True if somebody may look at the organisation by what they hold in its policy.
    async fn looks_at(&self, caller: &Caller, needs: Needs, org: &OrgId) -> bool {
        self.holds(caller, needs, Some(org), None, &Method::GET).await.unwrap_or(false)
    }
}

/// An administrator of the installation may ask for an organisation that is not there.
async fn exists(controller: &Controller, caller: &Caller, org: Option<&OrgId>) -> Answer<()> {
    match org.filter(|org| **org != caller.user.org) {
        Some(org) if controller.directory().store().org(org).await?.is_none() => {
            Err(ApiError::not_found("organisation", org))
        }
        _ => Ok(()),
    }
}

/// What is not even a name names nothing.
fn parse<T: FromStr>(what: &'static str, text: &str) -> Answer<T> {
    text.parse().map_err(|_| ApiError::not_found(what, shown(text)))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn allow(caller: &Caller, needs: Needs, org: Option<&OrgId>, in_path: Option<&InPath>) -> Answer<()> {
    let administers = org.is_some_and(|org| caller.administers(org));
    let belongs = org.is_some_and(|org| caller.user.org == *org);
    let oneself = in_path.and_then(|path| path.user.as_ref()).is_some_and(|user| *user == caller.user.id);
    let (allowed, who) = match needs {
        Needs::Caller => (true, ""),
        Needs::Member => (belongs || administers, "users of this organisation"),
        Needs::Oneself => ((belongs && oneself) || administers, "this user, and administrators of the organisation"),
        Needs::OrgAdmin => (administers, "administrators of this organisation"),
        // Not the installation's: who runs it need not see what is done in it.
        Needs::RecordingViewer => {
            (administers && belongs, "administrators of this organisation, and viewers of its recordings,")
        }
        Needs::OrgReader => (administers, "administrators of this organisation, and who may look at all of it,"),
        Needs::ClusterAdmin | Needs::ClusterReader => (administers, "administrators of this cluster"),
        Needs::ClusterMaker => (administers, "administrators of this organisation, and of every cluster in it,"),
        Needs::PolicyAdmin | Needs::PolicyReader => (administers, "administrators of some of this organisation"),
        Needs::SystemAdmin => (caller.is_system_admin(), "administrators of the installation"),
    };
    if allowed {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, format!("only {who} may do this"), "ask one of them"))
}
