//! Port 443: who a connection is for follows from the TLS server name, before anything else of it is looked at.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use ztka_core::{Reason, Refusal, RefusalSink};

use crate::{
    Buffered, Cidr, Limits, Names, PassOn, Place, Role, hello,
    places::{Handshakes, Own, Places},
    proxy_protocol,
};

/// ClientHello, turn and handshake, each.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the ends of what is told to end when the grace is over.
const GOODBYE: Duration = Duration::from_secs(3);

/// More connections than a system's queue holds.
const QUEUE: usize = 4096;

/// How a connection arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The client's address, as a trusted balancer tells it where there is one.
    pub client: SocketAddr,
    /// The TLS server name asked for.
    pub server_name: Option<String>,
    /// What that name stands for.
    pub role: Role,
    /// Its place among the connections that there may be: free when this is dropped, clones included.
    pub place: Place,
}

/// Tells connections that the server stops: first to send their clients elsewhere, then to take nothing new, then to end.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    closed: CancellationToken,
    cut: CancellationToken,
    streams: TaskTracker,
}

impl Drain {
    /// Resolves when clients should be told to go elsewhere; what they ask all the same is still answered.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Cancelled when clients should be told to go elsewhere.
    pub(crate) fn beginning(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Whether clients should be told to go elsewhere.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Resolves when nothing new is taken any more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Cancelled when everything has to end now.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Tasks that outlive their connection's server, as spliced streams do.
    pub fn streams(&self) -> &TaskTracker {
        &self.streams
    }
}

/// How far a server has come that stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stopping {
    /// Nothing new is taken any more; what is open goes on.
    Closed,
    /// The grace is over: what is still open has to be ended now, and has a moment for it.
    Over,
}

type Told = dyn Fn(Stopping) + Send + Sync;

/// A connection after its handshake.
pub type Accepted = Box<TlsStream<Buffered<TcpStream>>>;

/// Takes connections of one role, after their handshake.
pub trait Handler: fmt::Debug + Send + Sync + 'static {
    /// Serves a connection until it ends or `drain` says so.
    fn handle(&self, tls: Accepted, arrival: Arrival, drain: Drain) -> BoxFuture<'static, ()>;
}

/// One role's TLS configuration and the handler behind it.
#[derive(Clone, Debug)]
pub struct Listener {
    tls: TlsAcceptor0,
    handler: Arc<dyn Handler>,
}

/// A closure has no `Debug`.
#[derive(Clone)]
struct Told0(Arc<Told>);

impl fmt::Debug for Told0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// `TlsAcceptor` has no `Debug`.
#[derive(Clone)]
struct TlsAcceptor0(TlsAcceptor);

impl fmt::Debug for TlsAcceptor0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Listener {
    /// Connections that shake hands by `tls` go to `handler`.
    pub fn new(tls: Arc<ServerConfig>, handler: impl Handler) -> Self {
        Self { tls: TlsAcceptor0(tls.into()), handler: Arc::new(handler) }
    }
}

/// Accepts on one TCP listener and routes by server name.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    names: Names,
    users: Listener,
    tunnels: Listener,
    controller: PassOn,
    balancers: Vec<Cidr>,
    notice: Duration,
    told: Told0,
    places: Places,
    users_handshakes: Handshakes,
    tunnels_handshakes: Handshakes,
    refusals: Arc<dyn RefusalSink>,
}

impl Acceptor {
    /// Routes by `names`; each role has its own TLS configuration, and so its own rule for client certificates. The
    /// controller's names go to `controller`.
    pub fn new(
        names: Names,
        users: Listener,
        tunnels: Listener,
        controller: PassOn,
        limits: &Limits,
        refusals: Arc<dyn RefusalSink>,
    ) -> Self {
        Self(Arc::new(Inner {
            names,
            users,
            tunnels,
            controller,
            balancers: Vec::new(),
            notice: Duration::ZERO,
            told: Told0(Arc::new(|_| {})),
            places: Places::new(limits),
            users_handshakes: Handshakes::new(limits),
            tunnels_handshakes: Handshakes::new(limits),
            refusals,
        }))
    }

