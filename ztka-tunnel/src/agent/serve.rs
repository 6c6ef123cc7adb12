//! One tunnel on the agent: requests are taken from it until it ends.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use futures_util::{FutureExt as _, TryFutureExt as _};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};
use ztka_core::{Body, BoxError, ProxyId, Reply, Verified};

use super::answer::{Asked, answer, read, send};
use crate::{
    FrameGuard, Settings, TunnelError,
    figures::{Running, Side},
    io::gather,
    link::Link,
    stream::memory::{Memory, Share, Who},
};

/// Whose end it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// An agent's.
    Agent,
    /// That of a proxy to which another sends what it has no tunnel for.
    Proxy,
}

/// What the proxy has said about the tunnel.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    /// Not ready yet.
    SetUp,
    /// Users' requests come.
    Ready,
    /// The proxy wants to stop; another tunnel should be dialled.
    Draining,
}

/// Serves `service` on `io` until the tunnel ends. What is not read of a request is on the account of whom `who` knows it by.
///
/// `drain` starts the end: no new streams (GOAWAY), and it ends when the last stream has. Dropping the future ends the
/// tunnel and all its streams at once.
pub(crate) async fn serve<T, S>(
    io: T,
    (end, proxy, who): (End, Verified<ProxyId>, Who),
    service: S,
    settings: Settings,
    memory: Arc<Memory>,
    drain: CancellationToken,
    phase: watch::Sender<Phase>,
) -> Result<(), TunnelError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Body>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    let (io, wire) = gather(io, FrameGuard::of_client(settings.floods, Instant::now()));
    let mut handshake = pin!(settings.server().handshake(io));
    // The handshake waits for the peer's preface, but our SETTINGS have to leave before.
    let handshake = poll_fn(|cx| {
        let why = |error| wire.refused().map_or_else(|| TunnelError::from(error), TunnelError::from);
        let done = handshake.as_mut().poll(cx).map_err(why);
        match wire.poll_push(cx) {
            Poll::Ready(Err(error)) if done.is_pending() => Poll::Ready(Err(error.into())),
            _ => done,
        }
    });
    let mut connection = timeout(settings.setup, handshake).await.map_err(|_| TunnelError::SetUp(settings.setup))??;
    let ping = connection.ping_pong().ok_or(TunnelError::Protocol("no PING"))?;
    let share = Share::new(
        memory,
        &settings,
        match end {
            End::Agent => Side::Agent,
            End::Proxy => Side::Peer,
        },
    );
    let mut link = Link::new(wire, ping, share.clone(), settings);
    let mut drained = pin!(drain.cancelled());
    let mut draining = false;

    let driven = &mut link;
    let ended = poll_fn(move |cx| {
        if !draining && drained.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.graceful_shutdown();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    match read(request, proxy.clone(), end, &phase, (&share, &who, settings.refusals)) {
                        Asked::Answered(response) => tokio::spawn(send(response, respond)),
                        Asked::Request(request, upgrade) => {
                            let running = Running::begin(&share.figures);
                            let reply = service.clone().oneshot(request).map_err(Into::into).boxed();
                            tokio::spawn(
                                answer(reply, upgrade, respond, settings.refusals).inspect(move |()| drop(running)),
                            )
                        }
                    };
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(driven.why(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        driven.adjust(cx, |window| connection.set_initial_window_size(window));
        driven.poll(cx, true).map(|lost| lost.map(|never| match never {}))
    })
    .await;
    if ended.is_ok() {
        link.linger().await;
    }
    ended
}
