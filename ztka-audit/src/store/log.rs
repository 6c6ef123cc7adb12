//! The transparency log in a store: leaves and tiles grow as events are ingested, heads are added.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{AuditId, BoxError, OrgId};

use crate::{
    Stage,
    log::{Leaf, SignedHead, TileId, Tiles, TreeHead},
};

/// Which head of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeadAt {
    /// The newest.
    Newest,
    /// The one of this size.
    Size(u64),
    /// The first that is larger than this.
    After(u64),
}

/// A log that has grown since its newest head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GrownLog {
    /// Whose.
    pub org: OrgId,
    /// The database's epoch.
    pub epoch: u64,
    /// How many leaves there are.
    pub size: u64,
    /// Size and time of the newest head; none if there is none.
    pub head: Option<(u64, Timestamp)>,
}

/// Keeps the transparency log of each organisation. [`EventStore::ingest`](crate::EventStore::ingest) makes every event
/// that is new a leaf of its organisation's, in the order of their numbers, in the same transaction: so two stores' worth of
/// controllers over one database have one log, and a fork is none of theirs to make.
///
/// What is there stays: neither a leaf's place nor its hash ever changes, also when its event is gone.
/// `conformance::log` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait LogStore: Send + Sync + fmt::Debug + 'static {
    /// How many leaves a log has; none without one.
    ///
    /// # Errors
    /// The store fails.
    async fn log_size(&self, org: &OrgId) -> Result<u64, BoxError>;

    /// These tiles, as far as they are there.
    ///
    /// # Errors
    /// The store fails.
    async fn tiles(&self, org: &OrgId, ids: &[TileId]) -> Result<Tiles, BoxError>;

    /// These leaves, as far as there are any, in order; without content where their event is gone.
    ///
    /// # Errors
    /// The store fails.
    async fn leaves(&self, org: &OrgId, range: Range<u64>) -> Result<Vec<Leaf>, BoxError>;

    /// The leaves of a request (at this stage), in order, a hundred at most.
    ///
    /// # Errors
    /// The store fails.
    async fn leaves_of(&self, org: &OrgId, id: AuditId, stage: Option<Stage>) -> Result<Vec<Leaf>, BoxError>;

    /// Keeps a head. False if there is one of that size already, which stays: of each size there is one.
    ///
    /// # Errors
    /// The store fails.
    async fn add_head(&self, head: &TreeHead, signed: &SignedHead) -> Result<bool, BoxError>;

    /// A head of a log.
    ///
    /// # Errors
    /// The store fails.
    async fn head(&self, org: &OrgId, at: HeadAt) -> Result<Option<SignedHead>, BoxError>;

    /// The logs (or this organisation's) that have grown since their newest head.
    ///
    /// # Errors
    /// The store fails.
    async fn grown_logs(&self, org: Option<&OrgId>) -> Result<Vec<GrownLog>, BoxError>;
}
