//! Organisations, users, groups, credentials and login sessions as they are stored.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use ztka_core::{Attributes, CredentialId, GroupName, OrgId, OrgName, UserId, UserName};

/// An organisation: owner of users and clusters, and the border that nothing crosses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Org {
    /// Its immutable id.
    pub id: OrgId,
    /// Its name, unique in the installation.
    pub name: OrgName,
    /// When it was made.
    pub created: Timestamp,
    /// How long its users' credentials may be made to last, renewals included; whole seconds, and
    /// [`Directory::LONGEST`](crate::Directory::LONGEST) if it does not say.
    pub longest_credential: Option<SignedDuration>,
}

/// What a user may administer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminRole {
    /// Everything, organisations and proxies included. Users of [`OrgId::installation`] only.
    SystemAdmin,
    /// Users, clusters and policy of the own organisation.
    OrgAdmin,
}

/// A user of one organisation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The immutable id, which certificates carry.
    pub id: UserId,
    /// The organisation.
    pub org: OrgId,
    /// What policy, audit and Kubernetes call the user; unique in the organisation.
    pub name: UserName,
    /// What the user may administer.
    pub admin: Option<AdminRole>,
    /// What else is known of the user, for policy to look at.
    pub attributes: Attributes,
    /// Since when the user may do nothing.
    pub disabled: Option<Timestamp>,
    /// When the user was made.
    pub created: Timestamp,
}

/// A named set of users of one organisation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// The organisation.
    pub org: OrgId,
    /// The name, unique in the organisation.
    pub name: GroupName,
    /// The members, sorted by id.
    pub members: Vec<UserId>,
}

/// The certificate in one kubeconfig.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// The immutable id, which the certificate carries.
    pub id: CredentialId,
    /// The user's organisation.
    pub org: OrgId,
    /// Whose it is.
    pub user: UserId,
    /// When it was issued; of one that its user has made with another one, when that was: limits count from there.
    pub created: Timestamp,
    /// When its certificate expires.
    pub not_after: Timestamp,
    /// When its certificate was issued, if that is not the first since then.
    pub renewed: Option<Timestamp>,
    /// When it was used last, as far as has been reported; see [`IdentityStore::note_uses`](crate::IdentityStore::note_uses).
    pub last_used: Option<Timestamp>,
    /// Since when it is no longer believed.
    pub revoked: Option<Timestamp>,
}

/// Until when the user behind a credential may act without logging in again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginSession {
    /// The credential.
    pub credential: CredentialId,
    /// End of the session; in the past if it is over.
    pub active_until: Timestamp,
}
