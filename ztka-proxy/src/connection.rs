//! What is known of a user's connection before its first request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use rustls_pki_types::CertificateDer;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use ztka_core::{ClusterId, Evidence, Verified};
use ztka_pki::Peer;

use crate::{Framing, Place, connections::Watched, directory::Known, limits::CountedUser};

/// The certificate that a user's client presented; its chain has been verified.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Whose it is.
    pub peer: Verified<Peer>,
    /// The chain as presented, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A user's connection. Each of its requests carries it as an extension. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: Option<Certificate>,
    server_name: Option<String>,
    cluster: Option<ClusterId>,
    client: SocketAddr,
    framing: Framing,
    crowded: OnceLock<()>,
    kept: OnceLock<(Watched, Option<CountedUser>)>,
    _place: Option<Place>,
    upgrades: TaskTracker,
    cut: CancellationToken,
    evidence: Mutex<Option<(Arc<Known>, Evidence)>>,
}

impl Connection {
    /// A connection from `client` by TLS server name `server_name`, which may name `cluster`.
    pub fn new(
        client: SocketAddr,
        server_name: Option<String>,
        cluster: Option<ClusterId>,
        certificate: Option<Certificate>,
    ) -> Self {
        let server_name = server_name.map(|name| name.to_ascii_lowercase());
        Self(Arc::new(Inner {
            certificate,
            server_name,
            cluster,
            client,
            framing: Framing::default(),
            crowded: OnceLock::new(),
            kept: OnceLock::new(),
            _place: None,
            upgrades: TaskTracker::new(),
            cut: CancellationToken::new(),
            evidence: Mutex::new(None),
        }))
    }

    /// The same, which keeps `place` as long as anything of it lives, an upgraded stream included.
    #[must_use]
    pub fn placed(self, place: Place) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { _place: Some(place), ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// The same with the handle of its guard, its upgraded connections counted by `upgrades`, and ended with `cut`.
    pub(crate) fn served(self, framing: Framing, upgrades: TaskTracker, cut: CancellationToken) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { framing, upgrades, cut, ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// The client's certificate, if it has one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.0.certificate.as_ref()
    }

    /// The TLS server name in lower case, if the client gave one.
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The cluster that the server name names.
    pub fn cluster(&self) -> Option<&ClusterId> {
        self.0.cluster.as_ref()
    }

    /// The client's address.
    pub fn source(&self) -> IpAddr {
        self.0.client.ip().to_canonical()
    }

    pub(crate) fn framing(&self) -> &Framing {
        &self.0.framing
    }

    pub(crate) fn upgrades(&self) -> &TaskTracker {
        &self.0.upgrades
    }

    /// Ends the connection with all that is open on it.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.0.cut
    }

    /// Keeps these as long as anything of the connection lives, an upgraded stream included.
    pub(crate) fn keep(&self, watched: Watched, counted: Option<CountedUser>) {
        let _ = self.0.kept.set((watched, counted));
    }

    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.0))
    }

    /// The user has more connections than the limit: requests on this one are answered 429.
    pub(crate) fn set_crowded(&self) {
        let _ = self.0.crowded.set(());
    }

    pub(crate) fn is_crowded(&self) -> bool {
        self.0.crowded.get().is_some()
    }

    /// What proves the user of this connection by the session `known`; built once for each.
    pub(crate) fn evidence(&self, known: &Arc<Known>) -> Option<Evidence> {
        let chain = &self.0.certificate.as_ref()?.chain;
        let mut held = self.0.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some((of, evidence)) if Arc::ptr_eq(of, known) => Some(evidence.clone()),
            _ => {
                let evidence = known.evidence(chain);
                *held = Some((known.clone(), evidence.clone()));
                Some(evidence)
            }
        }
    }
}

/// A connection as the watch over it knows it.
#[derive(Debug)]
pub(crate) struct WeakConnection(Weak<Inner>);

impl WeakConnection {
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(Connection)
    }
}
