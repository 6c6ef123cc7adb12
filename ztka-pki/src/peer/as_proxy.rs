//! From a verified peer to a verified proxy.

use ztka_core::{ProxyId, Subject, Verified};

use super::Peer;

impl Peer {
    /// The proxy that `peer` is, verified as it was; `None` for anybody else.
    pub fn as_proxy(peer: &Verified<Self>) -> Option<Verified<ProxyId>> {
        match &peer.id.subject {
            Subject::Proxy(id) => Some(Verified::assertion(id.clone())),
            _ => None,
        }
    }
}
