//! How many refusals of strangers are recorded: some of each source, and the rest counted.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

/// Sources share this many buckets, so that the record grows by a few rows a second however many sources there are.
const BUCKETS: usize = 16;
/// Refusals of one bucket that are recorded in a row.
const BURST: u32 = 20;
/// And from then on one per this long.
const REFILL: SignedDuration = SignedDuration::from_secs(10);

/// Lets a few refusals through, and says how many it has left out.
#[derive(Debug)]
pub(crate) struct Refusals {
    buckets: Mutex<[Bucket; BUCKETS]>,
    /// Nobody can choose an address that shares somebody else's bucket.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    refilled: Timestamp,
    left_out: u64,
}

impl Bucket {
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        let passed = now.duration_since(self.refilled);
        if passed.is_negative() {
            // The clock was put back.
            self.refilled = now;
        }
        let refill = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or_default();
        if refill > 0 {
            (self.left, self.refilled) = (self.left.saturating_add(refill).min(BURST), now);
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.left = left;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Refusals {
    pub(crate) fn new(now: Timestamp) -> Self {
        let bucket = Bucket { left: BURST, refilled: now, left_out: 0 };
        Self { buckets: Mutex::new([bucket; BUCKETS]), hasher: RandomState::new() }
    }

    /// If this one is to be recorded: how many of its bucket were left out since the one before.
    pub(crate) fn admit(&self, source: Option<IpAddr>, now: Timestamp) -> Option<u64> {
        let bucket = usize::try_from(self.hasher.hash_one(source) % BUCKETS as u64).unwrap_or_default();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get_mut(bucket)?.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_records_and_a_count() {
        let start = Timestamp::UNIX_EPOCH;
        let refusals = Refusals::new(start);
        let source = Some("192.0.2.1".parse().unwrap());
        let admitted = |count: u64, now| (0..count).filter_map(|_| refusals.admit(source, now)).collect::<Vec<_>>();
        assert_eq!(admitted(1000, start), [0; 20]);
        let later = start + REFILL;
        assert_eq!(admitted(1000, later), [980], "one, and it says how many were left out before it");
        assert!(
            admitted(5, later - SignedDuration::from_hours(1)).is_empty(),
            "a clock that is put back opens nothing"
        );
        assert_eq!(admitted(100, later + SignedDuration::from_hours(24)).len(), 20, "no more than the burst");
    }

    #[test]
    fn many_sources_are_no_more_than_the_buckets() {
        let refusals = Refusals::new(Timestamp::UNIX_EPOCH);
        let from = |source: u32| refusals.admit(Some(IpAddr::from(source.to_be_bytes())), Timestamp::UNIX_EPOCH);
        assert!((0..10_000).filter_map(from).count() <= BUCKETS * 20);
    }
}
