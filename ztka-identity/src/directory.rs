//! The rules about who may exist, act and be given a credential.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ztka_core::{Clock, CredentialId, GroupName, OrgId, OrgName, UserId, UserName};

use crate::{AdminRole, Credential, IdentityStore, LoginSession, Org, StoreError, User};

/// A certificate is issued with this much life at least, so that it is worth carrying.
const SHORTEST: SignedDuration = SignedDuration::from_secs(30);
/// And with this much at most: 366 days.
const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

/// An active user with an active session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The user.
    pub user: User,
    /// The credential in use.
    pub credential: Credential,
    /// Until when the session lasts.
    pub active_until: Timestamp,
}

impl Caller {
    /// May administer organisation `org`.
    pub fn administers(&self, org: &OrgId) -> bool {
        match self.user.admin {
            Some(AdminRole::SystemAdmin) => self.user.org == OrgId::installation(),
            Some(AdminRole::OrgAdmin) => self.user.org == *org,
            None => false,
        }
    }

    /// May administer the installation.
    pub fn is_system_admin(&self) -> bool {
        self.user.admin == Some(AdminRole::SystemAdmin) && self.user.org == OrgId::installation()
    }
}

/// Why somebody whose certificate is good may do nothing. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NotActive {
    /// No such user or credential, or they do not belong together.
    #[error("this credential is not known here; ask your administrator for a new one")]
    Unknown,
    /// The user is disabled.
    #[error("this user is disabled; ask your administrator")]
    Disabled,
    /// The credential is revoked.
    #[error("this credential is revoked; get a new one with `ztka kubeconfig`")]
    Revoked,
    /// The certificate or the login session is over.
    #[error("the session is over; log in again, or get a new credential with `ztka kubeconfig`")]
    Ended,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The rules over a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    store: Arc<dyn IdentityStore>,
    clock: Arc<dyn Clock>,
}

impl Directory {
    /// Keeps everything in `store`.
    pub fn new(store: Arc<dyn IdentityStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// What keeps everything, for questions that need no rule.
    pub fn store(&self) -> &dyn IdentityStore {
        self.store.as_ref()
    }

    /// Makes an organisation.
    ///
    /// # Errors
    /// [`StoreError::Exists`]
    pub async fn create_org(&self, name: OrgName) -> Result<Org, StoreError> {
        if name.as_str() == OrgId::installation().as_str() {
            return Err(StoreError::exists("organisation", name));
        }
        let org = Org { id: OrgId::generate(), name, created: self.clock.now() };
        self.store.create_org(&org).await?;
        Ok(org)
    }

    /// Makes the installation's own organisation, once.
    ///
    /// # Errors
    /// [`StoreError::Exists`] the second time.
    pub async fn create_installation(&self) -> Result<Org, StoreError> {
        let id = OrgId::installation();
        let name = id.as_str().parse().map_err(|error| StoreError::Refused(format!("{error}")))?;
        let org = Org { id, name, created: self.clock.now() };
        self.store.create_org(&org).await?;
        Ok(org)
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`StoreError::Exists`] for a name that is taken, [`StoreError::NotFound`] without such an organisation,
    /// [`StoreError::Refused`] for a role that users of this organisation cannot hold.
    pub async fn create_user(&self, org: &OrgId, name: UserName, admin: Option<AdminRole>) -> Result<User, StoreError> {
        let own = *org == OrgId::installation();
        let fits = match admin {
            Some(AdminRole::SystemAdmin) => own,
            Some(AdminRole::OrgAdmin) | None => !own,
        };
        if !fits {
            let message = "users of the organisation \"installation\" are system-admins, and no other user is one";
            return Err(StoreError::Refused(message.into()));
        }
        let (id, created) = (UserId::generate(), self.clock.now());
        let user = User { id, org: org.clone(), name, admin, disabled: None, created };
        self.store.create_user(&user).await?;
        Ok(user)
    }

    /// Disables a user and ends all of their sessions.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn disable(&self, user: &UserId) -> Result<(), StoreError> {
        self.store.disable_user(user, self.clock.now()).await
    }

    /// Enables a user again; they need a new login or credential.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn enable(&self, user: &UserId) -> Result<(), StoreError> {
        self.store.enable_user(user).await
    }

    /// Records a credential of `user` that lives for `life`, with a session of the same length.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] for a disabled user or a life that is out of bounds.
    pub async fn issue_credential(&self, user: &UserId, life: SignedDuration) -> Result<Credential, StoreError> {
        if !(SHORTEST..=LONGEST).contains(&life) {
            return Err(StoreError::Refused("a credential lives between 30 seconds and 366 days".into()));
        }
        let user = self.store.user(user).await?.ok_or_else(|| StoreError::not_found("user", user))?;
        let created = self.clock.now();
        let not_after = created.checked_add(life).map_err(StoreError::unavailable)?;
        let credential = Credential {
            id: CredentialId::generate(),
            org: user.org,
            user: user.id,
            created,
            not_after,
            revoked: None,
        };
        let session = LoginSession { credential: credential.id.clone(), active_until: not_after };
        self.store.create_credential(&credential, &session).await?;
        Ok(credential)
    }

    /// Revokes a credential and ends its session.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn revoke(&self, credential: &CredentialId) -> Result<(), StoreError> {
        self.store.revoke_credential(credential, self.clock.now()).await
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`StoreError::Exists`]
    pub async fn create_group(&self, org: &OrgId, name: &GroupName) -> Result<(), StoreError> {
        self.store.create_group(org, name).await
    }

    /// The user behind a verified certificate, if they may act now.
    ///
    /// # Errors
    /// The first reason why they may not.
    pub async fn whoami(&self, user: &UserId, credential: &CredentialId) -> Result<Caller, NotActive> {
        let found = self.store.user(user).await?;
        let user = found.ok_or(NotActive::Unknown)?;
        let found = self.store.credential(credential).await?;
        let (credential, session) = found.ok_or(NotActive::Unknown)?;
        if credential.user != user.id || credential.org != user.org {
            return Err(NotActive::Unknown);
        }
        if user.disabled.is_some() {
            return Err(NotActive::Disabled);
        }
        if credential.revoked.is_some() {
            return Err(NotActive::Revoked);
        }
        let active_until = session.active_until.min(credential.not_after);
        if active_until <= self.clock.now() {
            return Err(NotActive::Ended);
        }
        Ok(Caller { user, credential, active_until })
    }
}

#[cfg(test)]
mod tests;
