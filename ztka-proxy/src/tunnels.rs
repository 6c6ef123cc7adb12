//! Agents' tunnels: who an agent is says its certificate, for as long as it is not revoked.

use std::future::ready;

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use ztka_core::{Subject, Verified};
use ztka_pki::{Peer, PeerError, Purpose, TrustSource};
use ztka_tunnel::{Registry, Settings, TunnelError, TunnelPeer, give_up_unacknowledged};

use crate::{Accepted, Arrival, Drain, Handler, Limits, limits::TunnelArrivals};

/// Enters agents' connections into a registry. A revoked agent loses its tunnels at once.
#[derive(Clone, Debug)]
pub struct Tunnels {
    registry: Registry,
    trust: TrustSource,
    arrivals: TunnelArrivals,
}

impl Tunnels {
    /// Enters what `trust` verifies into `registry`, of one cluster no faster than `limits` say.
    pub fn new(registry: Registry, trust: TrustSource, limits: &Limits) -> Self {
        Self { registry, trust, arrivals: TunnelArrivals::new(limits) }
    }

    fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<(Verified<Peer>, TunnelPeer), PeerError> {
        let peer = self.trust.verify(Purpose::Agents, chain)?;
        let Subject::Agent { org, cluster, instance } = peer.id.subject.clone() else {
            return Err(PeerError::Name);
        };
        let not_after = peer.not_after;
        Ok((peer, TunnelPeer { org, cluster, instance, not_after }))
    }

    async fn revoked(&self, peer: &Peer) {
        let mut changes = self.trust.changes();
        while !self.trust.is_revoked(peer) {
            changes.changed().await;
        }
    }
}

impl Handler for Tunnels {
    fn handle(&self, tls: Accepted, arrival: Arrival, drain: Drain) -> BoxFuture<'static, ()> {
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let (peer, agent) = match self.identify(chain) {
            Ok(identified) => identified,
            Err(error) => {
                // The handshake verified it a moment ago: trust has changed in between.
                tracing::warn!(%error, client = %arrival.client, "an agent is refused");
                return Box::pin(ready(()));
            }
        };
        let id = peer.id.to_string();
        if !self.arrivals.admit(&agent.cluster) {
            let what = "agents of this cluster connect too fast; check for one that restarts or redials without end";
            tracing::warn!(agent = id, client = %arrival.client, what);
            return Box::pin(ztka_tunnel::refuse(tls, what));
        }
        tracing::info!(agent = id, client = %arrival.client, "an agent has connected");
        let socket = tls.get_ref().0.get_ref();
        if let Err(error) = give_up_unacknowledged(socket, Settings::default().deaf_after) {
            tracing::debug!(%error, "the system does not bound how long bytes may go unacknowledged");
        }
        let this = self.clone();
        Box::pin(async move {
            // Dropping the tunnel's future ends it with all its streams.
            let ended = tokio::select! {
                ended = this.registry.serve(tls, agent) => ended.err().map(|error| {
                    match &error {
                        TunnelError::BadFrames(bad) => {
                            tracing::warn!(agent = id, violation = %bad, "an agent breaks the rules of its tunnel");
                            bad.to_string()
                        }
                        other => other.to_string(),
                    }
                }),
                () = this.revoked(&peer) => Some("its certificate is revoked".into()),
                () = drain.cut().cancelled() => Some("this proxy stops".into()),
            };
            tracing::info!(agent = id, reason = ended.as_deref().unwrap_or("the agent ended it"), "a tunnel has ended");
        })
    }
}
