//! One tunnel as a task: connected, served, and what becomes of it told.

use std::sync::Arc;

use http::Request;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use ztka_core::{Body, BoxError, ProxyId, Reply};

use super::{
    connect::{Connect, ProxyAddress},
    hold::{Event, TunnelId},
    serve::{End, Phase, serve},
};
use crate::{
    Settings,
    figures::{Dialling, SettingUp, Side, Up},
    stream::memory::{Memory, Who},
};

/// What every tunnel is made of.
pub(super) struct Attempt<C, S> {
    pub(super) connect: Arc<C>,
    pub(super) service: S,
    pub(super) settings: Settings,
    pub(super) memory: Arc<Memory>,
    pub(super) who: Who,
    pub(super) told: mpsc::UnboundedSender<Event>,
}

/// A tunnel's task, which ends with this.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) address: ProxyAddress,
    task: AbortHandle,
    go: Option<oneshot::Sender<()>>,
    drain: CancellationToken,
    /// Once it is ready.
    pub(super) up: Option<Up>,
}

impl Handle {
    /// Serves what was connected.
    pub(super) fn begin(&mut self) {
        if let Some(go) = self.go.take() {
            // The task is gone if nobody receives, and says so itself.
            let _ = go.send(());
        }
    }

    /// Takes no new streams.
    pub(super) fn drain(&self) {
        self.drain.cancel();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C, S> Attempt<C, S>
where
    C: Connect,
    S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    /// Starts a task that connects, waits to be told to go on, and serves.
    pub(super) fn start(
        &self,
        tunnel: TunnelId,
        address: ProxyAddress,
        dialling: Dialling,
        tasks: &mut JoinSet<()>,
    ) -> Handle {
        let (connect, service, settings) = (self.connect.clone(), self.service.clone(), self.settings);
        let (memory, who) = (self.memory.clone(), self.who.clone());
        let (drain, (go, going)) = (CancellationToken::new(), oneshot::channel());
        let mut teller = Teller { tunnel, told: self.told.clone(), error: None };
        let (to, drained) = (address.clone(), drain.clone());
        let task = tasks.spawn(async move {
            let (io, proxy) = match connect.connect(&to).await {
                Ok(connected) => connected,
                Err(error) => return teller.blame(&error),
            };
            dialling.connected();
            teller.tell(Event::Connected(tunnel, ProxyId::clone(&proxy)));
            if going.await.is_err() {
                return;
            }
            let mut setting_up = SettingUp::begin(Side::Agent);
            let (phase, phases) = watch::channel(Phase::SetUp);
            tokio::select! {
                served = serve(io, (End::Agent, proxy, who), service, settings, memory, drained, phase) => {
                    if let Err(error) = served {
                        teller.blame(&error);
                    }
                }
                () = teller.follow(phases, &mut setting_up) => {}
            }
        });
        Handle { address, task, go: Some(go), drain, up: None }
    }
}

/// Tells what becomes of one tunnel; when it is dropped, that it has ended.
struct Teller {
    tunnel: TunnelId,
    told: mpsc::UnboundedSender<Event>,
    error: Option<String>,
}

impl Teller {
    fn tell(&self, event: Event) {
        // Nobody hears it when all tunnels end.
        let _ = self.told.send(event);
    }

    /// Why it ends.
    fn blame(&mut self, error: &dyn std::error::Error) {
        self.error = Some(describe(error));
    }

    /// Never returns.
    async fn follow(&self, mut phases: watch::Receiver<Phase>, setting_up: &mut SettingUp) {
        if phases.wait_for(|phase| *phase != Phase::SetUp).await.is_ok() {
            setting_up.disarm();
            self.tell(Event::Ready(self.tunnel));
        }
        if phases.wait_for(|phase| *phase == Phase::Draining).await.is_ok() {
            self.tell(Event::Draining(self.tunnel));
        }
        std::future::pending().await
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let error = self.error.take();
        self.tell(Event::Ended(self.tunnel, error));
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
