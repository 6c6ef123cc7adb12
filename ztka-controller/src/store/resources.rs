//! Clusters with their agents, proxies, roles and bindings.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_authz::{Binding, Role};
use ztka_core::{BindingName, ClusterId, ClusterName, InstanceId, OrgId, ProxyId, RoleName};

use super::StoreError;

/// A cluster of an organisation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// The immutable id, which certificates carry.
    pub id: ClusterId,
    /// The owner.
    pub org: OrgId,
    /// The name, unique in the organisation.
    pub name: ClusterName,
    /// What bindings may select it by.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
}

/// An agent that has enrolled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// The immutable id, which certificates carry.
    pub id: InstanceId,
    /// Owner of the cluster.
    pub org: OrgId,
    /// The cluster.
    pub cluster: ClusterId,
    /// When its newest certificate expires.
    pub not_after: Timestamp,
    /// When that was issued: its enrolment, or its last renewal. None of certificates from before this was noted.
    pub renewed: Option<Timestamp>,
}

/// A proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// The immutable id, which certificates carry.
    pub id: ProxyId,
    /// When it was made.
    pub created: Timestamp,
    /// When its newest certificate expires; none before it has joined.
    pub not_after: Option<Timestamp>,
    /// When that was issued: when it has joined, or its last renewal.
    pub renewed: Option<Timestamp>,
}

/// Members whose certificates are not renewed, though they ought to be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Overdue {
    /// Agents of clusters that are not deleted; one that is gone for good is among them until its certificate ends.
    pub agents: u64,
    /// Proxies.
    pub proxies: u64,
}

/// What roles, bindings and clusters of an organisation take at most, in characters of their JSON: 11 MiB. Signed and
/// encoded that is what agents and proxies take of one document.
pub const LARGEST_POLICY: usize = 11 << 20;

/// Keeps clusters, agents, proxies, roles and bindings.
///
/// What would make the policy of an organisation larger than [`LARGEST_POLICY`] is [`StoreError::Refused`].
///
/// Each method is one transaction: a future that is dropped has changed all or nothing. A change of clusters, roles or
/// bindings raises the version of the organisation's policy in the same transaction. `conformance::resources` (feature
/// `conformance`) says all of this as tests.
#[async_trait]
pub trait ResourceStore: Send + Sync + std::fmt::Debug + 'static {
    /// Adds a cluster; the name is unique among the clusters that the organisation has.
    async fn create_cluster(&self, cluster: &Cluster) -> Result<(), StoreError>;

    /// The cluster of this id, unless it is deleted.
    async fn cluster(&self, id: &ClusterId) -> Result<Option<Cluster>, StoreError>;

    /// The clusters of an organisation, by name.
    async fn clusters(&self, org: &OrgId) -> Result<Vec<Cluster>, StoreError>;

    /// Deletes a cluster of `org` and revokes its agents. The name is free again; the id never is.
    async fn delete_cluster(&self, org: &OrgId, id: &ClusterId, now: Timestamp) -> Result<(), StoreError>;

    /// Adds an agent, or notes that it has a newer certificate. [`StoreError::NotFound`] once the cluster is deleted.
    async fn record_instance(&self, instance: &Instance) -> Result<(), StoreError>;

    /// The agent of this id, whether or not its certificate is over.
    async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// The agents of a cluster whose certificates are valid at `now`, oldest first.
    async fn instances(&self, cluster: &ClusterId, now: Timestamp) -> Result<Vec<Instance>, StoreError>;

    /// Adds a proxy.
    async fn create_proxy(&self, proxy: &Proxy) -> Result<(), StoreError>;

    /// Notes from when and until when a proxy's certificate is valid.
    async fn record_proxy(&self, id: &ProxyId, renewed: Timestamp, not_after: Timestamp) -> Result<(), StoreError>;

    /// How many agents and proxies have a certificate that is valid at `now` and ought to have been renewed: seven ninths
    /// of its life are over.
    async fn overdue(&self, now: Timestamp) -> Result<Overdue, StoreError>;

    /// Every proxy, oldest first.
    async fn proxies(&self) -> Result<Vec<Proxy>, StoreError>;

    /// Adds a role; the name is unique in the organisation.
    async fn create_role(&self, org: &OrgId, name: &RoleName, role: &Role) -> Result<(), StoreError>;

    /// The roles of an organisation, by name; built-in ones are not stored.
    async fn roles(&self, org: &OrgId) -> Result<Vec<Role>, StoreError>;

    /// Deletes a role. [`StoreError::Refused`] while a binding gives it.
    async fn delete_role(&self, org: &OrgId, name: &RoleName) -> Result<(), StoreError>;

    /// Adds a binding; the name is unique in the organisation. [`StoreError::NotFound`] if `stored_role` is given and
    /// the organisation has no such role at that moment.
    async fn create_binding(
        &self,
        org: &OrgId,
        name: &BindingName,
        binding: &Binding,
        stored_role: Option<&RoleName>,
    ) -> Result<(), StoreError>;

    /// The bindings of an organisation, by name.
    async fn bindings(&self, org: &OrgId) -> Result<Vec<Binding>, StoreError>;

    /// Deletes a binding.
    async fn delete_binding(&self, org: &OrgId, name: &BindingName) -> Result<(), StoreError>;
}