    /// Connections from `balancers` begin with a PROXY protocol header of version 2, which is believed.
    #[must_use]
    pub fn behind(self, balancers: Vec<Cidr>) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { balancers, ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// Goes on accepting for `notice` after it was asked to stop, so that whoever balances sees in time that this server
    /// is not ready any more; and calls `told` as the stop proceeds. Without this, nothing is accepted from then on.
    #[must_use]
    pub fn stopping(self, notice: Duration, told: impl Fn(Stopping) + Send + Sync + 'static) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { notice, told: Told0(Arc::new(told)), ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// Accepts until `shutdown`, and then stops in such a way that no request fails and no stream ends without a word:
    ///
    /// 1. Clients are sent elsewhere: GOAWAY over HTTP/2, `Connection: close` on each answer over HTTP/1.1. Connections are
    ///    still accepted, for as long as [`Self::stopping`] says.
    /// 2. Nothing is accepted any more, and idle connections close. What was begun goes on for up to `grace`.
    /// 3. What is still open is ended cleanly by whoever was [told](Self::stopping), and cut 3 s later.
    ///
    /// # Errors
    /// None of a single connection; the listener's own errors (as running out of file descriptors) are waited out.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
        grace: Duration,
    ) -> io::Result<()> {
        let (drain, tasks) = (Drain::default(), TaskTracker::new());
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut shutdown => break,
            };
            self.take(accepted, &drain, &tasks).await;
        }
        drain.begun.cancel();
        let mut notice = std::pin::pin!(sleep(self.0.notice));
        loop {
            tokio::select! {
                accepted = listener.accept() => self.take(accepted, &drain, &tasks).await,
                () = &mut notice => break,
            }
        }
        // The system has answered for those in its queue.
        for _ in 0..QUEUE {
            let Some(accepted) = listener.accept().now_or_never() else { break };
            self.take(accepted, &drain, &tasks).await;
        }
        drop(listener);
        drain.closed.cancel();
        (self.0.told.0)(Stopping::Closed);
        tasks.close();
        drain.streams.close();
        let done = async || {
            tokio::join!(tasks.wait(), drain.streams.wait());
        };
        if timeout(grace, done()).await.is_err() {
            (self.0.told.0)(Stopping::Over);
            if timeout(GOODBYE, done()).await.is_err() {
                drain.cut.cancel();
                done().await;
            }
        }
        Ok(())
    }

    /// Serves what was accepted as one of `tasks`.
    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>, drain: &Drain, tasks: &TaskTracker) {
        let (tcp, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                return sleep(Duration::from_millis(50)).await;
            }
        };
        // At the limit the connection is closed at once; a queue would only hide it.
        let Some(of_all) = self.0.places.of_all() else { return };
        let balanced = self.0.balancers.iter().any(|balancer| balancer.contains(client.ip()));
        let of_network = if balanced { None } else { self.0.places.of_network(client.ip()) };
        if !balanced && of_network.is_none() {
            return;
        }
        let (acceptor, drain) = (self.clone(), drain.clone());
        tasks.spawn(async move {
            let places = (of_all, of_network);
            let served = tokio::select! {
                served = acceptor.connection(tcp, client, balanced, places, drain.clone()) => served,
                () = drain.cut.cancelled() => Ok(()),
            };
            if let Err(error) = served {
                tracing::debug!(%client, error = &error as &dyn std::error::Error, "connection refused");
            }
        });
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        balanced: bool,
        places: (OwnedSemaphorePermit, Option<Own>),
        drain: Drain,
    ) -> io::Result<()> {
        // Futures keep room for all that was ever in them, and there may be ten thousand of this one: what only its
        // beginning needs is in a box of its own.
        let greeted = Box::pin(self.greet(tcp, peer, balanced, places, drain)).await?;
        if let Some((_place, served)) = greeted {
            served.await;
        }
        Ok(())
    }

    /// Up to the end of the handshake; what then serves the connection for as long as it lasts, with its place.
    async fn greet(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        balanced: bool,
        (of_all, mut of_network): (OwnedSemaphorePermit, Option<Own>),
        drain: Drain,
    ) -> io::Result<Option<(Place, BoxFuture<'static, ()>)>> {
        tcp.set_nodelay(true)?;
        let mut tcp = Buffered::new(tcp);
        let hello = async {
            let told = if balanced { proxy_protocol::read(&mut tcp).await? } else { None };
            if let Some(client) = told {
                let full = || io::Error::other("too many connections, or new ones, from this address");
                of_network = Some(self.0.places.of_network(client.ip()).ok_or_else(full)?);
            }
            let server_name = hello::server_name(&mut tcp).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((told.unwrap_or(peer), server_name))
        };
        // Who has not asked for anything yet when the server stops is better served elsewhere.
        let (client, server_name) = tokio::select! {
            hello = timeout(HANDSHAKE, hello) => hello??,
            () = drain.closed() => return Ok(None),
        };
        let Some(role) = self.0.names.role(server_name.as_deref()) else {
            return hello::refuse_name(&mut tcp).await.map(|()| None);
        };
        let place = Place::new(of_all, of_network);
        let arrival = Arrival { client, server_name, role, place: place.clone() };
        let (listener, handshakes) = match arrival.role {
            Role::Users(_) => (&self.0.users, &self.0.users_handshakes),
            Role::Tunnel => (&self.0.tunnels, &self.0.tunnels_handshakes),
            Role::Controller => return self.0.controller.pass(tcp, arrival).await.map(|()| None),
        };
        let turn = timeout(HANDSHAKE, handshakes.turn(client.ip())).await??;
        let tls = timeout(HANDSHAKE, listener.tls.0.accept(tcp)).await;
        drop(turn);
        match tls? {
            Ok(tls) => Ok(Some((place, listener.handler.handle(Box::new(tls), arrival, drain)))),
            Err(error) => {
                self.report(&error, client);
                Err(error)
            }
        }
    }

    /// Certificates that were refused are worth an event; what else goes wrong in a handshake is noise.
    fn report(&self, error: &io::Error, client: SocketAddr) {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) = tls {
            let reason = Reason::Unauthenticated(format!("TLS handshake refused: {error}"));
            let source = Some(client.ip().to_canonical());
            self.0.refusals.refused(Refusal { target: None, source, principal: None, reason: &reason });
        }
    }
}
