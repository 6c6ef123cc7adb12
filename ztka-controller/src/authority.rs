//! The certificate authorities, opened from the store or made for the first time.

use std::sync::Arc;

use async_trait::async_trait;
use ztka_core::{BoxError, Clock, OrgId};
use ztka_identity::StoreError;
use ztka_pki::{
    AuthorityStates, Hierarchy, HierarchyState, IssuanceRecord, IssueError, IssuedRecord, Lifetimes, Names, OrgState,
    OrgStates,
};

use crate::{
    controller::OpenError,
    store::{AuthorityStore, RevocationStore, Stores},
};

#[derive(Clone, Debug)]
pub(crate) struct Authorities {
    hierarchy: Arc<Hierarchy>,
    store: Arc<dyn AuthorityStore>,
}

/// What is stored, as the hierarchy asks for it.
#[derive(Debug)]
pub(crate) struct Stored(pub(crate) Arc<dyn AuthorityStore>);

#[async_trait]
impl OrgStates for Stored {
    async fn org_state(&self, org: &OrgId) -> Result<Option<OrgState>, BoxError> {
        Ok(self.0.org_authority(org).await?)
    }

    async fn recertified(&self, before: &OrgState, after: &OrgState) -> Result<(), BoxError> {
        // Who was first has signed by the same key.
        self.0.exchange_org_authority(before, after).await?;
        Ok(())
    }
}

#[async_trait]
impl AuthorityStates for Stored {
    async fn hierarchy_state(&self) -> Result<Option<HierarchyState>, BoxError> {
        Ok(self.0.hierarchy().await?)
    }

    async fn replace_hierarchy(&self, next: &HierarchyState, org: Option<&OrgState>) -> Result<bool, BoxError> {
        Ok(self.0.replace_hierarchy(next, org).await?)
    }
}

/// Why an organisation's authorities are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrgAuthorityError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Writes every certificate down, so that it can be revoked by its serial number and listed.
#[derive(Debug)]
struct Recording(Arc<dyn RevocationStore>);

#[async_trait]
impl IssuanceRecord for Recording {
    async fn issued(&self, record: &IssuedRecord) -> Result<(), BoxError> {
        Ok(self.0.record_certificate(record).await?)
    }
}

impl Authorities {
    pub(crate) async fn open(
        stores: &Stores,
        names: Names,
        lifetimes: Lifetimes,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let store = stores.authorities.clone();
        let state = match store.hierarchy().await? {
            Some(state) => state,
            None => {
                let made = Hierarchy::create(names, lifetimes, stores.keys.clone(), clock.clone()).await?;
                match store.create_hierarchy(&made.state()).await {
                    Ok(()) | Err(StoreError::Exists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                // Another controller may have been first: what is stored counts.
                store.hierarchy().await?.unwrap_or_else(|| made.state())
            }
        };
        let hierarchy = Hierarchy::open(state, lifetimes, stores.keys.clone(), clock).await?;
        let hierarchy = hierarchy.with_orgs(Arc::new(Stored(store.clone())));
        let hierarchy = hierarchy.with_record(Arc::new(Recording(stores.revocations.clone())));
        for org in store.org_authorities().await? {
            // What cannot be opened issues nothing, there; it is tried again each time that it should.
            if let Err(error) = hierarchy.open_org(&org).await {
                let (org, error) = (&org.org, &error as &dyn std::error::Error);
                tracing::error!(%org, error, "the certificate authorities of an organisation cannot be opened");
            }
        }
        Ok(Self { hierarchy: Arc::new(hierarchy), store })
    }

    pub(crate) fn hierarchy(&self) -> &Arc<Hierarchy> {
        &self.hierarchy
    }

    /// Opens the intermediates of an organisation, if there are any.
    pub(crate) async fn open_org(&self, org: &OrgId) -> Result<(), OrgAuthorityError> {
        match self.store.org_authority(org).await? {
            Some(stored) if !self.hierarchy.has_org(org) => Ok(self.hierarchy.open_org(&stored).await?),
            _ => Ok(()),
        }
    }

    /// Opens the intermediates of an organisation, making them if there are none.
    pub(crate) async fn ensure_org(&self, org: &OrgId) -> Result<(), OrgAuthorityError> {
        if self.hierarchy.has_org(org) {
            return Ok(());
        }
        let stored = match self.store.org_authority(org).await? {
            Some(stored) => stored,
            None => {
                let made = self.hierarchy.create_org(org).await?;
                let stored = self.store.create_org_authority(&made).await;
                // What is not stored is not open either, or it would not be made again.
                stored.inspect_err(|_| self.hierarchy.close_org(org))?
            }
        };
        Ok(self.hierarchy.open_org(&stored).await?)
    }
}
