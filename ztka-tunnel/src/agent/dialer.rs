//! Holds tunnels to some of the proxies: carries out what `hold` decides.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Request};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use ztka_core::{Body, BoxError, ProxyId, Reply, UserId};

use super::{
    attempt::{Attempt, Handle},
    connect::{Connect, ProxyAddress},
    hold::{Action, Event, Holder, KnownProxy, TunnelId},
};
use crate::{
    Settings,
    figures::{Dialling, Side, Up},
    stream::memory::{Memory, Who},
};

/// How many tunnels there are to be, and when and how patiently proxies are dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DialSettings {
    /// Tunnels at a time, each to another proxy. Default 2.
    pub tunnels: usize,
    /// Bound on one connection attempt, TLS included. Default 10 s.
    pub connect: Duration,
    /// The first retry comes within this time. Default 500 ms.
    pub first_retry: Duration,
    /// No two attempts are further apart. Default 10 s.
    pub max_retry: Duration,
    /// A tunnel that ends sooner counts as a failed attempt. Default 10 s.
    pub stable_after: Duration,
    /// A shared name that leads only to proxies to which there are tunnels is tried again after this time, then ever more
    /// rarely, up to 15 min; at once when the directory knows of another proxy. Default 60 s.
    pub search: Duration,
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            tunnels: 2,
            connect: Duration::from_secs(10),
            first_retry: Duration::from_millis(500),
            max_retry: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
            search: Duration::from_secs(60),
        }
    }
}

/// One of the tunnels that are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TunnelState {
    /// The proxy at its far end; none while there is no tunnel.
    pub proxy: Option<ProxyId>,
    /// Where it was dialled.
    pub address: Option<ProxyAddress>,
    /// Why the last attempt failed or the last tunnel ended.
    pub error: Option<String>,
}

/// Tunnels to several proxies, redialled as they end, and a service answering on them.
///
/// It knows proxies by shared addresses, each of which may lead to any of several, and by what it [learns](Self::learn).
/// No two tunnels are to the same proxy, and where zones are known they are in different ones; a lost one is replaced
/// elsewhere.
///
/// Requests carry `Verified<ProxyId>` of their tunnel as an extension, and [`Upgrade`](ztka_core::Upgrade) where they
/// ask for one; requests under `/.ztka/` come from the proxy itself. Dropped, it ends all tunnels at once.
#[derive(Debug)]
pub struct Dialer {
    task: JoinSet<()>,
    renewals: watch::Sender<u64>,
    directory: watch::Sender<Arc<[KnownProxy]>>,
    stop: CancellationToken,
    states: watch::Receiver<Vec<TunnelState>>,
    memory: Arc<Memory>,
}

impl Dialer {
    /// Starts to dial, by way of the `shared` addresses and with default settings. To be called inside a tokio runtime.
    pub fn start<C, S>(connect: C, shared: impl IntoIterator<Item = ProxyAddress>, service: S) -> Self
    where
        C: Connect,
        S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        Self::start_with(connect, shared, service, Settings::default(), DialSettings::default())
    }

    /// Starts to dial, by way of the `shared` addresses. To be called inside a tokio runtime.
    ///
    /// Nobody says here whose a request is, so that whoever sends is held to [`Settings::user_memory`] for each evidence that
    /// they have; see [`Self::start_for_users`].
    pub fn start_with<C, S>(
        connect: C,
        shared: impl IntoIterator<Item = ProxyAddress>,
        service: S,
        settings: Settings,
        dial: DialSettings,
    ) -> Self
    where
        C: Connect,
        S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        Self::start_for_users(connect, shared, service, (settings, dial), |_| None)
    }

    /// The same where `who` knows by the headers of a request whose it is, from the evidence that came before. It is asked for
    /// requests with a body of more than 16 KiB, or of unknown length, and for upgrades; it must not block.
    pub fn start_for_users<C, S>(
        connect: C,
        shared: impl IntoIterator<Item = ProxyAddress>,
        service: S,
        (settings, dial): (Settings, DialSettings),
        who: impl Fn(&HeaderMap) -> Option<UserId> + Send + Sync + 'static,
    ) -> Self
    where
        C: Connect,
        S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        let seed = RandomState::new().build_hasher().finish();
        let holder = Holder::new(shared, dial, settings, seed, Instant::now().into_std());
        let (states, watched) = watch::channel(holder.states());
        let (renewals, directory) = (watch::Sender::new(0), watch::Sender::new(Arc::default()));
        let stop = CancellationToken::new();
        let (told, events) = mpsc::unbounded_channel();
        let memory = Memory::new(&settings, Side::Agent);
        let shell = Shell {
            holder,
            attempt: Attempt {
                connect: Arc::new(connect),
                service,
                settings,
                memory: memory.clone(),
                who: Who::new(who),
                told,
            },
            tunnels: HashMap::new(),
            fresh: dial.tunnels,
            tasks: JoinSet::new(),
            states,
        };
        let mut task = JoinSet::new();
        task.spawn(shell.run(events, renewals.subscribe(), directory.subscribe(), stop.clone()));
        Self { task, renewals, directory, stop, states: watched, memory }
    }

    /// The credential has changed: each tunnel is replaced by a new one. The old ones go on until the new ones are ready,
    /// and then end with their last streams: no stream ends by this and no request fails. Returns at once.
    pub fn renew(&self) {
        self.renewals.send_modify(|count| *count += 1);
    }

    /// The proxies that there are, all of them. What is not among them any more is not dialled by its own address; its
    /// tunnel goes on. Returns at once.
    pub fn learn(&self, proxies: impl Into<Arc<[KnownProxy]>>) {
        let proxies = proxies.into();
        self.directory.send_if_modified(|known| {
            let is_news = *known != proxies;
            *known = proxies;
            is_news
        });
    }

    /// Bytes received from proxies that nobody has read yet, of all tunnels; as last counted, some seconds ago at the most.
    pub fn buffered(&self) -> usize {
        self.memory.held()
    }

    /// The same of that user who has most (of that evidence, where nobody knows whose it is), and how many streams were ended
    /// because nobody read them.
    pub fn buffered_by_one(&self) -> (usize, u64) {
        (self.memory.most_of_a_user(), self.memory.ended())
    }

    /// State of each tunnel that is wanted, in no particular order.
    pub fn states(&self) -> watch::Receiver<Vec<TunnelState>> {
        self.states.clone()
    }

    /// Takes no more requests, and returns when the last stream has ended or `grace` is over.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.cancel();
        let all = async { while self.task.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            tracing::info!("ending the streams that are left");
        }
    }
}

