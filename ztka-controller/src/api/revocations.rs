//! What is revoked by serial number, as an agent, a proxy or an organisation. Credentials have a place of their own.

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ztka_api::{Code, Revocation, Revoke};
use ztka_core::{OrgId, Subject};
use ztka_identity::Caller;

use super::{
    answer::{Answer, ApiError, Created, Json},
    paging::Paging,
    users::need_owner,
};
use crate::{
    Controller,
    store::{self, Revocable},
};

/// A certificate that was issued before they were written down has expired after this long.
const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);
/// Every controller has heard of a revocation by then, or issues nothing.
const HEARD: SignedDuration = SignedDuration::from_hours(1);

fn what(asked: &Revoke) -> Answer<Revocable> {
    Revocable::parse(&asked.kind, &asked.name).ok_or_else(|| {
        ApiError::invalid(
            "not a kind and a name of it; kinds are serial (two lower-case hexadecimal digits for each byte, no zero bytes \
             in front), instance, proxy, org",
        )
    })
}

fn wire(revocation: store::Revocation) -> Revocation {
    let (kind, name) = (revocation.what.kind().to_owned(), revocation.what.name().to_owned());
    Revocation { kind, name, since: revocation.since, ends: revocation.ends }
}

impl Controller {
    /// Until when it has to be said that something is revoked, if it is there, and this organisation's (`None`: the
    /// installation's).
    async fn ends(&self, org: Option<&OrgId>, what: &Revocable) -> Answer<Option<Timestamp>> {
        let (now, missing) = (self.now(), || ApiError::not_found(what.kind(), what.name()));
        let stores = &self.0.stores;
        match (org, what) {
            (_, Revocable::Serial(serial)) => {
                let found = stores.revocations.certificates(serial, now).await?;
                let of_org = found.into_iter().filter(|found| found.org.as_ref() == org);
                match of_org.map(|found| found.record.not_after).max() {
                    Some(not_after) => Ok(Some(not_after)),
                    None if org.is_none() => Ok(now.checked_add(LONGEST).ok()),
                    None => Err(missing()),
                }
            }
            (Some(org), Revocable::Instance(id)) => {
                let found = stores.resources.instance(id).await?;
                let found = found.filter(|found| found.org == *org && found.not_after > now).ok_or_else(missing)?;
                Ok(self.outlasting(found.not_after, self.0.settings.lifetimes.agent))
            }
            (None, Revocable::Proxy(id)) => {
                let found = stores.resources.proxies().await?.into_iter().find(|found| found.id == *id);
                let found = found.ok_or_else(missing)?;
                // One that has not joined may yet: for as long as any token of its could be used.
                Ok(match found.not_after {
                    Some(not_after) => self.outlasting(not_after, self.0.settings.lifetimes.proxy),
                    None => now.checked_add(LONGEST).ok(),
                })
            }
            (None, Revocable::Org(id)) if *id == OrgId::installation() => {
                let message = "nobody could take it back: the installation's own administrators would be locked out";
                Err(ApiError::new(Code::Refused, message, "disable single users"))
            }
            (None, Revocable::Org(id)) => match self.directory().store().org(id).await? {
                Some(_) => Ok(None),
                None => Err(missing()),
            },
            (Some(_), Revocable::Proxy(_) | Revocable::Org(_)) => {
                Err(ApiError::invalid("proxies and organisations are revoked for the installation; POST /revocations"))
            }
            (None, Revocable::Instance(_)) => {
                Err(ApiError::invalid("an agent is revoked in its organisation; POST /orgs/{org}/revocations"))
            }
        }
    }

    /// Longer than any certificate of somebody whose newest ends at `not_after`, and who may be renewing it just now.
    fn outlasting(&self, not_after: Timestamp, life: SignedDuration) -> Option<Timestamp> {
        let renewed = self.now().checked_add(life).ok()?;
        not_after.max(renewed).checked_add(HEARD).ok()
    }

    /// What nobody but an owner could make good again is for owners: nobody takes back what is revoked by serial number.
    async fn may_revoke(&self, caller: &Caller, org: &OrgId, what: &Revocable) -> Answer<()> {
        let Revocable::Serial(serial) = what else { return Ok(()) };
        if caller.administers(org) {
            return Ok(());
        }
        let found = self.0.stores.revocations.certificates(serial, self.now()).await?;
        for certificate in found.into_iter().filter(|found| found.org.as_ref() == Some(org)) {
            match certificate.record.subject {
                Some(Subject::User { user, .. }) => {
                    let user = self.directory().store().user(&user).await?;
                    need_owner(
                        caller,
                        org,
                        user.is_some_and(|user| user.admin.is_some() && user.id != caller.user.id),
                    )?;
                }
                Some(_) => {}
                // Whoever it is of is not known: an authority of the organisation.
                None => {
                    let text = "only an owner of the organisation revokes a certificate of its authorities";
                    return Err(ApiError::new(Code::Forbidden, text, "ask one, who was made with `--admin org`"));
                }
            }
        }
        Ok(())
    }

    async fn revoke(&self, org: Option<OrgId>, what: Revocable) -> Answer<Created<Revocation>> {
        let ends = self.ends(org.as_ref(), &what).await?;
        let revocation = store::Revocation { org, what, since: self.now(), ends };
        self.0.stores.revocations.revoke(&revocation).await?;
        Ok(Created(wire(revocation)))
    }

    async fn revocations(&self, org: Option<&OrgId>, paging: Paging) -> Answer<Response> {
        let revoked = self.0.stores.pages.revocations_page(org, self.now(), paging.page()).await?;
        Ok(paging.answer(revoked.map(wire)))
    }
}

pub(super) async fn list(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    paging: Paging,
) -> Answer<Response> {
    controller.revocations(Some(&org), paging).await
}

pub(super) async fn create(
    State(controller): State<Controller>,
    Extension(caller): Extension<Caller>,
    Path(org): Path<OrgId>,
    Json(asked): Json<Revoke>,
) -> Answer<Created<Revocation>> {
    let what = what(&asked)?;
    controller.may_revoke(&caller, &org, &what).await?;
    controller.revoke(Some(org), what).await
}

pub(super) async fn list_all(State(controller): State<Controller>, paging: Paging) -> Answer<Response> {
    controller.revocations(None, paging).await
}

pub(super) async fn create_any(
    State(controller): State<Controller>,
    Json(asked): Json<Revoke>,
) -> Answer<Created<Revocation>> {
    controller.revoke(None, what(&asked)?).await
}

/// Takes the revocation of a whole organisation back.
pub(super) async fn restore(State(controller): State<Controller>, Path(org): Path<OrgId>) -> Answer<StatusCode> {
    controller.0.stores.revocations.restore_org(&org).await?;
    Ok(StatusCode::NO_CONTENT)
}
