//! From a verified peer to whom a refusal is recorded of.

use ztka_core::{Caller, Verified};

use super::Peer;

impl Peer {
    /// Whom a request is from that is refused although the certificate behind it was verified.
    pub fn as_caller(peer: &Verified<Self>) -> Caller {
        Caller::Certificate(Verified::assertion(peer.id.clone()))
    }
}
