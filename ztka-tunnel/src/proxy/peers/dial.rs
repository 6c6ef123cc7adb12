//! Keeps one link to each of the other proxies: dialled with full jitter, replaced before it is old, redialled when it ends.

use std::{
    collections::{HashMap, hash_map::RandomState},
    error::Error as _,
    future::pending,
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use ztka_core::ProxyId;

use super::{
    KnownPeer, PeerSettings, Table,
    link::{self, Young},
};
use crate::{
    Connect, ConnectError, Settings, TunnelError,
    figures::{Dialling, Side},
};

/// Follows the directory until nobody has a handle any more.
pub(super) async fn keep<C: Connect>(
    connect: Arc<C>,
    mut directory: watch::Receiver<Arc<[KnownPeer]>>,
    table: Arc<Table>,
    settings: (Settings, PeerSettings),
) {
    let mut keepers: HashMap<ProxyId, watch::Sender<Option<KnownPeer>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let known = directory.borrow_and_update().clone();
        keepers.retain(|id, keeper| {
            let entry = known.iter().find(|peer| peer.id == *id);
            keeper.send_if_modified(|held| {
                let is_news = held.as_ref() != entry;
                *held = entry.cloned();
                is_news
            });
            entry.is_some()
        });
        for peer in known.iter().filter(|peer| !keepers.contains_key(&peer.id)).collect::<Vec<_>>() {
            let (told, entry) = watch::channel(Some(peer.clone()));
            let keeper =
                Keeper { connect: connect.clone(), table: table.clone(), settings, entry, failures: 0, dialled: false };
            tasks.spawn(keeper.run());
            keepers.insert(peer.id.clone(), told);
        }
        tokio::select! {
            changed = directory.changed() => if changed.is_err() { return },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// One proxy's.
struct Keeper<C> {
    connect: Arc<C>,
    table: Arc<Table>,
    settings: (Settings, PeerSettings),
    /// Where it is; none when it is not in the directory any more.
    entry: watch::Receiver<Option<KnownPeer>>,
    failures: u32,
    dialled: bool,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum NoLink {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no connection to {0} in {1:?}")]
    Late(String, Duration),
    #[error("{0} is there instead; check the address that it announces")]
    Another(ProxyId),
}

impl<C: Connect> Keeper<C> {
    async fn run(mut self) {
        let mut links = JoinSet::new();
        loop {
            let Some(peer) = self.entry.borrow_and_update().clone() else { break };
            match self.begin(&peer, &mut links).await {
                Ok(young) => self.serve(young, &mut links).await,
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    let source = error.source().map(ToString::to_string);
                    tracing::warn!(peer = %peer.id, %error, source, "no link to another proxy");
                }
            }
            tokio::select! {
                () = sleep(self.wait()) => {}
                _ = self.entry.changed() => {}
            }
        }
        // What is open on the last ones goes on to its end.
        while links.join_next().await.is_some() {}
    }

    /// Connects, and starts to set up.
    async fn begin(&mut self, peer: &KnownPeer, links: &mut JoinSet<()>) -> Result<Young, NoLink> {
        let (settings, dial) = self.settings;
        let dialling = Dialling::begin(Side::Link, std::mem::replace(&mut self.dialled, true));
        let connected = timeout(dial.connect, self.connect.connect(&peer.address)).await;
        let late = |_| NoLink::Late(peer.address.to_string(), dial.connect);
        let (io, id) = connected.map_err(late).and_then(|connected| Ok(connected?))?;
        dialling.connected();
        if *id != peer.id {
            return Err(NoLink::Another(ProxyId::clone(&id)));
        }
        let (ready, readied) = oneshot::channel();
        let left = CancellationToken::new();
        let young = Young { ready: readied, left: left.clone() };
        let (id, table) = (ProxyId::clone(&id), self.table.clone());
        links.spawn(async move {
            let ended = link::run(io, id.clone(), settings, (table, ready, left)).await;
            match ended {
                Ok(()) | Err(TunnelError::Ended) => tracing::debug!(peer = %id, "the link to another proxy has ended"),
                Err(error) => tracing::info!(peer = %id, error = &error as &dyn std::error::Error, "a link has ended"),
            }
        });
        Ok(young)
    }

    /// Returns when there is no link that takes requests.
    async fn serve(&mut self, mut young: Young, links: &mut JoinSet<()>) {
        let (_, dial) = self.settings;
        let begun = Instant::now();
        let Ok(mut current) = young.ready.await else {
            self.failures = self.failures.saturating_add(1);
            return;
        };
        let mut replace_at = Instant::now() + dial.life;
        let is_gone = loop {
            let gone = async {
                if self.entry.wait_for(Option::is_none).await.is_err() {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = young.left.cancelled() => break false,
                () = gone => break true,
                Some(_) = links.join_next() => {}
                () = sleep_until(replace_at) => {
                    let Some(peer) = self.entry.borrow().clone() else { break true };
                    let fresh = match self.begin(&peer, links).await {
                        Ok(mut fresh) => (&mut fresh.ready).await.ok().map(|tunnel| (fresh, tunnel)),
                        Err(_) => None,
                    };
                    replace_at = Instant::now() + match &fresh {
                        Some(_) => dial.life,
                        None => dial.max_retry,
                    };
                    if let Some((fresh, tunnel)) = fresh {
                        current.leave();
                        (young, current) = (fresh, tunnel);
                    }
                }
            }
        };
        if is_gone {
            // It has said that it stops, or is not heard of: what is there is used until it ends.
            young.left.cancelled().await;
        }
        self.failures = if begun.elapsed() < dial.stable_after { self.failures.saturating_add(1) } else { 1 };
    }

    /// Anywhere between nothing and a bound that doubles.
    fn wait(&self) -> Duration {
        let (_, dial) = self.settings;
        let doubled = dial.first_retry.saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1)));
        let random = RandomState::new().build_hasher().finish();
        doubled.min(dial.max_retry).mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
