//! How a sink is: what it has not taken yet, what it has refused, and when it took something last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::REFUSED_IN_A_ROW;
use crate::{Record, Spool};

/// How a sink is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SinkStatus {
    /// Records that are written and not taken yet; none before its follower has read the first of them.
    pub lag: Option<u64>,
    /// Bytes of the spool that are not taken yet.
    pub lag_bytes: u64,
    /// Failures so far, the sink's and the spool's.
    pub failures: u64,
    /// True from a failure, or when nothing but refusals come, until something is taken.
    pub failing: bool,
    /// Records that the sink has refused for good; they were passed over.
    pub refused: u64,
    /// Records that were taken.
    pub taken: u64,
    /// When a batch was taken last; none since the process has begun.
    pub last_success: Option<Timestamp>,
}

/// Tells how the sink of a [`Follower`](crate::Follower) is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SinkMonitor {
    spool: Spool,
    name: Arc<str>,
    standing: Arc<Mutex<Standing>>,
}

#[derive(Debug, Default)]
struct Standing {
    /// Sequence of the next record.
    next: Option<u64>,
    refused_in_a_row: u64,
    status: SinkStatus,
}

impl SinkMonitor {
    pub(super) fn new(spool: Spool, name: String) -> Self {
        Self { spool, name: name.into(), standing: Arc::default() }
    }

    /// The name of the consumer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the sink is now.
    pub fn status(&self) -> SinkStatus {
        let spool = self.spool.status();
        let standing = self.standing();
        let lag = standing.next.map(|next| spool.records.saturating_sub(next));
        let lag_bytes = spool.behind.get(&*self.name).copied().unwrap_or_default();
        SinkStatus { lag, lag_bytes, ..standing.status.clone() }
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(super) fn next_is(&self, sequence: u64) {
        self.standing().next = Some(sequence);
    }

    pub(super) fn failed(&self) {
        let status = &mut self.standing().status;
        status.failures += 1;
        status.failing = true;
    }

    /// A batch that ends with `last` was taken.
    pub(super) fn took(&self, last: Option<&Record>, now: Timestamp) {
        let mut standing = self.standing();
        let Some(last) = last else { return };
        let next = last.sequence.saturating_add(1);
        let taken = standing.next.map_or(1, |before| next.saturating_sub(before));
        standing.next = Some(next);
        standing.refused_in_a_row = 0;
        standing.status.taken += taken;
        standing.status.failing = false;
        standing.status.last_success = Some(now);
    }

    /// A record was refused; how many that makes without one that was taken.
    pub(super) fn refused(&self, record: &Record) -> u64 {
        let mut standing = self.standing();
        standing.next = Some(record.sequence.saturating_add(1));
        standing.status.refused += 1;
        standing.refused_in_a_row += 1;
        standing.status.failing |= standing.refused_in_a_row > REFUSED_IN_A_ROW;
        standing.refused_in_a_row
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
