//! One proxy's address, at which there is always to be a tunnel.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use http::Request;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use ztka_core::{Body, BoxError, ProxyId, Reply, Verified};

use super::{
    backoff::Backoff,
    connect::{Connect, ProxyAddress, within},
    dialer::{DialSettings, TunnelState},
    serve::{Phase, serve},
};
use crate::{Settings, TunnelError};

/// So often another proxy is sought where the one reached has a tunnel of this agent already.
const TWICE: u32 = 3;
/// So many old tunnels may still have streams.
const MAX_RETIRED: usize = 32;

#[derive(Debug)]
pub(super) struct Slot<C, S> {
    pub(super) index: usize,
    pub(super) address: ProxyAddress,
    pub(super) connect: Arc<C>,
    pub(super) service: S,
    pub(super) settings: Settings,
    pub(super) dial: DialSettings,
    pub(super) renewals: watch::Receiver<u64>,
    pub(super) stop: CancellationToken,
    pub(super) states: Arc<watch::Sender<Vec<TunnelState>>>,
    /// Which proxy each slot has reached or is about to have.
    pub(super) claims: Claims,
}

pub(super) type Claims = Arc<Mutex<Vec<Option<ProxyId>>>>;

/// A tunnel that takes requests.
#[derive(Debug)]
struct Live {
    task: Task,
    drain: CancellationToken,
    phase: watch::Receiver<Phase>,
    since: Instant,
}

