//! A change of a policy: made from what there is, checked as a whole, allowed, and stored as one.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use ztka_authz::PolicyDocument;
use ztka_core::{OrgId, Principal};
use ztka_identity::{Caller, StoreError};

use super::{Known, check, diff, grants::Giver};
use crate::{
    Controller,
    api::{Answer, ApiError},
    store::{LARGEST_POLICY, PolicyChange, PolicyEdit, ResourceKind},
};

/// A change that was made from what somebody else has changed meanwhile is made again, so many times. Each time somebody
/// else's was made, so as many as this may ask at once before one of them is refused.
const ATTEMPTS: usize = 32;

/// What the policy has to be like for a change to be made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expecting {
    /// The version of the one object that is changed.
    pub(crate) object: Option<u64>,
    /// The version of the policy.
    pub(crate) policy: Option<u64>,
    /// Nothing is changed: it is only looked at what would be.
    pub(crate) dry_run: bool,
}

/// A change that was made, or looked at.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The version of the policy afterwards.
    pub(crate) version: u64,
    /// What has changed; nothing if it was so already.
    pub(crate) edits: Vec<PolicyEdit>,
    /// As it was.
    pub(crate) before: Arc<Known>,
    /// As it is then.
    pub(crate) after: PolicyDocument,
}

impl Controller {
    /// Changes the policy of an organisation, as `caller` may, by what `act` does to it.
    ///
    /// # Errors
    /// What `act` says; what is wrong with the policy then, with where; what the caller does not have to give; the store's
    /// own.
    pub(crate) async fn change_policy(
        &self,
        caller: &Caller,
        org: &OrgId,
        act: &str,
        expecting: Expecting,
        change: impl Fn(&mut PolicyDocument) -> Answer<()> + Send + Sync + 'static,
    ) -> Answer<Changed> {
        let change = Arc::new(change);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let before = self.policy(org).await?;
            let basis = before.version();
            if expecting.policy.is_some_and(|expected| expected != basis) {
                return Err(StoreError::Changed { what: "policy", name: org.to_string(), version: basis }.into());
            }
            // Nothing limits an owner.
            let limited = match caller.administers(org) {
                true => None,
                false => Some(self.principal(&caller.user).await?),
            };
            let (change, known, now) = (change.clone(), before.clone(), self.now());
            // A large policy takes so long that others would wait.
            let prepared = spawn_blocking(move || prepare(&known.document, &*change, limited.as_ref(), now));
            let (after, edits) = prepared.await.map_err(ApiError::failed)??;
            if edits.is_empty() || expecting.dry_run {
                return Ok(Changed { version: basis, edits, before, after });
            }
            let author = caller.user.id.clone();
            let change = PolicyChange { basis, edits, author, act: act.to_owned(), at: self.now() };
            let store = match expecting.object {
                Some(version) => self.0.stores.changes.at_version(version).policy,
                None => self.0.stores.policy.clone(),
            };
            match store.change_policy(org, &change).await {
                Ok(version) => return Ok(Changed { version, edits: change.edits, before, after }),
                Err(StoreError::Changed { what: "policy", .. }) if attempts < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The policy with the change, and the change as objects, if it may be made by whoever is limited.
fn prepare(
    before: &PolicyDocument,
    change: &dyn Fn(&mut PolicyDocument) -> Answer<()>,
    limited: Option<&Principal>,
    now: Timestamp,
) -> Answer<(PolicyDocument, Vec<PolicyEdit>)> {
    let mut after = before.clone();
    change(&mut after)?;
    // Before all that takes longer the larger it is; the store looks as well.
    if serde_json::to_vec(&after).map_err(ApiError::failed)?.len() > LARGEST_POLICY {
        let text = "the policy would be larger than 11 MiB, which is more than proxies take; name less in it, or select \
                    by label and project";
        return Err(StoreError::Refused(text.into()).into());
    }
    let edits = diff(before, &after).map_err(ApiError::failed)?;
    let giver = limited.filter(|_| !edits.is_empty()).map(|who| Giver::new(before, &after, who, now));
    // What is not theirs to change is told of first, and what is too large is not multiplied out.
    if let Some(giver) = &giver {
        giver.reach(&edits)?;
    }
    checked(&after, &edits)?;
    if let Some(giver) = &giver {
        giver.widen(&edits)?;
    }
    drop(giver);
    Ok((after, edits))
}

fn checked(document: &PolicyDocument, edits: &[PolicyEdit]) -> Answer<()> {
    let written: HashSet<(ResourceKind, &str)> = edits.iter().map(|edit| (edit.kind, edit.name.as_str())).collect();
    check(document, &|kind, name| written.contains(&(kind, name)))
        .map_err(|fault| ApiError::invalid(fault.text).at(fault.pointer))
}
