//! A change of a policy: made from what there is, checked as a whole, allowed, and stored as one.

use std::collections::HashSet;

use ztka_authz::PolicyDocument;
use ztka_core::{DocumentKind, OrgId, SeriesKey};
use ztka_identity::{Caller, StoreError};

use super::{check, diff};
use crate::{
    Controller,
    api::{Answer, ApiError},
    store::{Content, LARGEST_POLICY, PolicyChange, PolicyEdit, ResourceKind},
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
    pub(crate) before: PolicyDocument,
    /// As it is then.
    pub(crate) after: PolicyDocument,
}

impl Controller {
    /// The policy of an organisation as it is now, published or not, and its version.
    pub(crate) async fn policy(&self, org: &OrgId) -> Result<(u64, PolicyDocument), StoreError> {
        let series = SeriesKey { kind: DocumentKind::Policy, org: Some(org.clone()), subject: String::new() };
        match self.0.stores.documents.snapshot(&series, self.now()).await? {
            Some(snapshot) => match snapshot.content {
                Content::Policy(policy) => Ok((snapshot.revision.version, policy)),
                _ => Err(StoreError::unavailable("the store gave another document than the policy asked for")),
            },
            None => Err(StoreError::not_found("organisation", org)),
        }
    }

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
        change: impl Fn(&mut PolicyDocument) -> Answer<()>,
    ) -> Answer<Changed> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (basis, before) = self.policy(org).await?;
            if expecting.policy.is_some_and(|expected| expected != basis) {
                return Err(StoreError::Changed { what: "policy", name: org.to_string(), version: basis }.into());
            }
            let mut after = before.clone();
            change(&mut after)?;
            // Before all that takes longer the larger it is; the store looks as well.
            if serde_json::to_vec(&after).map_err(ApiError::failed)?.len() > LARGEST_POLICY {
                let text = "the policy would be larger than 11 MiB, which is more than proxies take; name less in it, or select \
                            by label and project";
                return Err(StoreError::Refused(text.into()).into());
            }
            let edits = diff(&before, &after).map_err(ApiError::failed)?;
            self.may_change(caller, org, &before, &after, &edits).await?;
            checked(&after, &edits)?;
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

fn checked(document: &PolicyDocument, edits: &[PolicyEdit]) -> Answer<()> {
    let written: HashSet<(ResourceKind, &str)> = edits.iter().map(|edit| (edit.kind, edit.name.as_str())).collect();
    check(document, &|kind, name| written.contains(&(kind, name)))
        .map_err(|fault| ApiError::invalid(fault.text).at(fault.pointer))
}
