//! Which try a request to stream comes after: kubectl asks by WebSocket, and by SPDY if that is not granted.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use ztka_core::AuditId;

use crate::Hash;

/// Most tries that are remembered; of older ones the retry is on record without its relation.
const KEPT: usize = 1024;
/// A retry comes at once, or is one of a person.
const WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// The latest tries by WebSocket that were not granted.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    tries: Mutex<VecDeque<Try>>,
}

#[derive(Debug)]
struct Try {
    /// Who asked for what, where.
    asked: Hash,
    id: AuditId,
    at: Timestamp,
}

impl Retries {
    /// What `asked` names was not granted by WebSocket.
    pub(crate) fn not_granted(&self, asked: Hash, id: AuditId, now: Timestamp) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        tries.retain(|held| held.is_recent(now));
        if tries.len() == KEPT {
            tries.pop_front();
        }
        tries.push_back(Try { asked, id, at: now });
    }

    /// The try that this one by SPDY comes after. Each is told once.
    pub(crate) fn before(&self, asked: Hash, now: Timestamp) -> Option<AuditId> {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = tries.iter().rposition(|held| held.asked == asked && held.is_recent(now))?;
        tries.remove(at).map(|held| held.id)
    }
}

impl Try {
    fn is_recent(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) <= WITHIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_tries_are_remembered_and_not_for_long() {
        let retries = Retries::default();
        let now = Timestamp::UNIX_EPOCH;
        let asked = |number: usize| Hash::of(&number.to_be_bytes());
        let ids: Vec<_> = (0..=KEPT).map(|_| AuditId::generate()).collect();
        for (number, id) in ids.iter().enumerate() {
            retries.not_granted(asked(number), *id, now);
        }
        assert_eq!(retries.before(asked(0), now), None, "memory is bounded");
        assert_eq!(retries.before(asked(1), now), Some(ids[1]));
        assert_eq!(retries.before(asked(1), now), None, "told twice");
        assert_eq!(retries.before(asked(2), now + SignedDuration::from_secs(11)), None, "too late");
        retries.not_granted(asked(0), ids[0], now + SignedDuration::from_secs(11));
        assert_eq!(retries.tries.lock().unwrap().len(), 1, "what is too old is forgotten");
    }
}
