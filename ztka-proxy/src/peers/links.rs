//! Links to the proxies that the directory names, for as long as their certificates are believed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;
use ztka_core::{BoxError, ProxyEntry, ProxyId, Verified};
use ztka_pki::{Peer, Purpose, TrustSource};
use ztka_tunnel::{KnownPeer, Peers, ProxyAddress};

/// Says which proxy a certificate chain belongs to, and remembers each until it is revoked. Clones remember the same.
#[derive(Clone, Debug)]
pub struct PeerCheck {
    trust: TrustSource,
    seen: Arc<Mutex<HashMap<ProxyId, Verified<Peer>>>>,
}

impl PeerCheck {
    /// Believes what `trust` does.
    pub fn new(trust: TrustSource) -> Self {
        Self { trust, seen: Arc::default() }
    }

    /// Which proxy `chain` (leaf first) belongs to: never what it says, but what its certificate says.
    ///
    /// # Errors
    /// It is no proxy's, or not believed.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Verified<ProxyId>, BoxError> {
        let peer = self.trust.verify(Purpose::Proxies, chain)?;
        let id = Peer::as_proxy(&peer).ok_or("the certificate is not a proxy's")?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(ProxyId::clone(&id), peer);
        Ok(id)
    }

    /// Ends links to proxies whose certificate is revoked, until dropped.
    async fn enforce(&self, peers: &Peers) {
        let mut changes = self.trust.changes();
        loop {
            let mut over = Vec::new();
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, peer| {
                let revoked = self.trust.is_revoked(peer);
                if revoked {
                    over.push(id.clone());
                }
                !revoked
            });
            if !over.is_empty() {
                peers.close_where(|id| over.contains(id));
            }
            changes.changed().await;
        }
    }
}

/// Tells `peers` of the other proxies among `entries`, which are asked for as `name`, and ends links that `check` does not believe
/// in any more. Runs until dropped.
pub async fn follow_peers(
    peers: Peers,
    check: PeerCheck,
    (own, name): (ProxyId, ServerName<'static>),
    mut entries: watch::Receiver<Arc<[ProxyEntry]>>,
) {
    let follow = async {
        loop {
            let known = entries.borrow_and_update().clone();
            let others = known.iter().filter(|entry| entry.id != own);
            let others = others.filter_map(|entry| {
                let at = entry.peers.as_ref()?;
                let address = ProxyAddress::new(at.host(), at.port()).ok()?.named(name.clone());
                Some(KnownPeer { id: entry.id.clone(), address })
            });
            peers.learn(others.collect::<Vec<_>>());
            if entries.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::join!(follow, check.enforce(&peers));
}
