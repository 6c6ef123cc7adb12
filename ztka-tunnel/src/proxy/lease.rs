//! One place on a tunnel, held as long as a request or stream lives.

use std::sync::{Arc, atomic::Ordering};

use tokio::task::AbortHandle;

use super::tunnel::{Tunnel, TunnelPeer};

/// Counts one stream against its tunnel's limit until it is dropped.
#[derive(Debug)]
pub(super) struct Lease<P = TunnelPeer>(Arc<Tunnel<P>>);

impl<P> Lease<P> {
    /// `None` if the tunnel is full.
    pub(super) fn take(tunnel: &Arc<Tunnel<P>>) -> Option<Self> {
        let more = |load: usize| (load < tunnel.limit()).then_some(load + 1);
        tunnel.load.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        tunnel.memory.figures.begin();
        Some(Self(tunnel.clone()))
    }

    pub(super) fn tunnel(&self) -> &Arc<Tunnel<P>> {
        &self.0
    }
}

impl<P> Drop for Lease<P> {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
        self.0.memory.figures.end();
    }
}

/// Ends the task that still sends a request's body when nobody waits for the answer any more.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
