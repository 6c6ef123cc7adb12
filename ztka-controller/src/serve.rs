//! Listeners: TLS by server name, who the peer is, and the router behind.
//!
//! A connection is for one [`Site`], chosen by the server name of its ClientHello, and never changes it. Connections come
//! from a TCP listener, or already accepted over a stream ([`Arrived`]): a proxy in the same process passes the
//! controller's names on so.
mod connection;
mod limits;
mod proxy_protocol;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use futures_util::{Stream, StreamExt as _};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use ztka_core::BoxError;
use ztka_pki::{ClientAuth, CredentialSource, PublicKey, Purpose, tls};

pub use self::limits::Limits;
use crate::Controller;

/// Requests under way have this long at the end.
const GRACE: Duration = Duration::from_secs(10);

/// The key of the peer's certificate: request extension beside the peer itself, to check what it signed.
#[derive(Clone, Debug)]
pub struct PeerKey(pub PublicKey);

/// Bytes both ways.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// A connection that was accepted, before TLS.
pub struct Arrived {
    /// The connection, from its first byte.
    pub io: Box<dyn Transport>,
    /// Who connected, where that is known.
    pub client: Option<SocketAddr>,
}

impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrived").field("client", &self.client).finish_non_exhaustive()
    }
}

/// What is behind one server name.
#[derive(Clone, Debug)]
pub struct Site {
    /// The server name.
    pub name: String,
    /// TLS, with the rule for client certificates.
    pub tls: Arc<ServerConfig>,
    /// Purposes that a client certificate may be of; empty where none is asked for.
    pub clients: Vec<Purpose>,
    /// The routes.
    pub router: Router,
    /// Places for connections, which are nobody else's.
    places: Arc<Semaphore>,
}

impl Site {
    fn new(name: String, tls: Arc<ServerConfig>, clients: Vec<Purpose>, router: Router) -> Self {
        Self { name, tls, clients, router, places: places(&Limits::default()) }
    }
}

/// The sites behind one listener.
#[derive(Clone, Debug)]
pub struct Sites {
    controller: Controller,
    sites: Arc<[Site]>,
    limits: Limits,
    /// Places for connections that have not named their site yet.
    arriving: Arc<Semaphore>,
}

impl Sites {
    /// The controller's names that share port 443 with the proxies': `enroll.`, `agents.` and `api.<domain>`. `servers`
    /// has a certificate for [`Controller::public_names`].
    ///
    /// # Errors
    /// The crypto provider cannot do TLS 1.3.
    pub fn public(controller: &Controller, servers: &CredentialSource) -> Result<Self, rustls::Error> {
        let [enrol, agents, api] = controller.public_names();
        let site = |name, auth: ClientAuth, clients, router| {
            let (provider, trust) = (controller.0.provider.clone(), controller.trust().clone());
            let tls = tls::server(provider, servers.clone(), auth, trust, &[b"h2", b"http/1.1"])?;
            Ok::<_, rustls::Error>(Site::new(name, tls, clients, router))
        };
        let sites = [
            site(enrol, ClientAuth::None, Vec::new(), controller.enrol()),
            site(agents, ClientAuth::Required(Purpose::Agents), vec![Purpose::Agents], controller.agents()),
            site(api, ClientAuth::Requested(Purpose::Users), vec![Purpose::Users], controller.api()),
        ];
        Ok(Self::new(controller, sites.into_iter().collect::<Result<_, _>>()?))
    }

    /// The controllers' own listener, for proxies: `controllers.<domain>`, by [`Controller::controller_credential`].
    ///
    /// # Errors
    /// The crypto provider cannot do TLS 1.3.
    pub fn internal(controller: &Controller, own: &CredentialSource) -> Result<Self, rustls::Error> {
        let (provider, trust) = (controller.0.provider.clone(), controller.trust().clone());
        let auth = ClientAuth::Required(Purpose::Proxies);
        let tls = tls::server(provider, own.clone(), auth, trust, &[b"h2", b"http/1.1"])?;
        let name = format!("controllers.{}", controller.domain());
        let site = Site::new(name, tls, vec![Purpose::Proxies], controller.proxies());
        Ok(Self::new(controller, vec![site]))
    }

