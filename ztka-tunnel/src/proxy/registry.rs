//! Live tunnels by cluster, and what their agents are to know.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};
use ztka_core::{Clock, ClusterId, OrgId, POLICY, Revision};

use super::{
    board::{Audience, Board},
    lease::Lease,
    session,
    tunnel::Tunnel,
};
use crate::{DRAIN_PATH, Settings, TunnelError, TunnelPeer, figures::Side, stream::memory::Memory};

/// More agents of one cluster, old tunnels included, than anybody runs.
pub(super) const MAX_TUNNELS: usize = 64;
/// News of clusters that other proxies may be behind; then they are told all anew.
const NEWS: usize = 1024;

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    settings: Settings,
    memory: Arc<Memory>,
    clusters: RwLock<HashMap<ClusterId, Vec<Arc<Tunnel>>>>,
    board: Board,
    naming: OnceLock<Naming>,
    turn: AtomicUsize,
    changed: watch::Sender<()>,
    /// The first tunnel of a cluster has come, or one takes nothing new any more: whoever cares looks at it.
    news: broadcast::Sender<ClusterId>,
}

type Late = dyn Fn(&OrgId, &ClusterId) -> Option<Revision> + Send + Sync;

/// Which policy is named to the agents of a cluster, if not the one that the request was allowed by.
struct Naming(Box<Late>);

impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Naming")
    }
}

/// The tunnels that agents hold to this proxy. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

/// Why there is no place for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoPlace {
    /// No agent of the cluster is connected.
    Away,
    /// All its tunnels are at their limit.
    Full,
}

