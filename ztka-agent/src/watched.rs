//! Connections to proxies that end when the proxy is revoked.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ztka_core::{ProxyId, Verified};
use ztka_pki::{Peer, TrustSource};
use ztka_tunnel::{Connect, ConnectError, ProxyAddress};

/// Says who is at the other end of a connection; none for one that cannot be told any more.
pub type PeerOf<T> = dyn Fn(&T) -> Option<Verified<Peer>> + Send + Sync;

/// Connects by `C`, and ends each connection as soon as the certificate of its proxy is revoked: a stolen proxy loses its
/// tunnels with all that is in them, and not only the next ones.
pub struct Watched<C: Connect> {
    connect: C,
    trust: TrustSource,
    peer_of: Box<PeerOf<C::Io>>,
}

impl<C: Connect> fmt::Debug for Watched<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl<C: Connect> Watched<C> {
    /// Holds whom `peer_of` finds at a connection's other end against `trust` for as long as it is open.
    pub fn new(
        connect: C,
        trust: TrustSource,
        peer_of: impl Fn(&C::Io) -> Option<Verified<Peer>> + Send + Sync + 'static,
    ) -> Self {
        Self { connect, trust, peer_of: Box::new(peer_of) }
    }
}

impl<C: Connect> Connect for Watched<C> {
    type Io = Watching<C::Io>;

    async fn connect(&self, proxy: &ProxyAddress) -> Result<(Self::Io, Verified<ProxyId>), ConnectError> {
        let (io, id) = self.connect.connect(proxy).await?;
        let (peer, trust) = ((self.peer_of)(&io), self.trust.clone());
        let revoked = Box::pin(async move {
            let Some(peer) = peer else { return };
            let mut changes = trust.changes();
            while !trust.is_revoked(&peer) {
                changes.changed().await;
            }
        });
        Ok((Watching { io, revoked }, id))
    }
}

/// A connection that fails once its peer is revoked.
pub struct Watching<T> {
    io: T,
    /// Polled with every read, of which there is always one under way.
    revoked: BoxFuture<'static, ()>,
}

impl<T> fmt::Debug for Watching<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watching<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.revoked.as_mut().poll(cx).is_ready() {
            // It is not polled again: whoever reads hears of an error and closes.
            self.revoked = Box::pin(async {});
            let message = "the certificate of the proxy is revoked";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, message)));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watching<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