/// A tunnel's task, which ends with its holder.
#[derive(Debug)]
struct Task(JoinHandle<Result<(), TunnelError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tunnels that end with their last streams.
#[derive(Debug, Default)]
struct Retired {
    tasks: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Retired {
    /// A proxy that asks for one tunnel after the other, and lets none end, does not pile them up here.
    fn take(&mut self, drained: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= MAX_RETIRED
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.tasks.spawn(drained));
    }
}

impl Live {
    /// Returns when the tunnel is gone. Cancel safe.
    async fn ended(&mut self) -> Result<(), TunnelError> {
        (&mut self.task.0).await.unwrap_or(Err(TunnelError::Ended))
    }

    /// Returns when the proxy wants to be rid of it. Cancel safe.
    async fn unwanted(phase: &mut watch::Receiver<Phase>) {
        if phase.wait_for(|phase| *phase == Phase::Draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes no new streams, and ends with its last one.
    async fn drained(mut self, bound: std::time::Duration) {
        self.drain.cancel();
        let _ = timeout(bound, self.ended()).await;
    }
}

impl<C, S> Slot<C, S>
where
    C: Connect,
    S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    /// Keeps a tunnel until told to stop, then lets those that there are end with their last streams.
    pub(super) async fn keep(mut self) {
        let mut retired = Retired::default();
        let mut current: Option<Live> = None;
        let mut backoff = Backoff::new(self.dial.first_retry, self.dial.max_retry);
        let stop = self.stop.clone();
        loop {
            self.renewals.mark_unchanged();
            // Make before break: the old tunnel goes on taking requests until the new one does.
            let fresh = unless(&stop, self.dial(&mut backoff)).await;
            let Some(fresh) = fresh else { break };
            if let Some(old) = current.replace(fresh) {
                retired.take(old.drained(self.settings.max_drain));
            }
            let Some(live) = &mut current else { continue };
            let mut phase = live.phase.clone();
            tokio::select! {
                ended = live.ended() => {
                    let error = ended.err().map(|error| describe(&error));
                    tracing::info!(proxy = %self.address, error, "tunnel ended");
                    if live.since.elapsed() >= self.dial.stable_after {
                        backoff.succeeded();
                    }
                    backoff.failed(); // even a good tunnel's end may be everybody's, so the next attempt is jittered
                    current = None;
                    self.unclaim();
                    self.state(None, error);
                }
                () = Live::unwanted(&mut phase) => {
                    tracing::info!(proxy = %self.address, "the proxy is draining");
                    if live.since.elapsed() >= self.dial.stable_after {
                        backoff.succeeded();
                    }
                    backoff.failed();
                }
                _ = self.renewals.changed() => backoff.succeeded(),
                () = stop.cancelled() => break,
            }
        }
        self.state(None, None);
        if let Some(live) = current {
            retired.take(live.drained(self.settings.max_drain));
        }
        while retired.tasks.join_next().await.is_some() {}
    }

    /// Dials until there is a tunnel that is ready.
    async fn dial(&mut self, backoff: &mut Backoff) -> Live {
        let mut twice = 0;
        loop {
            sleep(backoff.wait()).await;
            match self.attempt(twice < TWICE).await {
                Ok((live, proxy)) => {
                    tracing::info!(proxy = %self.address, id = %proxy, "tunnel is ready");
                    self.state(Some(proxy), None);
                    return live;
                }
                Err(None) => twice += 1,
                Err(Some(error)) => {
                    tracing::warn!(proxy = %self.address, error, "no tunnel");
                    self.failed(error);
                }
            }
            backoff.failed();
        }
    }

    /// `Err(None)` if the proxy reached is another slot's and that is to be avoided.
    async fn attempt(&mut self, avoid: bool) -> Result<(Live, ProxyId), Option<String>> {
        let connected = within(&*self.connect, &self.address, self.dial.connect).await;
        let (io, proxy) = connected.map_err(|error| Some(describe(&error)))?;
        let id = ProxyId::clone(&proxy);
        if !self.claim(&id, avoid) {
            return Err(None);
        }
        let begun = self.begin(io, proxy).await;
        if begun.is_err() {
            self.unclaim();
        }
        Ok((begun.map_err(Some)?, id))
    }

    /// Returns when the proxy is about to send requests.
    async fn begin(&mut self, io: C::Io, proxy: Verified<ProxyId>) -> Result<Live, String> {
        let (sender, mut phase) = watch::channel(Phase::SetUp);
        let drain = CancellationToken::new();
        let served = serve(io, proxy, self.service.clone(), self.settings, drain.clone(), sender);
        let mut task = Task(tokio::spawn(served));
        tokio::select! {
            ended = &mut task.0 => {
                let ended = ended.unwrap_or(Err(TunnelError::Ended)).err();
                let closed = || "the proxy closed the connection; its log says why".into();
                Err(ended.map_or_else(closed, |error| describe(&error)))
            }
            ready = timeout(self.settings.setup, phase.wait_for(|phase| *phase != Phase::SetUp)) => match ready {
                Ok(_) => Ok(()),
                Err(_) => Err(describe(&TunnelError::SetUp(self.settings.setup))),
            }
        }?;
        Ok(Live { task, drain, phase, since: Instant::now() })
    }

    /// False if another slot has the proxy and that is to be avoided.
    fn claim(&self, id: &ProxyId, avoid: bool) -> bool {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let of_another = |(index, claim): (usize, &Option<ProxyId>)| index != self.index && claim.as_ref() == Some(id);
        if avoid && claims.iter().enumerate().any(of_another) {
            return false;
        }
        if let Some(claim) = claims.get_mut(self.index) {
            *claim = Some(id.clone());
        }
        true
    }

    fn unclaim(&self) {
        if let Some(claim) = self.claims.lock().unwrap_or_else(PoisonError::into_inner).get_mut(self.index) {
            *claim = None;
        }
    }

    fn state(&self, proxy: Option<ProxyId>, error: Option<String>) {
        self.states.send_modify(|states| {
            if let Some(state) = states.get_mut(self.index) {
                (state.proxy, state.error) = (proxy, error);
            }
        });
    }

    fn failed(&self, error: String) {
        self.states.send_modify(|states| {
            if let Some(state) = states.get_mut(self.index) {
                state.error = Some(error);
            }
        });
    }
}

/// `None` if told to stop first.
async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

/// An error with all its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
