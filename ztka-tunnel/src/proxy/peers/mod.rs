//! Links to other proxies, for requests whose cluster has no tunnel here: which there are, and who has what.

mod dial;
mod end;
mod held;
mod link;

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;
use ztka_core::{ClusterId, ProxyId};

pub use self::end::{LastHop, Peered};
use super::{lease::Lease, registry::Registry, tunnel::Tunnel};
use crate::{Connect, ProxyAddress, stream::memory::Memory};

/// A proxy to which requests may be passed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownPeer {
    /// The proxy. One that proves to be another is not believed.
    pub id: ProxyId,
    /// Where it takes links.
    pub address: ProxyAddress,
}

/// How links to other proxies are dialled and how long they last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerSettings {
    /// Bound on one connection attempt, TLS included. Default 10 s.
    pub connect: Duration,
    /// The first retry comes within this time. Default 500 ms.
    pub first_retry: Duration,
    /// No two attempts are further apart. Default 10 s.
    pub max_retry: Duration,
    /// A link that ends sooner counts as a failed attempt. Default 10 s.
    pub stable_after: Duration,
    /// A link is replaced by a new one after this time, so that it shows certificates that are valid; what is open on the old
    /// one goes on. Default 1 h.
    pub life: Duration,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_retry: Duration::from_millis(500),
            max_retry: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
            life: Duration::from_secs(3600),
        }
    }
}

/// Links to the other proxies: one to each, on which it tells of which clusters it has tunnels, and takes requests for them.
///
/// What it tells is known as long as its link lives, and no longer. Clones are the same links; they end with the last of them.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Arc<Table>,
    directory: watch::Sender<Arc<[KnownPeer]>>,
}

/// Links that are set up, and what they may hold together with the tunnels of their proxy.
#[derive(Debug)]
struct Table(RwLock<Vec<Arc<Held>>>, Arc<Memory>);

/// What there is at the far end of one link.
#[derive(Debug)]
struct Held {
    tunnel: Arc<Tunnel<ProxyId>>,
    clusters: RwLock<HashSet<ClusterId>>,
}

impl Peers {
    /// Starts to dial whom it will [learn](Self::learn) of, for the proxy whose tunnels are in `registry`: links have its settings,
    /// and what waits on them counts with what waits on tunnels. To be called inside a tokio runtime.
    pub fn start(registry: &Registry, connect: impl Connect, dial: PeerSettings) -> Self {
        let (directory, table) = (watch::Sender::new(Arc::default()), Table(RwLock::default(), registry.memory()));
        let (settings, table) = ((registry.settings(), dial), Arc::new(table));
        tokio::spawn(dial::keep(Arc::new(connect), directory.subscribe(), table.clone(), settings));
        Self(Arc::new(Inner { table, directory }))
    }

    /// The other proxies, all of them. To one that is not among them any more no new link is made; one that there is goes on.
    /// Returns at once.
    pub fn learn(&self, peers: impl Into<Arc<[KnownPeer]>>) {
        let peers = peers.into();
        self.0.directory.send_if_modified(|known| {
            let is_news = *known != peers;
            *known = peers;
            is_news
        });
    }

    /// The proxies to which requests can be passed on now, with the number of clusters that each has told of.
    pub fn linked(&self) -> Vec<(ProxyId, usize)> {
        let links = self.0.table.0.read().unwrap_or_else(PoisonError::into_inner);
        let told = |held: &Arc<Held>| (held.tunnel.peer.clone(), held.read().len());
        links.iter().filter(|held| !held.tunnel.is_leaving()).map(told).collect()
    }

    /// True if a request for `cluster` can be passed on to somebody.
    pub fn reach(&self, cluster: &ClusterId) -> bool {
        let links = self.0.table.0.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().any(|held| !held.tunnel.is_leaving() && held.read().contains(cluster))
    }

    /// Requests and streams that are on links now.
    pub fn streams(&self) -> usize {
        let links = self.0.table.0.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|held| held.tunnel.load.load(Ordering::Relaxed)).sum()
    }

    /// Ends the links to each proxy that `is_over` says so of, with all their streams; says how many there were. For revoked
    /// proxies.
    pub fn close_where(&self, is_over: impl Fn(&ProxyId) -> bool) -> usize {
        let links = self.0.table.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let over: Vec<_> = links.iter().filter(|held| is_over(&held.tunnel.peer)).collect();
        for held in &over {
            held.tunnel.leave();
            held.tunnel.end.cancel();
        }
        over.len()
    }

    /// Takes a place on the link with the fewest streams of those whose proxy has a tunnel of `cluster` and is not among
    /// `tried`.
    pub(super) fn place(&self, cluster: &ClusterId, tried: &[ProxyId]) -> Option<Lease<ProxyId>> {
        let links = self.0.table.0.read().unwrap_or_else(PoisonError::into_inner);
        let may = |held: &&Arc<Held>| {
            !held.tunnel.is_leaving() && !tried.contains(&held.tunnel.peer) && held.read().contains(cluster)
        };
        let mut able: Vec<_> = links.iter().filter(may).collect();
        able.sort_by_key(|held| (held.tunnel.is_quiet(), held.tunnel.load.load(Ordering::Relaxed)));
        able.into_iter().find_map(|held| Lease::take(&held.tunnel))
    }
}

impl Table {
    /// Makes a link known until the guard is dropped.
    fn enter(self: &Arc<Self>, held: &Arc<Held>) -> Entry {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(held.clone());
        Entry { table: self.clone(), held: held.clone() }
    }
}

impl Held {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashSet<ClusterId>> {
        self.clusters.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link's presence in the table.
#[derive(Debug)]
struct Entry {
    table: Arc<Table>,
    held: Arc<Held>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.held.tunnel.leave();
        let mut links = self.table.0.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|held| !Arc::ptr_eq(held, &self.held));
    }
}
