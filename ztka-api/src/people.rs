//! Organisations, users, groups and credentials on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{Attributes, ClusterId, ClusterName, CredentialId, GroupName, OrgId, OrgName, UserId, UserName};

/// Asks for a new organisation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOrg {
    /// Its name, unique in the installation.
    pub name: OrgName,
}

/// An organisation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Org {
    /// The immutable id.
    pub id: OrgId,
    /// The name.
    pub name: OrgName,
    /// When it was made.
    pub created: Timestamp,
    /// How long its credentials may last, in seconds, renewals included; 366 days if it does not say.
    #[serde(default)]
    pub longest_credential_seconds: Option<u32>,
}

/// What an organisation is to be like.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateOrg {
    /// How long its credentials may last, in seconds, renewals included: 30 s to 366 days, which is the limit without one.
    /// Credentials that there are keep the end that they have.
    pub longest_credential_seconds: Option<u32>,
}

/// An organisation that was deleted: it is cut off at once, and what it has is removed afterwards.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Deletion {
    /// Its id; its name is free, and not kept.
    pub org: OrgId,
    /// When it was cut off.
    pub since: Timestamp,
    /// When everything of it was gone; none until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// How many rows of the database are gone so far.
    pub removed: u64,
    /// Why the removal could not go on the last time, if it could not; it is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a user may administer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminRole {
    /// The installation.
    SystemAdmin,
    /// The own organisation.
    OrgAdmin,
}

/// Asks for a new user.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The name, unique in the organisation.
    pub name: UserName,
    /// What the user may administer; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminRole>,
}

/// What is to change in a user.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateUser {
    /// Attributes by their keys, each with its new value, or without one to remove it; what is not named stays (RFC 7396).
    #[serde(default)]
    pub attributes: BTreeMap<String, Option<String>>,
}

/// A user.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct User {
    /// The immutable id.
    pub id: UserId,
    /// The organisation.
    pub org: OrgId,
    /// The name.
    pub name: UserName,
    /// What the user may administer.
    #[serde(default)]
    pub admin: Option<AdminRole>,
    /// The groups that the user is a member of.
    pub groups: Vec<GroupName>,
    /// What else policy may go by, `team: shop`.
    #[serde(default)]
    pub attributes: Attributes,
    /// Since when the user is disabled.
    #[serde(default)]
    pub disabled: Option<Timestamp>,
    /// When the user was made.
    pub created: Timestamp,
}

/// The caller.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WhoAmI {
    /// The user.
    pub user: User,
    /// The user's organisation.
    pub org: Org,
    /// The credential in use.
    pub credential: CredentialId,
    /// End of the session.
    pub active_until: Timestamp,
}

/// Asks for a new, empty group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// The name, unique in the organisation.
    pub name: GroupName,
}

/// A group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Group {
    /// The name.
    pub name: GroupName,
    /// Its members, by name.
    pub members: Vec<Member>,
}

/// A member of a group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Member {
    /// The user's id.
    pub id: UserId,
    /// The user's name.
    pub name: UserName,
}

/// Asks for a certificate over a key that the caller has made and keeps.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCredential {
    /// A certificate signing request (PKCS #10, PEM). Only its key and the proof of possession count.
    pub csr: String,
    /// How long the certificate is to live, in seconds; by default 30 days, or what the organisation allows if that is
    /// less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_seconds: Option<u32>,
}

/// Asks for a kubeconfig to download, with a key that the controller makes, hands out and forgets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKubeconfig {
    /// As in [`CreateCredential`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_seconds: Option<u32>,
}

/// Asks for a new certificate of the credential that the connection was made with, over a new key. It lives as long as the
/// one before, within what the organisation allows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewCredential {
    /// A certificate signing request (PKCS #10, PEM). Only its key and the proof of possession count.
    pub csr: String,
}

/// A credential, without its certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Credential {
    /// The immutable id.
    pub id: CredentialId,
    /// Whose it is.
    pub user: UserId,
    /// When it was issued; of one that its user has made with another one, when that was: limits count from there.
    pub created: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// When its certificate was issued, if that is not the first since then.
    #[serde(default)]
    pub renewed: Option<Timestamp>,
    /// When it was used last, as far as proxies have reported; some seconds behind.
    #[serde(default)]
    pub last_used: Option<Timestamp>,
    /// Since when it is revoked.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
}

/// A new credential: all that a kubeconfig needs beside the key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IssuedCredential {
    /// What it is.
    pub credential: Credential,
    /// The certificate and its intermediates (PEM, leaf first).
    pub chain: String,
    /// What it gives access to.
    pub access: Access,
}

/// How a user reaches the clusters that they may see.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Access {
    /// The user's organisation.
    pub org: OrgName,
    /// The user.
    pub user: UserName,
    /// `host:port` that kubectl dials.
    pub front: String,
    /// What the servers' certificates are verified by (PEM).
    pub ca_bundle: String,
    /// The clusters, by name.
    pub clusters: Vec<ReachableCluster>,
}

/// A cluster as its users see it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReachableCluster {
    /// The immutable id; the path form is `/clusters/<id>`.
    pub id: ClusterId,
    /// The name.
    pub name: ClusterName,
    /// The `tls-server-name` of a context.
    pub server_name: String,
}
