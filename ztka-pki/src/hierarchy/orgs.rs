//! The intermediates of organisations, which are made and opened as they are needed.

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{BoxError, OrgId};

use super::{
    AuthorityName, Hierarchy, Kept, OrgState, StoredAuthority, common_name,
    held::{Held, open_authority},
    usages,
};
use crate::{
    Purpose,
    authority::{IssueError, Profile},
    key::{KeyName, Signer, open_or_create},
};

/// An organisation's intermediates, opened.
#[derive(Clone, Debug)]
pub(super) struct OpenOrg {
    stored: OrgState,
    /// The hierarchy's, when this was opened.
    generation: u64,
    /// When the first of its certificates has lived for two thirds of its life: then it is opened anew.
    renew_at: Timestamp,
    pub(super) agents: Kept,
    pub(super) users: Kept,
}

/// Finds what [`Hierarchy::create_org`] returned, in whichever process: for hierarchies that several processes hold.
#[async_trait]
pub trait OrgStates: Send + Sync + std::fmt::Debug {
    /// What is stored of the intermediates of `org`, if there is such an organisation.
    ///
    /// # Errors
    /// What the store says.
    async fn org_state(&self, org: &OrgId) -> Result<Option<OrgState>, BoxError>;

    /// Keeps `after` in the place of `before`: the same keys with newer certificates. If `before` is not what is stored (any
    /// more), nothing changes: somebody else was first, or the organisation has new keys.
    ///
    /// # Errors
    /// What the store says.
    async fn recertified(&self, before: &OrgState, after: &OrgState) -> Result<(), BoxError>;
}

fn renew_at(kept: &Kept) -> Timestamp {
    let facts = kept.authority.facts();
    let life = facts.not_after.duration_since(facts.not_before);
    facts.not_after.checked_sub(life / 3).unwrap_or(facts.not_after)
}

impl Hierarchy {
    /// Opens organisations that are not open yet when something is to be issued in them, and again after a rotation.
    #[must_use]
    pub fn with_orgs(mut self, states: Arc<dyn OrgStates>) -> Self {
        self.stored_orgs = Some(states);
        self
    }

    /// Makes the intermediates of `org` and keeps them open; what is returned has to be stored.
    ///
    /// May be repeated, also by another process at the same time: the keys stay the same, so that what was issued under
    /// one certificate is valid under the other.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn create_org(&self, org: &OrgId) -> Result<OrgState, IssueError> {
        let held = self.held();
        let mut made = Vec::new();
        for purpose in [Purpose::Agents, Purpose::Users] {
            let key: KeyName = format!("{purpose}.{org}").parse()?;
            let signer = open_or_create(&*self.keys, &key).await?;
            made.push(StoredAuthority::of(&self.org_authority(&held, org, purpose, key, signer).await?));
        }
        let (Some(users), Some(agents)) = (made.pop(), made.pop()) else {
            return Err(IssueError::State("an organisation lacks an intermediate"));
        };
        let state = OrgState { org: org.clone(), agents, users };
        self.open_org(&state).await?;
        Ok(state)
    }

    /// Opens the intermediates of an organisation that [`Self::create_org`] made, in this process or another.
    ///
    /// Certificates by an authority that is on its way out, or of which two thirds are over, are replaced by new ones
    /// for the same key, which are stored as well ([`OrgStates::recertified`], after [`Self::with_orgs`]).
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn open_org(&self, state: &OrgState) -> Result<(), IssueError> {
        let held = self.held();
        let agents = self.open_org_authority(&held, state, Purpose::Agents).await?;
        let users = self.open_org_authority(&held, state, Purpose::Users).await?;
        let mut stored = state.clone();
        for (purpose, kept) in [(Purpose::Agents, &agents), (Purpose::Users, &users)] {
            // While it is rotated, who signs is in the rotation.
            let name = AuthorityName::Org(purpose, state.org.clone());
            let certificate = stored.of(purpose).certificate()?;
            if !held.state.rotations.contains_key(&name) && certificate != *kept.authority.certificate() {
                *stored.of_mut(purpose) = StoredAuthority::of(kept);
            }
        }
        if let Some(states) = self.stored_orgs.as_ref().filter(|_| stored != *state) {
            states.recertified(state, &stored).await.map_err(IssueError::Failed)?;
        }
        let generation = held.state.generation;
        let renew_at = renew_at(&agents).min(renew_at(&users));
        let opened = OpenOrg { stored, generation, renew_at, agents, users };
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(state.org.clone(), opened);
        Ok(())
    }

    /// True if the intermediates of `org` are open here.
    pub fn has_org(&self, org: &OrgId) -> bool {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).contains_key(org)
    }

    /// Closes the intermediates of an organisation that is deleted, and drops their keys.
    pub fn close_org(&self, org: &OrgId) {
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).remove(org);
    }

    fn opened(&self, org: &OrgId) -> Option<OpenOrg> {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).get(org).cloned()
    }

    pub(super) async fn org(&self, held: &Held, org: &OrgId) -> Result<OpenOrg, IssueError> {
        let opened = self.opened(org);
        if let Some(opened) = opened
            .as_ref()
            .filter(|opened| opened.generation == held.state.generation && self.clock.now() < opened.renew_at)
        {
            return Ok(opened.clone());
        }
        let stored = match &self.stored_orgs {
            Some(states) => states.org_state(org).await.map_err(IssueError::Failed)?,
            None => None,
        };
        let stored = stored.or(opened.map(|opened| opened.stored));
        self.open_org(&stored.ok_or_else(|| IssueError::UnknownOrg(org.clone()))?).await?;
        self.opened(org).ok_or_else(|| IssueError::UnknownOrg(org.clone()))
    }

    async fn open_org_authority(&self, held: &Held, state: &OrgState, purpose: Purpose) -> Result<Kept, IssueError> {
        let name = AuthorityName::Org(purpose, state.org.clone());
        let rotated = held.state.rotations.get(&name).and_then(|rotation| rotation.signer.as_ref());
        let kept = open_authority(rotated.unwrap_or(state.of(purpose)), &*self.keys).await?;
        let (facts, above) = (kept.authority.facts(), held.purpose(purpose)?.authority.facts());
        let life = facts.not_after.duration_since(facts.not_before);
        let left = facts.not_after.duration_since(self.clock.now());
        if facts.issuer == above.subject && left > life / 3 {
            return Ok(kept);
        }
        let signer = self.keys.open(&kept.key).await?;
        self.org_authority(held, &state.org, purpose, kept.key, signer).await
    }

    /// Certifies the key of an organisation.
    pub(super) async fn org_authority(
        &self,
        held: &Held,
        org: &OrgId,
        purpose: Purpose,
        key: KeyName,
        signer: Arc<dyn Signer>,
    ) -> Result<Kept, IssueError> {
        let profile = Profile {
            common_name: common_name(purpose.as_str(), signer.public_key().id()),
            organization: Some(org.to_string()),
            // Binds the intermediate to its organisation; verifiers hold every name below it against this.
            uri: Some(format!("spiffe://{}/org/{org}", self.names.trust_domain)),
            authority: Some(0),
            ..usages(purpose)
        };
        let above = &held.purpose(purpose)?.authority;
        let authority = above.issue_authority(profile, signer, self.clock.now(), self.lifetimes.org).await?;
        Ok(Kept { key, authority, above: Vec::new() })
    }
}
