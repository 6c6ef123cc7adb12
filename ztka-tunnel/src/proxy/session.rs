//! The life of one tunnel on the proxy: set-up, news to the agent, the certificate's end.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    board::Following,
    refuse::refuse,
    registry::{Entry, MAX_TUNNELS, Registry},
    tunnel::{Far, OnLeave, Tunnel},
};
use crate::{
    FrameGuard, HELLO_PATH, PROTOCOL, PROTOCOL_HEADER, READY_PATH, Settings, TunnelError, TunnelPeer,
    figures::{SettingUp, Side},
    io::gather,
    link::Link,
    stream::memory::{Memory, Share},
    wire,
};

/// Never further ahead, for the clock may be set.
const AHEAD: Duration = Duration::from_secs(60);
/// How often a tunnel whose certificate has expired is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// After so long a document is offered again that was not answered.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run<T>(registry: Registry, io: T, peer: TunnelPeer) -> Result<(), TunnelError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if registry.is_full(&peer.cluster) {
        let error = TunnelError::TooMany(MAX_TUNNELS);
        drop(SettingUp::begin(Side::Proxy));
        refuse(io, &error.to_string()).await;
        return Err(error);
    }
    let authority = peer.cluster.as_str().parse();
    let authority = Some(authority.map_err(|_| TunnelError::Protocol("the cluster id is no authority"))?);
    let (news, cluster) = (registry.news().clone(), peer.cluster.clone());
    let on_leave = OnLeave::new(move || {
        // Nobody may listen.
        let _ = news.send(cluster.clone());
    });
    let settings = registry.settings();
    let memory = (registry.memory(), Side::Proxy);
    drive(io, settings, memory, Far { peer, authority, on_leave }, |tunnel| live(registry, tunnel)).await
}

/// The client's end of the connection `io`, to its end or to that of what `live` makes of it.
pub(super) async fn drive<T, P, L>(
    io: T,
    settings: Settings,
    (memory, side): (Arc<Memory>, Side),
    far: Far<P>,
    live: impl FnOnce(Arc<Tunnel<P>>) -> L,
) -> Result<(), TunnelError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    L: Future<Output = Result<Infallible, TunnelError>>,
{
    let (io, pushed) = gather(io, FrameGuard::of_server(settings.floods, Instant::now()));
    // It only writes, and into the gathering buffer; the first poll below pushes it out. Boxed, for there may be ten
    // thousand of this future, and it would keep room for what is needed here alone.
    let (sender, mut connection) = Box::pin(async move { settings.client().handshake(io).await }).await?;
    let ping = connection.ping_pong().ok_or(TunnelError::Protocol("no PING"))?;
    let share = Share::new(memory, &settings, side);
    let mut link = Link::new(pushed, ping, share.clone(), settings);
    let end = CancellationToken::new();
    let tunnel = Arc::new(Tunnel::new(far, sender, end.clone(), settings, link.quiet(), share));

    let mut sender = tunnel.sender.clone();
    let mut life = pin!(live(tunnel.clone()));
    let mut ended = pin!(end.cancelled());
    poll_fn(|cx| {
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(TunnelError::Ended));
        }
        if let Poll::Ready(Err(error)) = life.as_mut().poll(cx) {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(closed) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(closed.map_err(|error| link.why(error)));
        }
        // The agent has said GOAWAY: it takes no new streams, and those that have begun go on.
        if !tunnel.is_leaving() && matches!(sender.poll_ready(cx), Poll::Ready(Err(_))) {
            tunnel.leave();
        }
        link.adjust(cx, |window| connection.set_initial_window_size(window));
        link.poll(cx, tunnel.load.load(Ordering::Relaxed) > 0).map(|lost| lost.map(|never| match never {}))
    })
    .await
    .inspect_err(|error| tracing::info!(error = error as &dyn std::error::Error, "tunnel ended"))
}

/// Everything that is said on the tunnel beside users' requests; returns only if that fails.
async fn live(registry: Registry, tunnel: Arc<Tunnel>) -> Result<Infallible, TunnelError> {
    let settings = registry.settings();
    let setting_up = SettingUp::begin(Side::Proxy);
    let mut news = registry.board().follow(&tunnel.peer);
    let late = |_| TunnelError::SetUp(settings.setup);
    let set_up = timeout(settings.setup, Box::pin(set_up(&registry, &tunnel, &mut news))).await.map_err(late);
    let _entry = set_up.flatten()?;
    let _up = setting_up.ready();
    tracing::info!("tunnel is ready");
    let mut expiry = pin!(expire(&registry, &tunnel));
    let tell = async {
        loop {
            news.changed().await;
            while let Err(error) = Box::pin(news.deliver(&tunnel)).await {
                // The agent takes nothing new here, and hears of it on the tunnel that it has in the place of this one.
                // What goes on here goes on.
                if tunnel.is_leaving() || error.is_farewell() {
                    return pending().await;
                }
                let TunnelError::Late(_) = error else { return error };
                tracing::warn!("the agent is slow to take documents");
                sleep(AGAIN).await;
            }
        }
    };
    tokio::select! {
        error = tell => Err(error),
        error = &mut expiry => Err(error),
    }
}

async fn set_up(registry: &Registry, tunnel: &Arc<Tunnel>, news: &mut Following) -> Result<Entry, TunnelError> {
    hello(tunnel).await?;
    news.deliver(tunnel).await?;
    let entry = registry.enter(tunnel)?;
    ready(tunnel).await?;
    Ok(entry)
}

/// The versions are compared.
pub(super) async fn hello<P>(tunnel: &Tunnel<P>) -> Result<(), TunnelError> {
    let version = HeaderMap::from_iter([(PROTOCOL_HEADER.clone(), HeaderValue::from_static(PROTOCOL))]);
    let hello = tunnel.own(HELLO_PATH, version, Bytes::new()).await?;
    if hello.status() != StatusCode::NO_CONTENT || !wire::speaks(hello.headers()) {
        return Err(TunnelError::Protocol("it did not answer the hello of this version"));
    }
    // SETTINGS come before any answer, so they are known by now.
    if !tunnel.sender.is_extended_connect_protocol_enabled() {
        return Err(TunnelError::Protocol("it does not offer extended CONNECT (RFC 8441)"));
    }
    Ok(())
}

/// From now on requests come.
pub(super) async fn ready<P>(tunnel: &Tunnel<P>) -> Result<(), TunnelError> {
    let ready = tunnel.own(READY_PATH, HeaderMap::new(), Bytes::new()).await?;
    match ready.status().is_success() {
        true => Ok(()),
        false => Err(TunnelError::Protocol("it is not ready for requests")),
    }
}

/// Past its certificate's end a tunnel takes no new streams, and those it has may end in peace only while the same
/// agent holds a valid tunnel.
async fn expire(registry: &Registry, tunnel: &Arc<Tunnel>) -> TunnelError {
    let mut expired_at: Option<Instant> = None;
    loop {
        let left = tunnel.peer.not_after.duration_since(registry.clock().now());
        let left = Duration::try_from(left).unwrap_or_default();
        if left.is_zero() {
            let since = *expired_at.get_or_insert_with(Instant::now);
            tunnel.leave();
            if !registry.has_newer(tunnel) || since.elapsed() > tunnel.settings.max_drain {
                return TunnelError::Ended;
            }
        }
        sleep(if left.is_zero() { LOOK } else { left.min(AHEAD) }).await;
    }
}
