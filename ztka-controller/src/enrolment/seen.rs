//! Keys whose first connection has been noted, for as long as their certificates are valid.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use ztka_core::KeyId;

/// So many are never worth a look.
const FEW: usize = 1024;

/// Saves a look into the store at each connection but the first.
#[derive(Debug)]
pub(crate) struct SeenKeys(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    until: HashMap<KeyId, Timestamp>,
    /// From this size on it is looked at again what is over.
    look_at: usize,
}

impl Default for SeenKeys {
    fn default() -> Self {
        Self(Mutex::new(Seen { until: HashMap::new(), look_at: FEW }))
    }
}

impl SeenKeys {
    pub(crate) fn contains(&self, key: &KeyId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).until.contains_key(key)
    }

    /// Nobody connects with the certificate of `key` after `not_after`; what is over is forgotten on the way.
    pub(crate) fn insert(&self, key: KeyId, not_after: Timestamp, now: Timestamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.until.insert(key, not_after);
        if seen.until.len() >= seen.look_at {
            seen.until.retain(|_, not_after| now < *not_after);
            // Doubled, so that looking costs each key a constant share.
            seen.look_at = seen.until.len().saturating_mul(2).max(FEW);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_year_of_renewals_is_no_more_than_what_is_valid() {
        let (seen, mut now) = (SeenKeys::default(), Timestamp::UNIX_EPOCH);
        let life = SignedDuration::from_hours(72);
        // 100 agents that renew every two days: 150 certificates are valid at a time.
        for renewal in 0..365 / 2 {
            now += SignedDuration::from_hours(48);
            for agent in 0..100 {
                seen.insert(KeyId(format!("{agent}-{renewal}")), now + life, now);
            }
        }
        assert!(seen.contains(&KeyId("7-181".into())));
        assert!(!seen.contains(&KeyId("7-0".into())));
        assert!(seen.0.lock().unwrap().until.len() <= FEW);
    }
}
