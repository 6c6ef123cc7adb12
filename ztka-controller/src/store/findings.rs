//! What was found wrong with journals as they came in.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_audit::Finding;
use ztka_core::{ClusterId, OrgId};

use super::StoreError;

/// A finding and where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The organisation concerned; none for a proxy's journal, which has events of all.
    pub org: Option<OrgId>,
    /// The cluster whose agent's journal it is.
    pub cluster: Option<ClusterId>,
    /// Who sent the journal: a SPIFFE id.
    pub source: String,
    /// When it was found.
    pub at: Timestamp,
    /// What is wrong.
    pub finding: Finding,
}

/// Keeps findings until somebody has looked at them.
#[async_trait]
pub trait FindingStore: Send + Sync + std::fmt::Debug + 'static {
    /// Adds findings, all or none.
    async fn add_findings(&self, found: &[Found]) -> Result<(), StoreError>;

    /// How many were found at this time or later, of whichever organisation.
    async fn count_findings(&self, since: Timestamp) -> Result<u64, StoreError>;

    /// Findings of an organisation, or (`None`) those that concern all, newest first, at most `limit`.
    async fn findings(&self, org: Option<&OrgId>, limit: u32) -> Result<Vec<Found>, StoreError>;
}
