//! Clusters, their enrolment, and proxies on the wire.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{ClusterId, ClusterName, InstanceId, ProxyId};

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
}

/// Asks for a one-time enrolment token of a cluster, or for a join token of a new proxy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// How long the token may be used, in seconds; an hour by default, a week at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// A one-time token. It is shown once and kept as a hash.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct EnrolmentToken {
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
        let Self { expires, enrol_at, proxy, .. } = self;
        f.debug_struct("EnrolmentToken")
            .field("expires", expires)
            .field("enrol_at", enrol_at)
            .field("proxy", proxy)
            .finish_non_exhaustive()
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
}
