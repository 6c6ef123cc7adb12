//! The certificate authorities as stored: certificates and names of keys, nothing secret.

use async_trait::async_trait;
use ztka_core::OrgId;
use ztka_pki::{HierarchyState, OrgState};

use super::StoreError;

/// Keeps what has to be known to open a [`Hierarchy`](ztka_pki::Hierarchy) again. Each method is one transaction.
#[async_trait]
pub trait AuthorityStore: Send + Sync + std::fmt::Debug + 'static {
    /// Root and purpose intermediates; `None` before the first start.
    async fn hierarchy(&self) -> Result<Option<HierarchyState>, StoreError>;

    /// Keeps them, once: [`StoreError::Exists`] if there are some. Raises the version of the `trust` document.
    async fn create_hierarchy(&self, state: &HierarchyState) -> Result<(), StoreError>;

    /// Replaces them, if the ones kept are of the generation before, and the intermediates of `org` with them, if it is
    /// given; `false`, and nothing has changed, if they are not. Raises the version of the `trust` document.
    async fn replace_hierarchy(&self, next: &HierarchyState, org: Option<&OrgState>) -> Result<bool, StoreError>;

    /// The intermediates of an organisation.
    async fn org_authority(&self, org: &OrgId) -> Result<Option<OrgState>, StoreError>;

    /// The intermediates of every organisation.
    async fn org_authorities(&self) -> Result<Vec<OrgState>, StoreError>;

    /// Keeps the intermediates of an organisation, unless there are some; returns those kept.
    async fn create_org_authority(&self, state: &OrgState) -> Result<OrgState, StoreError>;

    /// Replaces the intermediates of an organisation, if `before` is kept; `false`, and nothing has changed, if it is not.
    async fn exchange_org_authority(&self, before: &OrgState, after: &OrgState) -> Result<bool, StoreError>;
}
