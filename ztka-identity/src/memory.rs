//! A store that forgets everything at the end of the process: for tests and experiments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_core::{Attributes, CredentialId, GroupName, OrgId, UserId, UserName};

use crate::{Credential, Directory, Group, IdentityStore, LoginSession, Org, StoreError, User};

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryIdentityStore(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    orgs: BTreeMap<OrgId, Org>,
    users: BTreeMap<UserId, User>,
    groups: BTreeMap<(OrgId, GroupName), BTreeSet<UserId>>,
    credentials: BTreeMap<CredentialId, (Credential, LoginSession)>,
}

impl State {
    fn org(&self, id: &OrgId) -> Result<&Org, StoreError> {
        self.orgs.get(id).ok_or_else(|| StoreError::not_found("organisation", id))
    }

    fn user(&mut self, id: &UserId) -> Result<&mut User, StoreError> {
        self.users.get_mut(id).ok_or_else(|| StoreError::not_found("user", id))
    }

    fn members(&mut self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<&mut BTreeSet<UserId>, StoreError> {
        if self.user(user)?.org != *org {
            return Err(StoreError::not_found("user", user));
        }
        let found = self.groups.get_mut(&(org.clone(), group.clone()));
        found.ok_or_else(|| StoreError::not_found("group", group))
    }
}

impl MemoryIdentityStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl IdentityStore for MemoryIdentityStore {
    async fn create_org(&self, org: &Org) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.orgs.values().any(|held| held.id == org.id || held.name == org.name) {
            return Err(StoreError::exists("organisation", &org.name));
        }
        state.orgs.insert(org.id.clone(), org.clone());
        Ok(())
    }

    async fn org(&self, id: &OrgId) -> Result<Option<Org>, StoreError> {
        Ok(self.state().orgs.get(id).cloned())
    }

    async fn orgs(&self) -> Result<Vec<Org>, StoreError> {
        let mut orgs: Vec<_> = self.state().orgs.values().cloned().collect();
        orgs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(orgs)
    }

