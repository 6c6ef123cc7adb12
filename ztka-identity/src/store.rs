//! What keeps organisations, users, groups, credentials and sessions.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_core::{Attributes, CredentialId, GroupName, OrgId, UserId, UserName};

use crate::{Credential, Group, LoginSession, Org, StoreError, User};

/// Keeps what the [`Directory`](crate::Directory) decides.
///
/// Each method is one transaction: a future that is dropped has changed all or nothing. A name that is taken is
/// [`StoreError::Exists`], a missing user or group [`StoreError::NotFound`], also when two callers race. A store that feeds proxies and
/// agents raises, in the same transaction, the version of every session document that a change touches.
/// `conformance::identity` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait IdentityStore: Send + Sync + std::fmt::Debug + 'static {
    /// Adds an organisation; name and id are unique.
    async fn create_org(&self, org: &Org) -> Result<(), StoreError>;

    /// The organisation of this id.
    async fn org(&self, id: &OrgId) -> Result<Option<Org>, StoreError>;

    /// Every organisation, by name.
    async fn orgs(&self) -> Result<Vec<Org>, StoreError>;

    /// Limits how long the organisation's credentials may last; `None` goes back to the limit that all have.
    async fn limit_credentials(&self, org: &OrgId, longest: Option<SignedDuration>) -> Result<(), StoreError>;

    /// Deletes an organisation: from then on it is as if it were not there, nobody of it is let in, and its name is free; what
    /// it has is removed afterwards. The id is never used again. [`StoreError::Refused`] for that of the installation's own
    /// administrators.
    async fn delete_org(&self, org: &OrgId, now: Timestamp) -> Result<(), StoreError>;

    /// Adds a user; the name is unique in the organisation, which has to exist.
    async fn create_user(&self, user: &User) -> Result<(), StoreError>;

    /// The user of this id.
    async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError>;

    /// The user of this name.
    async fn user_named(&self, org: &OrgId, name: &UserName) -> Result<Option<User>, StoreError>;

    /// The users of an organisation, by name.
    async fn users(&self, org: &OrgId) -> Result<Vec<User>, StoreError>;

    /// Disables the user at `now` and ends each of their sessions that would last longer, all at once. A user who is
    /// disabled already stays so since then.
    async fn disable_user(&self, id: &UserId, now: Timestamp) -> Result<(), StoreError>;

    /// Enables the user again. Sessions that were ended stay ended.
    async fn enable_user(&self, id: &UserId) -> Result<(), StoreError>;

    /// Puts `after` in place of the user's attributes, if these are `before` at that moment; `Ok(false)` if they are others by
    /// then, and nothing has changed.
    async fn set_attributes(&self, id: &UserId, before: &Attributes, after: &Attributes) -> Result<bool, StoreError>;

    /// Adds an empty group; the name is unique in the organisation.
    async fn create_group(&self, org: &OrgId, name: &GroupName) -> Result<(), StoreError>;

    /// The groups of an organisation with their members, by name.
    async fn groups(&self, org: &OrgId) -> Result<Vec<Group>, StoreError>;

    /// The names of the groups that a user is a member of, sorted.
    async fn groups_of(&self, user: &UserId) -> Result<Vec<GroupName>, StoreError>;

    /// Makes a user of the same organisation a member; a member stays one.
    async fn add_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError>;

    /// Ends a membership, which need not exist; the group and the user have to.
    async fn remove_member(&self, org: &OrgId, group: &GroupName, user: &UserId) -> Result<(), StoreError>;

    /// Adds a credential with its session. [`StoreError::Refused`] if the user is disabled at that moment, or has
    /// [`Directory::MOST_CREDENTIALS`](crate::Directory::MOST_CREDENTIALS) whose certificates are not over.
    async fn create_credential(&self, credential: &Credential, session: &LoginSession) -> Result<(), StoreError>;

    /// The credential of this id and its session.
    async fn credential(&self, id: &CredentialId) -> Result<Option<(Credential, LoginSession)>, StoreError>;

    /// The credentials of a user, newest first.
    async fn credentials(&self, user: &UserId) -> Result<Vec<Credential>, StoreError>;

    /// Notes that the certificate of a credential was renewed at `now`, and lasts until `not_after`. A session that
    /// would have lasted to the end of the certificate before lasts to the end of the new one; any other stays.
    /// [`StoreError::Refused`] if it is revoked, or the user is disabled, at that moment.
    async fn renew_credential(&self, id: &CredentialId, now: Timestamp, not_after: Timestamp)
    -> Result<(), StoreError>;

    /// Notes when credentials were used; an earlier time than is noted changes nothing, nor does an id that is unknown.
    /// Says nothing new to proxies and agents: no version is raised.
    async fn note_uses(&self, uses: &[(CredentialId, Timestamp)]) -> Result<(), StoreError>;

    /// Revokes the credential at `now` and ends its session. One that is revoked already stays so since then.
    async fn revoke_credential(&self, id: &CredentialId, now: Timestamp) -> Result<(), StoreError>;
}