impl Registry {
    /// An empty registry with default [`Settings`]; certificates' ends are read off `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_settings(clock, Settings::default())
    }

    /// An empty registry.
    pub fn with_settings(clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let (clusters, board) = (RwLock::default(), Board::default());
        let (turn, changed) = (AtomicUsize::new(0), watch::Sender::default());
        let (news, memory) = (broadcast::Sender::new(NEWS), Memory::new(&settings, Side::Proxy));
        let naming = OnceLock::new();
        Self(Arc::new(Inner { clock, settings, memory, clusters, board, naming, turn, changed, news }))
    }

    /// Runs the tunnel on `io`, a connection on which `peer` has authenticated, until it ends.
    ///
    /// Users' requests are sent on it once it is set up and every published document has been delivered. Dropping the
    /// future ends the tunnel with all its streams.
    ///
    /// # Errors
    /// [`TunnelError`] says why it ended; `Ok` if the agent ended it.
    pub async fn serve<T>(&self, io: T, peer: TunnelPeer) -> Result<(), TunnelError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let span = tracing::info_span!("tunnel", org = %peer.org, cluster = %peer.cluster, instance = %peer.instance);
        tracing::Instrument::instrument(session::run(self.clone(), io, peer), span).await
    }

    /// Names to the agents of a cluster the policy that `late` says, if it says one, in place of that by which a request was
    /// allowed: the newest that can be published for them, where that is older. Said once, before the first request; asked for
    /// each of them.
    pub fn naming(&self, late: impl Fn(&OrgId, &ClusterId) -> Option<Revision> + Send + Sync + 'static) {
        // Whoever says it a second time is not heard.
        let _ = self.0.naming.set(Naming(Box::new(late)));
    }

    /// The head of a request as the agents of a cluster get it.
    pub(super) fn named<'h>(&self, org: &OrgId, cluster: &ClusterId, head: &'h Request<()>) -> Cow<'h, Request<()>> {
        let late = self.0.naming.get().and_then(|naming| naming.0(org, cluster));
        match late.and_then(|late| HeaderValue::try_from(late.to_string()).ok()) {
            Some(late) if head.headers().contains_key(&POLICY) => {
                let mut head = head.clone();
                head.headers_mut().insert(&POLICY, late);
                Cow::Owned(head)
            }
            _ => Cow::Borrowed(head),
        }
    }

    /// Makes `body` the latest document `name` for this audience: agents of a cluster or an organisation, or all for `None`.
    ///
    /// It is posted to `/.ztka/documents` of all live tunnels concerned, and on new tunnels before the first request.
    /// Returns at once. A tunnel gets documents in the order in which they were published; of one name only the latest.
    pub fn publish(&self, audience: impl Into<Audience>, name: impl AsRef<str>, body: impl Into<Bytes>) {
        self.0.board.publish(audience.into(), name.as_ref(), body.into());
    }

    /// Takes a document off; agents that have it keep it.
    pub fn withdraw(&self, audience: impl Into<Audience>, name: impl AsRef<str>) {
        self.0.board.withdraw(&audience.into(), name.as_ref());
    }

    /// Ends all tunnels of `cluster` with all their streams; says how many there were.
    pub fn remove(&self, cluster: &ClusterId) -> usize {
        self.close_where(|peer| peer.cluster == *cluster)
    }

    /// Ends the tunnels of each peer that `is_over` says so of, with all their streams; says how many there were.
    /// For revoked instances.
    pub fn close_where(&self, is_over: impl Fn(&TunnelPeer) -> bool) -> usize {
        let over: Vec<_> = self.all().into_iter().filter(|tunnel| is_over(&tunnel.peer)).collect();
        for tunnel in &over {
            tunnel.leave();
            tunnel.end.cancel();
        }
        over.len()
    }

    /// Agents that are connected and take new streams, in no order; one is listed once per tunnel.
    pub fn peers(&self) -> Vec<TunnelPeer> {
        self.all().into_iter().filter(|tunnel| !tunnel.is_leaving()).map(|tunnel| tunnel.peer.clone()).collect()
    }

    /// True if a request for `cluster` of `org` has a tunnel to go to.
    pub fn is_connected(&self, org: &OrgId, cluster: &ClusterId) -> bool {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let takes = |tunnel: &Arc<Tunnel>| tunnel.peer.org == *org && !tunnel.is_leaving();
        clusters.get(cluster).is_some_and(|tunnels| tunnels.iter().any(takes))
    }

    /// The clusters that requests can be sent to.
    pub(super) fn held(&self) -> Vec<ClusterId> {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let takes = |tunnels: &[Arc<Tunnel>]| tunnels.iter().any(|tunnel| !tunnel.is_leaving());
        clusters.iter().filter(|(_, tunnels)| takes(tunnels)).map(|(cluster, _)| cluster.clone()).collect()
    }

    /// True if requests for `cluster` can be sent to it.
    pub(super) fn holds(&self, cluster: &ClusterId) -> bool {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        clusters.get(cluster).is_some_and(|tunnels| tunnels.iter().any(|tunnel| !tunnel.is_leaving()))
    }

    /// Says of which clusters something may be new.
    pub(super) fn news(&self) -> &broadcast::Sender<ClusterId> {
        &self.0.news
    }

    /// Users' requests and streams that are on tunnels now.
    pub fn streams(&self) -> usize {
        self.all().iter().map(|tunnel| tunnel.load.load(Ordering::Relaxed)).sum()
    }

    /// Bytes received from agents, and from and for other proxies, that nobody has read yet, of all tunnels and links; as last
    /// counted, some seconds ago at the most.
    pub fn buffered(&self) -> usize {
        self.0.memory.held()
    }

    /// The same of that user who has most, and how many streams were ended because their users did not read.
    pub fn buffered_by_one(&self) -> (usize, u64) {
        (self.0.memory.most_of_a_user(), self.0.memory.ended())
    }

    /// Wakes when a tunnel has come or gone.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Asks every agent to dial elsewhere and to let go of its tunnel here, and ends what is left after `grace`.
    /// Requests still find the tunnels until their agents have let go.
    pub async fn drain(&self, grace: Duration) {
        let mut changed = self.subscribe();
        let gone = async {
            let asked = self.all().into_iter().map(|tunnel| async move {
                let _ = tunnel.own(DRAIN_PATH, HeaderMap::new(), Bytes::new()).await;
            });
            futures_util::future::join_all(asked).await;
            while !self.all().is_empty() && changed.changed().await.is_ok() {}
        };
        if timeout(grace, gone).await.is_err() {
            tracing::info!(streams = self.streams(), "ending the tunnels that are left");
        }
        self.close_where(|_| true);
    }

    /// Returns when no tunnel takes new requests, as a while after [`Self::drain`] has begun, though streams go on. Cancel
    /// safe.
    pub async fn left(&self) {
        let mut news = self.0.news.subscribe();
        while !self.held().is_empty() {
            if let Err(RecvError::Closed) = news.recv().await {
                return;
            }
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(super) fn settings(&self) -> Settings {
        self.0.settings
    }

    pub(super) fn memory(&self) -> Arc<Memory> {
        self.0.memory.clone()
    }

    pub(super) fn board(&self) -> &Board {
        &self.0.board
    }

    fn all(&self) -> Vec<Arc<Tunnel>> {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        clusters.values().flatten().cloned().collect()
    }

    /// True if the agent of `than` has a tunnel here beside this one that takes new streams.
    pub(super) fn has_newer(&self, than: &Arc<Tunnel>) -> bool {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let of_same = |tunnel: &&Arc<Tunnel>| {
            tunnel.peer.instance == than.peer.instance && !tunnel.is_leaving() && !Arc::ptr_eq(tunnel, than)
        };
        clusters.get(&than.peer.cluster).is_some_and(|tunnels| tunnels.iter().any(|tunnel| of_same(&tunnel)))
    }

    /// Takes a place on the least loaded tunnel of the cluster, equal ones by turns; on one whose agent may be dead only if
    /// there is no other.
    pub(super) fn place(&self, org: &OrgId, cluster: &ClusterId) -> Result<Lease, NoPlace> {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let tunnels = clusters.get(cluster).map(Vec::as_slice).unwrap_or_default();
        // The certificate said whose cluster it is: no agent of another organisation gets its requests.
        let takes = |tunnel: &&Arc<Tunnel>| tunnel.peer.org == *org && !tunnel.is_leaving();
        let first = match tunnels.len() {
            0 | 1 => 0,
            count => self.0.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        let by_turns = || tunnels.iter().cycle().skip(first).take(tunnels.len()).filter(takes);
        let load = |tunnel: &&Arc<Tunnel>| (tunnel.is_quiet(), tunnel.load.load(Ordering::Relaxed));
        let Some(least) = by_turns().min_by_key(load) else { return Err(NoPlace::Away) };
        // Its last place may have gone a moment ago, and limits differ.
        Lease::take(least).or_else(|| by_turns().find_map(Lease::take)).ok_or(NoPlace::Full)
    }

    /// True if one more tunnel of `cluster` would be refused: as many as there may be, and none of them is leaving.
    pub(super) fn is_full(&self, cluster: &ClusterId) -> bool {
        let clusters = self.0.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let stays = |tunnel: &&Arc<Tunnel>| !tunnel.is_leaving() || tunnel.end.is_cancelled();
        clusters.get(cluster).is_some_and(|tunnels| tunnels.iter().filter(stays).count() >= MAX_TUNNELS)
    }

    /// Makes `tunnel` known until the guard is dropped.
    pub(super) fn enter(&self, tunnel: &Arc<Tunnel>) -> Result<Entry, TunnelError> {
        let mut clusters = self.0.clusters.write().unwrap_or_else(PoisonError::into_inner);
        let tunnels = clusters.entry(tunnel.peer.cluster.clone()).or_default();
        if tunnels.len() >= MAX_TUNNELS {
            // What takes no new streams makes room, oldest first.
            let ended = |tunnel: &Arc<Tunnel>| tunnel.end.is_cancelled();
            match tunnels.iter().find(|tunnel| tunnel.is_leaving() && !ended(tunnel)) {
                Some(oldest) => oldest.end.cancel(),
                None => return Err(TunnelError::TooMany(MAX_TUNNELS)),
            }
        }
        let is_first = tunnels.iter().all(|tunnel| tunnel.is_leaving());
        tunnels.push(tunnel.clone());
        drop(clusters);
        if is_first {
            // Nobody may listen.
            let _ = self.0.news.send(tunnel.peer.cluster.clone());
        }
        self.0.changed.send_replace(());
        Ok(Entry { registry: self.clone(), tunnel: tunnel.clone() })
    }
}

/// A tunnel's presence in the registry.
#[derive(Debug)]
pub(super) struct Entry {
    registry: Registry,
    tunnel: Arc<Tunnel>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tunnel.leave();
        let inner = &self.registry.0;
        let mut clusters = inner.clusters.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(tunnels) = clusters.get_mut(&self.tunnel.peer.cluster) {
            tunnels.retain(|tunnel| !Arc::ptr_eq(tunnel, &self.tunnel));
            if tunnels.is_empty() {
                clusters.remove(&self.tunnel.peer.cluster);
            }
        }
        drop(clusters);
        inner.changed.send_replace(());
    }
}