    async fn delete_org(&self, org: &OrgId, _now: Timestamp) -> Result<(), StoreError> {
        if *org == OrgId::installation() {
            return Err(StoreError::Refused("the organisation of the installation's administrators stays".into()));
        }
        let mut state = self.state();
        state.org(org)?;
        state.orgs.remove(org);
        state.users.retain(|_, user| user.org != *org);
        state.groups.retain(|(of, _), _| of != org);
        state.credentials.retain(|_, (credential, _)| credential.org != *org);
        Ok(())
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let mut state = self.state();
        state.org(&user.org)?;
        let taken = |held: &User| held.id == user.id || (held.org == user.org && held.name == user.name);
        if state.users.values().any(taken) {
            return Err(StoreError::exists("user", &user.name));
        }
        state.users.insert(user.id.clone(), user.clone());
        Ok(())
    }

    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        Ok(self.state().users.get(id).cloned())
    }

    async fn user_named(&self, org: &OrgId, name: &UserName) -> Result<Option<User>, StoreError> {
        Ok(self.state().users.values().find(|held| held.org == *org && held.name == *name).cloned())
    }

    async fn users(&self, org: &OrgId) -> Result<Vec<User>, StoreError> {
        let mut users: Vec<_> = self.state().users.values().filter(|held| held.org == *org).cloned().collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(users)
    }

    async fn disable_user(&self, id: &UserId, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        state.user(id)?.disabled.get_or_insert(now);
        for (credential, session) in state.credentials.values_mut().filter(|(held, _)| held.user == *id) {
            session.active_until = session.active_until.min(now);
            debug_assert_eq!(session.credential, credential.id);
        }
        Ok(())
    }

    async fn enable_user(&self, id: &UserId) -> Result<(), StoreError> {
        self.state().user(id)?.disabled = None;
        Ok(())
    }

    async fn set_attributes(&self, id: &UserId, before: &Attributes, after: &Attributes) -> Result<bool, StoreError> {
        let mut state = self.state();
        let user = state.user(id)?;
        let is_so = user.attributes == *before;
        if is_so {
            user.attributes.clone_from(after);
        }
        Ok(is_so)
    }

    async fn create_group(&self, org: &OrgId, name: &GroupName) -> Result<(), StoreError> {
        let mut state = self.state();
        state.org(org)?;
        let key = (org.clone(), name.clone());
        if state.groups.contains_key(&key) {
            return Err(StoreError::exists("group", name));
        }
        state.groups.insert(key, BTreeSet::new());
        Ok(())
    }

    async fn groups(&self, org: &OrgId) -> Result<Vec<Group>, StoreError> {
        let state = self.state();
        let of_org = state.groups.iter().filter(|((owner, _), _)| owner == org);
        let group = |((org, name), members): (&(OrgId, GroupName), &BTreeSet<UserId>)| Group {
            org: org.clone(),
            name: name.clone(),
            members: members.iter().cloned().collect(),
        };
        Ok(of_org.map(group).collect())
    }

    async fn groups_of(&self, user: &UserId) -> Result<Vec<GroupName>, StoreError> {
        let state = self.state();
        let of_user = state.groups.iter().filter(|(_, members)| members.contains(user));
        Ok(of_user.map(|((_, name), _)| name.clone()).collect())
    }

    async fn add_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        self.state().members(org, group, user)?.insert(user.clone());
        Ok(())
    }

    async fn remove_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
        self.state().members(org, group, user)?.remove(user);
        Ok(())
    }

    async fn create_credential(&self, credential: &Credential, session: &LoginSession) -> Result<(), StoreError> {
        let mut state = self.state();
        let user = state.user(&credential.user)?;
        if user.org != credential.org {
            return Err(StoreError::not_found("user", &credential.user));
        }
        if user.disabled.is_some() {
            return Err(disabled(user));
        }
        let now = credential.renewed.unwrap_or(credential.created);
        let of_user = state.credentials.values().filter(|(held, _)| held.user == credential.user);
        if of_user.filter(|(held, _)| held.not_after > now).count() >= Directory::MOST_CREDENTIALS {
            return Err(too_many());
        }
        if state.credentials.contains_key(&credential.id) {
            return Err(StoreError::exists("credential", &credential.id));
        }
        state.credentials.insert(credential.id.clone(), (credential.clone(), session.clone()));
        Ok(())
    }

    async fn credential(&self, id: &CredentialId) -> Result<Option<(Credential, LoginSession)>, StoreError> {
        Ok(self.state().credentials.get(id).cloned())
    }

    async fn credentials(&self, user: &UserId) -> Result<Vec<Credential>, StoreError> {
        let state = self.state();
        let of_user = state.credentials.values().filter(|(held, _)| held.user == *user);
        let mut credentials: Vec<_> = of_user.map(|(held, _)| held.clone()).collect();
        credentials.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(credentials)
    }

    async fn limit_credentials(&self, org: &OrgId, longest: Option<SignedDuration>) -> Result<(), StoreError> {
        let mut state = self.state();
        let found = state.orgs.get_mut(org).ok_or_else(|| StoreError::not_found("organisation", org))?;
        found.longest_credential = longest;
        Ok(())
    }

    async fn renew_credential(
        &self,
        id: &CredentialId,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let held = state.credentials.get(id).ok_or_else(|| StoreError::not_found("credential", id))?;
        let owner = held.0.user.clone();
        let owner = state.user(&owner)?;
        if owner.disabled.is_some() {
            return Err(disabled(owner));
        }
        let held = state.credentials.get_mut(id).ok_or_else(|| StoreError::not_found("credential", id))?;
        if held.0.revoked.is_some() {
            return Err(revoked());
        }
        if held.1.active_until == held.0.not_after {
            held.1.active_until = not_after;
        }
        (held.0.not_after, held.0.renewed) = (not_after, Some(now));
        Ok(())
    }

    async fn note_uses(&self, uses: &[(CredentialId, Timestamp)]) -> Result<(), StoreError> {
        let mut state = self.state();
        for (id, at) in uses {
            if let Some((held, _)) = state.credentials.get_mut(id) {
                held.last_used = held.last_used.max(Some(*at));
            }
        }
        Ok(())
    }

    async fn revoke_credential(&self, id: &CredentialId, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        let held = state.credentials.get_mut(id).ok_or_else(|| StoreError::not_found("credential", id))?;
        held.0.revoked.get_or_insert(now);
        held.1.active_until = held.1.active_until.min(now);
        Ok(())
    }
}

fn revoked() -> StoreError {
    StoreError::Refused("the credential is revoked; get a new one".into())
}

fn too_many() -> StoreError {
    let most = Directory::MOST_CREDENTIALS;
    StoreError::Refused(format!(
        "the user has {most} credentials that are not over, and may not have more; ask for shorter ones, and wait until \
         some are over"
    ))
}

fn disabled(user: &User) -> StoreError {
    StoreError::Refused(format!("the user {:?} is disabled; enable the user first", user.name.as_str()))
}
