//! How long to wait before the next attempt: exponential with full jitter, from a seed.

use std::time::{Duration, Instant};

/// Deterministic randomness: the same seed gives the same waits.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A Weyl sequence, its steps scrambled: enough to keep agents apart, and nothing secret depends on it.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }

    /// From 0 to just below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Anywhere between nothing and `bound`.
    pub(super) fn within(&mut self, bound: Duration) -> Duration {
        bound.mul_f64(self.fraction())
    }

    /// For ties.
    pub(super) fn toss(&mut self) -> u64 {
        self.next()
    }
}

/// The bound of the wait after `failures` attempts in a row that failed: none, `first`, then doubled up to `cap`.
pub(super) fn bound(failures: u32, first: Duration, cap: Duration) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => first.saturating_mul(2_u32.saturating_pow(failures - 1)).min(cap),
    }
}

/// When the next attempt may be made.
///
/// Full jitter: each wait is anywhere between nothing and a bound that doubles, so that agents that lost their proxy at
/// the same moment do not come back at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) failures: u32,
    pub(super) not_before: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { failures: 0, not_before: now }
    }

    /// An attempt failed, or what it gave is over.
    pub(super) fn failed(&mut self, now: Instant, (first, cap): (Duration, Duration), jitter: &mut Jitter) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + jitter.within(bound(self.failures, first, cap));
    }

    /// What an attempt gave has lasted.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap_and_start_again() {
        let (first, cap) = (Duration::from_millis(500), Duration::from_secs(10));
        let bounds: Vec<_> = (0..8).map(|failures| bound(failures, first, cap).as_millis()).collect();
        assert_eq!(bounds, [0, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(bound(u32::MAX, first, cap), cap);
        let (now, mut jitter) = (Instant::now(), Jitter::new(7));
        let mut pace = Pace::new(now);
        for failures in 1..100 {
            pace.failed(now, (first, cap), &mut jitter);
            assert!(pace.not_before - now <= bound(failures, first, cap));
        }
        pace.succeeded();
        pace.failed(now, (first, cap), &mut jitter);
        assert!(pace.not_before - now <= first);
    }

    #[test]
    fn waits_use_the_whole_of_their_bound() {
        let (bound, mut jitter) = (Duration::from_secs(10), Jitter::new(1));
        let waits: Vec<_> = (0..10_000).map(|_| jitter.within(bound).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (0.0..10.0).contains(wait)));
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        assert!((4.8..5.2).contains(&mean), "{mean}");
        for tenth in 0..10 {
            let inside = waits.iter().filter(|wait| **wait as u32 == tenth).count();
            assert!((850..1150).contains(&inside), "{inside} of 10,000 in the {tenth}th second");
        }
    }
}
