//! Chains that were verified a while ago: two signatures less in every handshake of a client that comes again.

use std::{
    collections::HashMap,
    mem,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use ztka_core::Verified;

use super::Peer;

/// Chains of a generation; a chain that was not asked for while as many others came is forgotten. About 1 MB of both
/// generations at most.
const GENERATION: usize = 512;

/// SHA-256 over a chain, each certificate with its length before it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Self {
        let mut digest = Sha256::new();
        for certificate in chain {
            digest.update((certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        Self(digest.finalize().into())
    }
}

/// What was verified, and from when until when that holds: from then on, as nobody looked at what held before.
#[derive(Clone, Debug)]
struct Entry {
    peer: Verified<Peer>,
    valid: RangeInclusive<Timestamp>,
}

/// Bounded: only what was verified comes in, and what was not asked for lately goes.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Entry>,
    old: HashMap<Digest, Entry>,
}

impl Known {
    /// Whom the chain was issued to, if that is known and holds `now`.
    pub(super) fn peer(&self, chain: &Digest, now: Timestamp) -> Option<Verified<Peer>> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = generations.young.get(chain) {
            return entry.valid.contains(&now).then(|| entry.peer.clone());
        }
        let entry = generations.old.remove(chain).filter(|entry| entry.valid.contains(&now))?;
        let peer = entry.peer.clone();
        generations.insert(*chain, entry);
        Some(peer)
    }

    /// The chain was issued to `peer`, and that holds in `valid`.
    pub(super) fn learn(&self, chain: Digest, peer: &Verified<Peer>, valid: RangeInclusive<Timestamp>) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(chain, Entry { peer: peer.clone(), valid });
    }
}

impl Generations {
    fn insert(&mut self, chain: Digest, entry: Entry) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(chain, entry);
    }
}
