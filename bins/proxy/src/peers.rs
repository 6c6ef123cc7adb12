//! Passing requests on to other proxies, and taking theirs.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http::Request;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::Service;
use ztka_core::{BoxError, ProxyEntry, ProxyId, Reply, Subject};
use ztka_follow::Member;
use ztka_pki::{Purpose, tls};
use ztka_proxy::{PeerAcceptor, PeerCheck, follow_peers};
use ztka_tunnel::{PeerSettings, Peered, Peers, Registry, Tls};

use crate::Config;

/// Both directions, before they are served.
pub(crate) struct Links {
    pub(crate) peers: Peers,
    check: PeerCheck,
    own: (ProxyId, ServerName<'static>),
    listener: TcpListener,
}

/// What `[peers]` asks for, if it is there.
pub(crate) fn links(
    config: &Config,
    member: &Member,
    provider: Arc<CryptoProvider>,
    registry: &Registry,
) -> anyhow::Result<Option<Links>> {
    let Some(wanted) = &config.peers else { return Ok(None) };
    let listener = TcpListener::bind(wanted.listen)
        .with_context(|| format!("peers.listen: cannot listen on {}; is the port in use?", wanted.listen))?;
    listener.set_nonblocking(true).context("peers.listen")?;
    let Subject::Proxy(id) = member.id().subject.clone() else { bail!("only proxies have peers") };
    let (trust, credentials) = (member.documents().trust().clone(), member.credentials().clone());
    let client = tls::client(provider, trust.clone(), Some(credentials), Purpose::Proxies, &[ztka_tunnel::ALPN])?;
    let check = PeerCheck::new(trust);
    let identify = check.clone();
    let connect = Tls::new(client, move |chain| identify.identify(chain));
    let peers = Peers::start(registry, connect, PeerSettings::default());
    Ok(Some(Links { peers, check, own: (id, config.server_name("peer")?), listener }))
}

impl Links {
    /// Serves both until `shutdown`, when what has begun has `grace` to end; the task ends with the last link of others.
    pub(crate) fn start<S>(
        self,
        taking: PeerAcceptor<S>,
        entries: watch::Receiver<Arc<[ProxyEntry]>>,
        shutdown: CancellationToken,
        grace: Duration,
    ) -> JoinHandle<()>
    where
        S: Service<Request<Peered>, Response = Reply> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        let Self { peers, check, own, listener } = self;
        tokio::spawn(follow_peers(peers, check, own, entries));
        tokio::spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => taking.serve(listener, shutdown.cancelled(), grace).await,
                Err(error) => tracing::error!(%error, "other proxies cannot be served"),
            }
        })
    }
}
