//! The rules about who may exist, act and be given a credential.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ztka_core::{Attributes, Clock, CredentialId, GroupName, OrgId, OrgName, UserId, UserName};

use crate::{AdminRole, Credential, IdentityStore, LoginSession, Org, StoreError, User};

/// Life of a credential that was not asked for otherwise, if the organisation allows as much: 30 days.
const USUAL: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A certificate is issued with this much life at least, so that it is worth carrying.
const SHORTEST: SignedDuration = SignedDuration::from_secs(30);

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
    /// A user has so many credentials at most that are not over, revoked ones included: each is a document that every
    /// proxy holds.
    pub const MOST_CREDENTIALS: usize = 1000;

    /// No credential lasts longer, renewals included: 366 days.
    pub const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

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
        let org = Org { id: OrgId::generate(), name, created: self.clock.now(), longest_credential: None };
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
        let org = Org { id, name, created: self.clock.now(), longest_credential: None };
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
        let user = User { id, org: org.clone(), name, admin, attributes: Attributes::new(), disabled: None, created };
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

    /// How many attributes a user has at most, and how many bytes their keys and values take together: they are in every
    /// session document of the user's, and on record with every request.
    pub const MOST_ATTRIBUTES: (usize, usize) = (32, 4096);

    /// Puts `after` in place of a user's attributes, if they are `before` at that moment; `Ok(false)` if they are others by then,
    /// and nothing has changed. Every session of the user says so from then on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] for more than [`Self::MOST_ATTRIBUTES`].
    pub async fn describe(&self, user: &UserId, before: &Attributes, after: &Attributes) -> Result<bool, StoreError> {
        let (most, largest) = Self::MOST_ATTRIBUTES;
        let bytes = after.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if after.len() > most || bytes > largest {
            let message =
                format!("a user has {most} attributes at most, of {largest} bytes together; remove some first");
            return Err(StoreError::Refused(message));
        }
        self.store.set_attributes(user, before, after).await
    }

    /// Enables a user again; they need a new login or credential.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn enable(&self, user: &UserId) -> Result<(), StoreError> {
        self.store.enable_user(user).await
    }

    /// Limits how long credentials of an organisation may last, renewals included; those that there are keep the end
    /// that they have. `None` goes back to [`Self::LONGEST`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] for a limit that is out of bounds.
    pub async fn limit_credentials(&self, org: &OrgId, longest: Option<SignedDuration>) -> Result<(), StoreError> {
        if longest.is_some_and(|longest| !(SHORTEST..=Self::LONGEST).contains(&longest)) {
            return Err(StoreError::Refused("the limit is between 30 seconds and 366 days".into()));
        }
        self.store.limit_credentials(org, longest).await
    }

    /// How long credentials of an organisation may last.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    async fn longest(&self, org: &OrgId) -> Result<SignedDuration, StoreError> {
        let found = self.store.org(org).await?.ok_or_else(|| StoreError::not_found("organisation", org))?;
        Ok(found.longest_credential.unwrap_or(Self::LONGEST).min(Self::LONGEST))
    }

    /// How long a credential of this organisation lasts if nobody says otherwise: 30 days, or less if that is the limit.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]
    pub async fn usual_life(&self, org: &OrgId) -> Result<SignedDuration, StoreError> {
        Ok(self.longest(org).await?.min(USUAL))
    }

    /// Records a credential of `user` that lives for `life`, with a session of the same length.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] for a disabled user or a life that is out of bounds.
    pub async fn issue_credential(&self, user: &UserId, life: SignedDuration) -> Result<Credential, StoreError> {
        self.record_credential(user, life, None).await
    }

    /// Records a further credential of the user of `by`, who asks for it with that one alone. It renews itself for as
    /// long as that one could: whoever has copied a credential gains no time by making others with it.
    ///
    /// # Errors
    /// As [`Self::issue_credential`].
    pub async fn issue_credential_by(&self, by: &Credential, life: SignedDuration) -> Result<Credential, StoreError> {
        self.record_credential(&by.user, life, Some(by.created)).await
    }

    async fn record_credential(
        &self,
        user: &UserId,
        life: SignedDuration,
        since: Option<Timestamp>,
    ) -> Result<Credential, StoreError> {
        if !(SHORTEST..=Self::LONGEST).contains(&life) {
            return Err(StoreError::Refused("a credential lives between 30 seconds and 366 days".into()));
        }
        let user = self.store.user(user).await?.ok_or_else(|| StoreError::not_found("user", user))?;
        let longest = self.longest(&user.org).await?;
        if life > longest {
            let message = format!("credentials of this organisation last for {longest:#} at most; ask for less");
            return Err(StoreError::Refused(message));
        }
        let now = self.clock.now();
        let not_after = now.checked_add(life).map_err(StoreError::unavailable)?;
        let credential = Credential {
            id: CredentialId::generate(),
            org: user.org,
            user: user.id,
            created: since.unwrap_or(now),
            not_after,
            renewed: since.map(|_| now),
            last_used: None,
            revoked: None,
        };
        let session = LoginSession { credential: credential.id.clone(), active_until: not_after };
        self.store.create_credential(&credential, &session).await?;
        Ok(credential)
    }

    /// How long the next certificate of a credential may live: as long as the one before, but not beyond the
    /// organisation's limit, counted from when the credential was made. So a copy of it that nobody knows of is not
    /// renewed for ever.
    ///
    /// # Errors
    /// [`StoreError::Refused`] once the limit is reached, and for a credential that is revoked or over.
    pub async fn renewed_life(&self, credential: &Credential) -> Result<SignedDuration, StoreError> {
        let now = self.clock.now();
        if credential.revoked.is_some() || credential.not_after <= now {
            return Err(StoreError::Refused("the credential is revoked or over; get a new one".into()));
        }
        let before = credential.not_after.duration_since(credential.renewed.unwrap_or(credential.created));
        let longest = self.longest(&credential.org).await?;
        let end = credential.created.checked_add(longest).map_err(StoreError::unavailable)?;
        let life = before.min(end.duration_since(now));
        // The end of a certificate has whole seconds.
        let is_at_the_limit = end.duration_since(credential.not_after) < SignedDuration::from_secs(1);
        if life < SHORTEST || is_at_the_limit {
            let message = format!(
                "the credential was made {} and cannot be renewed beyond {end}, the organisation's limit; ask your \
                 administrator for a new one",
                credential.created
            );
            return Err(StoreError::Refused(message));
        }
        Ok(life)
    }

    /// Notes that a credential has a new certificate, until `not_after`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Refused`] if it is revoked or its user disabled by now.
    pub async fn renew(&self, credential: &CredentialId, not_after: Timestamp) -> Result<(), StoreError> {
        self.store.renew_credential(credential, self.clock.now(), not_after).await
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
