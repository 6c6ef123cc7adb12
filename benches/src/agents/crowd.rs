//! The agents: a tunnel each, redialled when it ends.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use rustls::pki_types::ServerName;
use tower::Service;
use ztka_core::{Body, ProxyId, Reply, Verified, empty};
use ztka_pki::{Peer, Purpose, tls};
use ztka_tunnel::{Connect, ConnectError, DialSettings, Dialer, ProxyAddress, Settings, Tls};

use super::enrol::Enrolled;

/// All of them; their tunnels end when it is dropped.
pub(super) struct Crowd {
    dialers: Vec<Dialer>,
    counted: Arc<Counted>,
}

/// What attempts to connect came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempts {
    pub(super) most: usize,
    pub(super) slowest: Duration,
    pub(super) failed: usize,
}

#[derive(Debug, Default)]
struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
    failed: AtomicUsize,
    slowest: AtomicU64,
}

/// Counts what goes on at once.
#[derive(Debug)]
struct Counting {
    tls: Tls,
    counted: Arc<Counted>,
}

/// Counts down however an attempt ends.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connect for Counting {
    type Io = <Tls as Connect>::Io;

    async fn connect(&self, proxy: &ProxyAddress) -> Result<(Self::Io, Verified<ProxyId>), ConnectError> {
        let begun = Instant::now();
        let now = self.counted.now.fetch_add(1, Ordering::Relaxed) + 1;
        let _under_way = UnderWay(&self.counted.now);
        self.counted.most.fetch_max(now, Ordering::Relaxed);
        let connected = self.tls.connect(proxy).await;
        match connected {
            Ok(_) => {
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.counted.slowest.fetch_max(micros, Ordering::Relaxed);
            }
            Err(_) => _ = self.counted.failed.fetch_add(1, Ordering::Relaxed),
        }
        connected
    }
}

/// Takes everything, and says nothing.
#[derive(Clone, Copy, Debug)]
struct Takes;

impl Service<Request<Body>> for Takes {
    type Response = Reply;
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        ready(Ok(Reply::Response(response)))
    }
}

impl Crowd {
    /// Begins to dial the proxy on this port.
    pub(super) fn dial(agents: Enrolled, port: u16) -> Result<Self> {
        let Enrolled { credentials, trust, domain } = agents;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let name = ServerName::try_from(format!("tunnel.{domain}"))?;
        let address = ProxyAddress::new(Ipv4Addr::LOCALHOST.to_string(), port)?.named(name);
        let (counted, mut dialers) = (Arc::new(Counted::default()), Vec::with_capacity(credentials.len()));
        let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
        for credential in credentials {
            let config =
                tls::client(provider.clone(), trust.clone(), Some(credential), Purpose::Proxies, &[ztka_tunnel::ALPN]);
            let check = trust.clone();
            let tls = Tls::new(config.context("TLS of an agent")?, move |chain| {
                let peer = check.verify(Purpose::Proxies, chain)?;
                Peer::as_proxy(&peer).ok_or_else(|| "the certificate is not a proxy's".into())
            });
            let connect = Counting { tls, counted: counted.clone() };
            dialers.push(Dialer::start_with(connect, [address.clone()], Takes, Settings::default(), dial));
        }
        Ok(Self { dialers, counted })
    }

    /// How many have a tunnel.
    pub(super) fn connected(&self) -> usize {
        let is_up = |dialer: &&Dialer| dialer.states().borrow().iter().any(|state| state.proxy.is_some());
        self.dialers.iter().filter(is_up).count()
    }

    /// Why one of those that have none has none.
    pub(super) fn why(&self) -> String {
        let why = |dialer: &Dialer| dialer.states().borrow().iter().find_map(|state| state.error.clone());
        self.dialers.iter().find_map(why).unwrap_or_default()
    }

    /// What was counted up to now is forgotten.
    pub(super) fn begin(&self) {
        let Counted { most, failed, slowest, .. } = &*self.counted;
        most.store(0, Ordering::Relaxed);
        failed.store(0, Ordering::Relaxed);
        slowest.store(0, Ordering::Relaxed);
    }

    pub(super) fn attempts(&self) -> Attempts {
        let Counted { most, failed, slowest, .. } = &*self.counted;
        Attempts {
            most: most.load(Ordering::Relaxed),
            slowest: Duration::from_micros(slowest.load(Ordering::Relaxed)),
            failed: failed.load(Ordering::Relaxed),
        }
    }
}
