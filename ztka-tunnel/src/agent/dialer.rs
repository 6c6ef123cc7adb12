//! Keeps a tunnel to each of several proxies.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::Request;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;
use ztka_core::{Body, BoxError, ProxyId, Reply};

use super::{
    connect::{Connect, ProxyAddress},
    slot::{Claims, Slot},
};
use crate::Settings;

/// When and how patiently proxies are dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DialSettings {
    /// Bound on one connection attempt, TLS included. Default 10 s.
    pub connect: Duration,
    /// The first retry comes within this time. Default 500 ms.
    pub first_retry: Duration,
    /// No two attempts are further apart. Default 10 s.
    pub max_retry: Duration,
    /// A tunnel that ends sooner counts as a failed attempt. Default 10 s.
    pub stable_after: Duration,
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_retry: Duration::from_millis(500),
            max_retry: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// The tunnel to one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TunnelState {
    /// Where it is dialled.
    pub address: ProxyAddress,
    /// The proxy at its far end; none while there is no tunnel.
    pub proxy: Option<ProxyId>,
    /// Why the last attempt failed or the last tunnel ended.
    pub error: Option<String>,
}

/// Tunnels to each of several proxies, redialled as they end, and a service answering on them.
///
/// Requests carry `Verified<ProxyId>` of their tunnel as an extension, and [`Upgrade`](ztka_core::Upgrade) where they
/// ask for one; requests under `/.ztka/` come from the proxy itself. Dropped, it ends all tunnels at once.
#[derive(Debug)]
pub struct Dialer {
    tasks: JoinSet<()>,
    renewals: watch::Sender<u64>,
    stop: CancellationToken,
    states: Arc<watch::Sender<Vec<TunnelState>>>,
}

impl Dialer {
    /// Starts to dial `proxies`, with default settings. To be called inside a tokio runtime.
    pub fn start<C, S>(connect: C, proxies: impl IntoIterator<Item = ProxyAddress>, service: S) -> Self
    where
        C: Connect,
        S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        Self::start_with(connect, proxies, service, Settings::default(), DialSettings::default())
    }

    /// Starts to dial `proxies`. To be called inside a tokio runtime.
    pub fn start_with<C, S>(
        connect: C,
        proxies: impl IntoIterator<Item = ProxyAddress>,
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
        let proxies: Vec<ProxyAddress> = proxies.into_iter().collect();
        let states = proxies.iter().map(|address| TunnelState { address: address.clone(), proxy: None, error: None });
        let states = Arc::new(watch::Sender::new(states.collect()));
        let (renewals, stop) = (watch::Sender::new(0), CancellationToken::new());
        let (connect, claims) = (Arc::new(connect), Claims::default());
        claims.lock().unwrap_or_else(PoisonError::into_inner).resize(proxies.len(), None);
        let mut tasks = JoinSet::new();
        for (index, address) in proxies.into_iter().enumerate() {
            let (connect, service) = (connect.clone(), service.clone());
            let (renewals, stop) = (renewals.subscribe(), stop.clone());
            let (states, claims) = (states.clone(), claims.clone());
            let slot = Slot { index, address, connect, service, settings, dial, renewals, stop, states, claims };
            tasks.spawn(slot.keep());
        }
        Self { tasks, renewals, stop, states }
    }

    /// The credential has changed: each tunnel is replaced by a new one. The old ones go on until the new ones are ready,
    /// and then end with their last streams: no stream ends by this and no request fails. Returns at once.
    pub fn renew(&self) {
        self.renewals.send_modify(|count| *count += 1);
    }

    /// State of each tunnel, in the order of the addresses.
    pub fn states(&self) -> watch::Receiver<Vec<TunnelState>> {
        self.states.subscribe()
    }

    /// Takes no more requests, and returns when the last stream has ended or `grace` is over.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            tracing::info!("ending the streams that are left");
        }
    }
}