/// Carries out what the holder decides, and tells it what has happened.
struct Shell<C, S> {
    holder: Holder,
    attempt: Attempt<C, S>,
    tunnels: HashMap<TunnelId, Handle>,
    /// So many attempts are not in the place of another one.
    fresh: usize,
    tasks: JoinSet<()>,
    states: watch::Sender<Vec<TunnelState>>,
}

impl<C, S> Shell<C, S>
where
    C: Connect,
    S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut renewals: watch::Receiver<u64>,
        mut directory: watch::Receiver<Arc<[KnownProxy]>>,
        stop: CancellationToken,
    ) {
        loop {
            while let Some(action) = self.holder.action() {
                self.act(action);
            }
            let states = self.holder.states();
            self.states.send_if_modified(|known| {
                let changed = *known != states;
                *known = states;
                changed
            });
            if self.holder.is_over() {
                break;
            }
            let wake = self.holder.wake().map(Instant::from_std);
            let woken = async {
                match wake {
                    Some(wake) => sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                Some(event) = events.recv() => Some(event),
                Ok(()) = renewals.changed() => Some(Event::Renewed),
                Ok(()) = directory.changed() => Some(Event::Learnt(directory.borrow_and_update().clone())),
                () = stop.cancelled(), if !self.holder.is_stopped() => Some(Event::Stopped),
                Some(_) = self.tasks.join_next() => continue,
                () = woken => None,
            };
            let now = Instant::now().into_std();
            match event {
                Some(event) => {
                    self.log(&event);
                    match &event {
                        Event::Ready(tunnel) => {
                            if let Some(handle) = self.tunnels.get_mut(tunnel) {
                                handle.up.get_or_insert_with(|| Up::new(Side::Agent));
                            }
                        }
                        Event::Ended(tunnel, _) => drop(self.tunnels.remove(tunnel)),
                        _ => {}
                    }
                    self.holder.handle(event, now);
                }
                None => self.holder.woken(now),
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial(tunnel, address) => {
                let dialling = Dialling::begin(Side::Agent, self.fresh == 0);
                self.fresh = self.fresh.saturating_sub(1);
                let handle = self.attempt.start(tunnel, address, dialling, &mut self.tasks);
                self.tunnels.insert(tunnel, handle);
            }
            Action::Begin(tunnel) => {
                if let Some(handle) = self.tunnels.get_mut(&tunnel) {
                    handle.begin();
                }
            }
            Action::HangUp(tunnel) => drop(self.tunnels.remove(&tunnel)),
            Action::Drain(tunnel) => {
                if let Some(handle) = self.tunnels.get(&tunnel) {
                    handle.drain();
                }
            }
            Action::Cut(tunnel, reason) => {
                tracing::warn!(reason, "an old tunnel is ended with its streams");
                self.tunnels.remove(&tunnel);
            }
        }
    }

    fn log(&self, event: &Event) {
        let address = |tunnel| self.tunnels.get(tunnel).map(|handle| handle.address.to_string()).unwrap_or_default();
        match event {
            Event::Connected(tunnel, id) => tracing::debug!(proxy = address(tunnel), %id, "connected"),
            Event::Ready(tunnel) => tracing::info!(proxy = address(tunnel), "tunnel is ready"),
            Event::Draining(tunnel) => tracing::info!(proxy = address(tunnel), "the proxy is draining"),
            Event::Ended(tunnel, error) => tracing::info!(proxy = address(tunnel), error, "tunnel ended"),
            Event::Learnt(proxies) => tracing::info!(proxies = proxies.len(), "the directory of proxies has changed"),
            Event::Renewed | Event::Stopped => {}
        }
    }
}
