//! How long to wait before the next attempt: exponential with full jitter.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

/// Waits between attempts. The first attempt waits for nothing.
///
/// Full jitter: each wait is anywhere between nothing and a bound that doubles, so that agents that lost their proxy at
/// the same moment do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, failures: 0 }
    }

    /// The next wait may be at most this.
    fn bound(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => self.first.saturating_mul(2_u32.saturating_pow(failures - 1)).min(self.cap),
        }
    }

    /// How long to wait now.
    pub(super) fn wait(&self) -> Duration {
        self.bound().mul_f64(fraction(RandomState::new().build_hasher().finish()))
    }

    /// An attempt failed, or what it gave did not last.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// What an attempt gave has lasted.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// From 0 to just below 1.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let mut bounds = Vec::new();
        for _ in 0..8 {
            bounds.push(backoff.bound().as_millis());
            assert!(backoff.wait() <= backoff.bound());
            backoff.failed();
        }
        assert_eq!(bounds, [0, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.bound(), Duration::from_secs(10));
        backoff.succeeded();
        assert_eq!(backoff.bound(), Duration::ZERO);
    }

    #[test]
    fn a_fraction_is_below_one() {
        assert_eq!(fraction(0), 0.0);
        assert!(fraction(u64::MAX) < 1.0);
    }
}
