//! Lists in pages, for whoever asks over the API: organisations may have thousands of each.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_authz::{Binding, Role};
use ztka_core::{OrgId, UserId};
use ztka_identity::{Credential, Group, Org, User};

use super::{Cluster, Deletion, Page, Paged, Proxy, Revocation, StoreError};

/// Lists, a page at a time, each in an order of its own that no change of an item alters.
///
/// A page goes on after a key and not after a number of items, so who goes through all pages sees everything exactly once
/// that was there all the time, whatever comes and goes meanwhile. A key that is none of the list's is
/// [`StoreError::Refused`]. Of an organisation that there is not every list is empty. `conformance::pages` (feature
/// `conformance`) says all of this as tests.
#[async_trait]
pub trait PageStore: Send + Sync + std::fmt::Debug + 'static {
    /// Organisations, by name.
    async fn orgs_page(&self, page: &Page) -> Result<Paged<Org>, StoreError>;

    /// Users of an organisation, by id: a store need not know their names.
    async fn users_page(&self, org: &OrgId, page: &Page) -> Result<Paged<User>, StoreError>;

    /// Groups of an organisation with all their members, by name.
    async fn groups_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Group>, StoreError>;

    /// Credentials of a user, newest first.
    async fn credentials_page(&self, user: &UserId, page: &Page) -> Result<Paged<Credential>, StoreError>;

    /// Clusters of an organisation that are not deleted, by name.
    async fn clusters_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Cluster>, StoreError>;

    /// Roles of an organisation, by name.
    async fn roles_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Role>, StoreError>;

    /// Bindings of an organisation, by name.
    async fn bindings_page(&self, org: &OrgId, page: &Page) -> Result<Paged<Binding>, StoreError>;

    /// Proxies, oldest first.
    async fn proxies_page(&self, page: &Page) -> Result<Paged<Proxy>, StoreError>;

    /// What is revoked by name at `now`, of an organisation or (`None`) of the installation; oldest first.
    async fn revocations_page(
        &self,
        org: Option<&OrgId>,
        now: Timestamp,
        page: &Page,
    ) -> Result<Paged<Revocation>, StoreError>;

    /// Organisations that were deleted, or are being, newest first.
    async fn deletions_page(&self, page: &Page) -> Result<Paged<Deletion>, StoreError>;
}
