//! Clusters, their enrolment, and proxies on the wire.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{Cidr, ClusterId, ClusterName, InstanceId, KeyId, ProxyId, RoleName};

/// Asks for a new cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCluster {
    /// The name, unique in the organisation.
    pub name: ClusterName,
    /// What bindings may select it by; Kubernetes' rules for labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cluster {
    /// The immutable id.
    pub id: ClusterId,
    /// The name.
    pub name: ClusterName,
    /// What bindings may select it by.
    pub labels: BTreeMap<String, String>,
    /// The TLS server name under which its users reach it.
    pub server_name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The agents that have enrolled and whose certificates are valid.
    pub instances: Vec<Instance>,
}

/// An agent of a cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Instance {
    /// The immutable id.
    pub id: InstanceId,
    /// When its current certificate expires.
    pub not_after: Timestamp,
    /// When that was issued: its enrolment, or its last renewal.
    #[serde(default)]
    pub renewed: Option<Timestamp>,
    /// An alarm: it is not renewed, though it ought to be.
    #[serde(default)]
    pub overdue: bool,
}

/// Asks for a one-time enrolment token of a cluster, or for a join token of a new proxy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// How long the token may be used, in seconds; an hour by default, a week at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// From where it may be used, as in `10.0.0.0/8`; from anywhere if there is none, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Whether an administrator has to approve the key of the agent that comes with it; not for proxies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
}

/// A one-time token. It is shown once and kept as a hash.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct EnrolmentToken {
    /// Names it, in listings and in the audit log; not a secret.
    #[serde(default)]
    pub id: String,
    /// The token: a secret.
    pub token: String,
    /// Until when it may be used.
    pub expires: Timestamp,
    /// `host:port` of the place to enrol at.
    pub enrol_at: String,
    /// The proxy that it is for, if it is a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyId>,
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, expires, enrol_at, proxy, .. } = self;
        f.debug_struct("EnrolmentToken")
            .field("id", id)
            .field("expires", expires)
            .field("enrol_at", enrol_at)
            .field("proxy", proxy)
            .finish_non_exhaustive()
    }
}

/// An enrolment token of a cluster, without its secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Token {
    /// Names it.
    pub id: String,
    /// What has become of it.
    pub state: TokenState,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// From where it may be used; from anywhere if there is none.
    #[serde(default)]
    pub sources: Vec<Cidr>,
    /// Whether the first key has to be approved.
    #[serde(default)]
    pub approval: bool,
    /// The key that has come with it first: SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
    #[serde(default)]
    pub key: Option<KeyId>,
    /// The agent that has that key, or is to have it.
    #[serde(default)]
    pub instance: Option<InstanceId>,
}

/// What has become of a token.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// Nobody has come with it.
    Unused,
    /// Its key waits for approval.
    Waiting,
    /// Its key is approved, and has not asked again yet.
    Approved,
    /// Its key has been refused by an administrator.
    Refused,
    /// Its key has a certificate.
    Spent,
    /// It was revoked; a certificate that it has given stays good.
    Revoked,
    /// Its time was over before a certificate was given.
    Expired,
}

impl TokenState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Refused => "refused",
            Self::Spent => "spent",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// Asks for the YAML that starts the agent in a cluster; makes a token for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateManifest {
    /// Container image of the agent.
    pub image: String,
    /// Where the agent finds the apiserver; by default as every pod does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apiserver: Option<String>,
    /// Names that the pod resolves by itself, as `/etc/hosts` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_aliases: Vec<HostAlias>,
    /// How long the token in it may be used, in seconds; an hour by default, a week at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// From where the token may be used, as in `10.0.0.0/8`; from anywhere if there is none, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// Whether an administrator has to approve the key of the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// What the agent may do in its cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: AgentMode,
    /// How users come to the apiserver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accounts: AccountMode,
    /// Under a ceiling: the roles of policy that may do anything in the cluster, at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ceiling: Vec<RoleName>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How an agent comes by the permissions that it hands on to users.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// It may write any role: as powerful as cluster-admin.
    #[default]
    Dynamic,
    /// It may bind the ClusterRoles that its manifest brings, and write none.
    Ceiling,
}

/// How users come to the apiserver.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountMode {
    /// Each as a ServiceAccount with what policy gives them.
    #[default]
    ServiceAccount,
    /// Each in their own name, `ztka:<name>` with the groups `ztka:<group>`, with what the cluster's own RBAC gives those.
    Impersonate,
}

impl AgentMode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Ceiling => "ceiling",
        }
    }
}

impl AccountMode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account",
            Self::Impersonate => "impersonate",
        }
    }
}

/// An address and its names (`hostAliases` of a pod).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// The names.
    pub hostnames: Vec<String>,
}

/// A proxy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Proxy {
    /// The immutable id.
    pub id: ProxyId,
    /// When its join token was made.
    pub created: Timestamp,
    /// When its current certificate expires; none before it has joined.
    #[serde(default)]
    pub not_after: Option<Timestamp>,
    /// When that was issued: when it joined, or its last renewal.
    #[serde(default)]
    pub renewed: Option<Timestamp>,
    /// An alarm: it is not renewed, though it ought to be.
    #[serde(default)]
    pub overdue: bool,
}

/// How certificates are renewed, as the controller that answers sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The controller's own certificates.
    pub certificates: Vec<OwnCertificate>,
    /// Agents that are not renewed, though they ought to be; see the clusters for which.
    pub overdue_agents: u64,
    /// Proxies that are not renewed, though they ought to be.
    pub overdue_proxies: u64,
    /// An alarm: findings of the last day, of all organisations. In journals of proxies or agents records are missing or
    /// changed.
    #[serde(default)]
    pub findings: u64,
}

/// A certificate of a controller's listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OwnCertificate {
    /// `servers`, for the public names; `controller`, among proxies and controllers.
    pub name: String,
    /// When it was issued.
    pub renewed: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// An alarm: it is not renewed, though it ought to be.
    pub overdue: bool,
}
