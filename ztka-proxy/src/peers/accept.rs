//! The listener for other proxies: mutual TLS by proxies' own certificates, `peer.<domain>`.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;
use ztka_core::{BoxError, Reason, Refusal, RefusalSink, Reply};
use ztka_pki::{Peer, Purpose, TrustSource};
use ztka_tunnel::{EVIDENCE_PATH, Peered, ReadAhead, Registry};

use super::PeerWitness;
use crate::status::problem;

/// TCP and TLS together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Links at once, handshakes included: each other proxy has one, and a second one while it is replaced.
const LINKS: usize = 1024;
/// Never far ahead, for the clock may be set.
const LOOK: Duration = Duration::from_secs(60);

/// Takes links of other proxies, and gives what comes on them to the stack `S`.
#[derive(Clone)]
pub struct PeerAcceptor<S>(Arc<Inner<S>>);

struct Inner<S> {
    tls: TlsAcceptor,
    name: String,
    registry: Registry,
    trust: TrustSource,
    witness: PeerWitness,
    refusals: Arc<dyn RefusalSink>,
    stack: S,
}

impl<S> fmt::Debug for PeerAcceptor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAcceptor").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl<S> PeerAcceptor<S>
where
    S: Service<Request<Peered>, Response = Reply> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    /// Shakes hands by `tls`, which asks for certificates of proxies, as `peer.<domain>`; believes whom `trust` does. Evidence goes to
    /// `witness`, what it does not believe to `refusals`, requests to `stack`, and from there into `registry`.
    pub fn new(
        (tls, domain): (Arc<ServerConfig>, &str),
        registry: Registry,
        trust: TrustSource,
        witness: PeerWitness,
        refusals: Arc<dyn RefusalSink>,
        stack: S,
    ) -> Self {
        let (tls, name) = (tls.into(), format!("peer.{}", domain.to_ascii_lowercase()));
        Self(Arc::new(Inner { tls, name, registry, trust, witness, refusals, stack }))
    }

    /// Accepts until `shutdown`; then links take nothing new, and are cut after `grace`.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send, grace: Duration) {
        let (begun, cut, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let places = Arc::new(Semaphore::new(LINKS));
        let accept = async {
            loop {
                let (tcp, client) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept links of other proxies at the moment");
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (this, begun, cut) = (self.clone(), begun.child_token(), cut.clone());
                tasks.spawn(async move {
                    let _place = place;
                    let served = tokio::select! {
                        served = this.link(tcp, client, begun) => served,
                        () = cut.cancelled() => Ok(()),
                    };
                    if let Err(error) = served {
                        tracing::debug!(%client, error = &*error, "a link is refused or has ended");
                    }
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
        begun.cancel();
        tasks.close();
        if timeout(grace, tasks.wait()).await.is_err() {
            cut.cancel();
            tasks.wait().await;
        }
    }

    async fn link(&self, tcp: TcpStream, client: SocketAddr, drain: CancellationToken) -> Result<(), BoxError> {
        let Inner { tls, name, registry, trust, witness, refusals, stack } = &*self.0;
        tcp.set_nodelay(true)?;
        let tls = match timeout(HANDSHAKE, tls.accept(ReadAhead::new(tcp))).await? {
            Ok(tls) => tls,
            Err(error) => {
                self.report(&error, client);
                return Err(error.into());
            }
        };
        let (_, session) = tls.get_ref();
        if session.server_name() != Some(name) {
            return Err(format!("proxies are to ask for {name} here").into());
        }
        let peer = trust.verify(Purpose::Proxies, session.peer_certificates().unwrap_or_default())?;
        let from = Peer::as_proxy(&peer).ok_or("the certificate is not a proxy's")?;
        let who = from.clone();
        tracing::info!(proxy = %*who, %client, "another proxy has connected");
        let (witness, knows, refusals) = (witness.clone(), witness.clone(), refusals.clone());
        let whose = move |headers: &HeaderMap| knows.user_of(headers);
        let admit = move |headers: &HeaderMap, bytes| {
            witness.admit(headers, bytes).map_err(|reason| {
                let target = http::Uri::from_static(EVIDENCE_PATH);
                let recorded = match &reason {
                    Reason::Unauthenticated(text) => Reason::Unauthenticated(format!("proxy {}: {text}", *who)),
                    other => other.clone(),
                };
                refusals.refused(Refusal { target: Some(&target), source: None, principal: None, reason: &recorded });
                problem(&reason)
            })
        };
        tokio::select! {
            ended = registry.serve_peer(tls, from, stack.clone(), (admit, whose), drain.clone()) => Ok(ended?),
            () = self.revoked(&peer) => Err("the certificate of the other proxy is revoked".into()),
            () = self.expired(&peer, &drain) => Ok(()),
        }
    }

    async fn revoked(&self, peer: &Peer) {
        let mut changes = self.0.trust.changes();
        while !self.0.trust.is_revoked(peer) {
            changes.changed().await;
        }
    }

    /// Past its certificate's end the other proxy sends nothing new on this link; never returns.
    async fn expired(&self, peer: &Peer, drain: &CancellationToken) {
        loop {
            let left = peer.not_after.duration_since(self.0.trust.clock().now());
            match Duration::try_from(left) {
                Ok(left) if !left.is_zero() => sleep(left.min(LOOK)).await,
                _ => break,
            }
        }
        drain.cancel();
        std::future::pending().await
    }

    /// Certificates that were refused are worth an event; what else goes wrong in a handshake is noise.
    fn report(&self, error: &io::Error, client: SocketAddr) {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) = tls {
            let reason = Reason::Unauthenticated(format!("TLS handshake refused on the listener for proxies: {error}"));
            let source = Some(client.ip().to_canonical());
            self.0.refusals.refused(Refusal { target: None, source, principal: None, reason: &reason });
        }
    }
}