    fn new(controller: &Controller, sites: Vec<Site>) -> Self {
        let limits = Limits::default();
        Self { controller: controller.clone(), sites: sites.into(), limits, arriving: places(&limits) }
    }

    /// The same within other limits than the defaults. Clones share their places, also in [`Self::and`].
    #[must_use]
    pub fn limited(self, limits: &Limits) -> Self {
        let sites = self.sites.iter().map(|site| Site { places: places(limits), ..site.clone() }).collect();
        Self { sites, limits: *limits, arriving: places(limits), ..self }
    }

    /// These sites and those of `others`, behind one listener.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self { sites: self.sites.iter().chain(others.sites.iter()).cloned().collect(), ..self }
    }

    fn find(&self, name: Option<&str>) -> Option<&Site> {
        let name = name?;
        self.sites.iter().find(|site| site.name.eq_ignore_ascii_case(name))
    }

    /// Serves a TCP listener until `shutdown`; requests under way then have ten seconds. With `proxy_protocol`, every
    /// connection has to begin with a PROXY protocol header of version 2, which is believed: only for a listener that
    /// nobody but the proxies can reach.
    ///
    /// Errors of single connections end these alone; the listener's own (no more file descriptors) are waited out.
    pub async fn serve(self, listener: TcpListener, proxy_protocol: bool, shutdown: impl Future<Output = ()>) {
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let accept = async {
            loop {
                let (mut tcp, client) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted; are there too many open files?");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let Some(arriving) = self.arriving() else { continue };
                // Only latency suffers without it.
                let _ = tcp.set_nodelay(true);
                let (sites, end) = (self.clone(), end.clone());
                tasks.spawn(async move {
                    let client = match proxy_protocol {
                        true => match proxy_protocol::read(&mut tcp).await {
                            Ok(told) => told.or(Some(client)),
                            Err(error) => return log(&error.into(), Some(client)),
                        },
                        false => Some(client),
                    };
                    sites.connection(Arrived { io: Box::new(tcp), client }, arriving, end).await;
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
        finish(&tasks, &end).await;
    }

    /// Serves connections that somebody else accepted, until `shutdown` or their end.
    pub async fn serve_arrived(self, arrived: impl Stream<Item = Arrived>, shutdown: impl Future<Output = ()>) {
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let mut arrived = std::pin::pin!(arrived);
        let accept = async {
            while let Some(connection) = arrived.next().await {
                let Some(arriving) = self.arriving() else { continue };
                let (sites, end) = (self.clone(), end.clone());
                tasks.spawn(async move { sites.connection(connection, arriving, end).await });
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
        finish(&tasks, &end).await;
    }

    /// A place for a connection that has not named its site; at the limit it is closed, since a queue would keep those
    /// waiting who have places left at theirs.
    fn arriving(&self) -> Option<OwnedSemaphorePermit> {
        self.arriving.clone().try_acquire_owned().ok()
    }

    async fn connection(&self, arrived: Arrived, arriving: OwnedSemaphorePermit, end: CancellationToken) {
        let client = arrived.client;
        if let Err(error) = connection::serve(self, arrived, arriving, end).await {
            log(&error, client);
        }
    }

    pub(crate) fn controller(&self) -> &Controller {
        &self.controller
    }
}

impl Controller {
    /// `enroll.<domain>`, `agents.<domain>`, `api.<domain>`: what [`Sites::public`] serves, and what its certificate is
    /// for.
    pub fn public_names(&self) -> [String; 3] {
        ["enroll", "agents", "api"].map(|label| format!("{label}.{}", self.domain()))
    }
}

fn places(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.connections))
}

async fn finish(tasks: &TaskTracker, end: &CancellationToken) {
    end.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "connections are cut");
    }
}

fn log(error: &BoxError, client: Option<SocketAddr>) {
    let ordinary = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if !ordinary {
        tracing::debug!(error = &**error, ?client, "a connection ended");
    }
}
