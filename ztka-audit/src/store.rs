//! Where a controller keeps what proxies and agents send: the traits, and a store in memory.

mod log;
mod memory;

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{AuditId, BoxError, ClusterId, OrgId, UserName, Verb};

pub use self::{
    log::{GrownLog, HeadAt, LogStore},
    memory::MemoryStore,
};
use crate::{Batch, Event, Finding, Receipt, Stage};

/// What became of a batch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ingested {
    /// Records that are new.
    pub stored: usize,
    /// Records that were there already.
    pub known: usize,
    /// Holes and broken links in the sender's journal, to be reported; the batch is stored all the same.
    pub findings: Vec<Finding>,
}

/// Which events; everything that is set has to match.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Of this organisation. Who asks for an organisation has to set it.
    pub org: Option<OrgId>,
    /// For this cluster.
    pub cluster: Option<ClusterId>,
    /// By this user.
    pub user: Option<UserName>,
    /// With this verb.
    pub verb: Option<Verb>,
    /// In this namespace.
    pub namespace: Option<String>,
    /// For this plural resource.
    pub resource: Option<String>,
    /// `allow` or `deny`.
    pub decision: Option<String>,
    /// Of this request.
    pub audit_id: Option<AuditId>,
    /// At this stage.
    pub stage: Option<Stage>,
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// Received before this time.
    pub until: Option<Timestamp>,
    /// Only events with a smaller number: the last number of the page before.
    pub before: Option<u64>,
    /// Only events with a larger number: to see what is new.
    pub after: Option<u64>,
    /// At most this many; 0 means 100.
    pub limit: usize,
    /// The oldest of them, oldest first, instead of the newest.
    pub oldest_first: bool,
}

impl EventQuery {
    /// True if `event`, stored as `number`, is asked for; for stores that cannot express all of it in their own terms.
    pub fn matches(&self, number: u64, event: &Event) -> bool {
        fn is<T>(asked: &Option<T>, test: impl FnOnce(&T) -> bool) -> bool {
            asked.as_ref().is_none_or(test)
        }
        let object = event.object_ref.as_ref();
        is(&self.org, |org| event.fact("org") == Some(org.as_str()))
            && is(&self.cluster, |cluster| event.fact("cluster") == Some(cluster.as_str()))
            && is(&self.user, |user| event.user.username == user.as_str())
            && is(&self.verb, |verb| event.verb == verb.as_str())
            && is(&self.namespace, |namespace| object.is_some_and(|object| object.namespace == *namespace))
            && is(&self.resource, |resource| object.is_some_and(|object| object.resource == *resource))
            && is(&self.decision, |decision| event.fact("decision") == Some(decision.as_str()))
            && is(&self.audit_id, |id| event.audit_id == *id)
            && is(&self.stage, |stage| event.stage == *stage)
            && is(&self.since, |since| *since <= event.request_received_timestamp)
            && is(&self.until, |until| event.request_received_timestamp < *until)
            && is(&self.before, |before| number < *before)
            && is(&self.after, |after| *after < number)
    }

    /// The limit, with its default.
    pub fn rows(&self) -> usize {
        if self.limit == 0 { 100 } else { self.limit }
    }
}

/// An event in a store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its place in the order of ingestion; never used twice.
    pub number: u64,
    /// The event.
    pub event: Event,
}

/// Keeps events. `conformance::events` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait EventStore: Send + Sync + std::fmt::Debug + 'static {
    /// Stores a batch from `source` (the SPIFFE id of a proxy) in order, durably, or nothing of it.
    ///
    /// An event that is there already, by Audit-ID, stage and source, is known and not stored again. Of a record that is
    /// not an event nothing is stored; it counts as stored, so that the sender goes on. The journal's
    /// [`Chain`](crate::Chain) is kept by source and journal, and followed. Where the store is a [`LogStore`], each event that
    /// is new becomes a leaf of its organisation's log.
    ///
    /// # Errors
    /// The store fails; the sender comes again.
    async fn ingest(&self, source: &str, batch: &Batch) -> Result<Ingested, BoxError>;

    /// Events, newest first by number, or oldest first if that is asked for.
    ///
    /// # Errors
    /// The store fails.
    async fn query(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, BoxError>;
}

/// Keeps receipts. `conformance::receipts` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait ReceiptStore: Send + Sync + std::fmt::Debug + 'static {
    /// Stores a batch from `source` (the SPIFFE id of an agent) in order, durably, or nothing of it; known by journal
    /// and sequence. Whether its signature is the agent's has been checked. A receipt that names another cluster than
    /// `cluster`, the agent's own, is stored as what the agent of `cluster` said.
    ///
    /// # Errors
    /// The store fails; the sender comes again.
    async fn ingest_receipts(&self, source: &str, cluster: &ClusterId, batch: &Batch) -> Result<Ingested, BoxError>;

    /// Receipts of a cluster's agents with a time in `from..until`, in the order in which they were stored.
    ///
    /// # Errors
    /// The store fails.
    async fn receipts(&self, cluster: &ClusterId, from: Timestamp, until: Timestamp) -> Result<Vec<Receipt>, BoxError>;
}
