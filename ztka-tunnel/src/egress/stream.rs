//! A connection out, whichever way it goes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// A connection made by [`Egress`](super::Egress).
#[derive(Debug)]
pub struct EgressStream {
    carrier: Carrier,
    /// What the far end said together with the proxy's answer.
    early: Bytes,
}

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    /// TLS with the proxy; what the tunnel carries has its own inside.
    Tls(Box<TlsStream<TcpStream>>),
}

impl EgressStream {
    pub(super) fn direct(socket: TcpStream) -> Self {
        Self { carrier: Carrier::Tcp(socket), early: Bytes::new() }
    }

    pub(super) fn secured(tls: TlsStream<TcpStream>) -> Self {
        Self { carrier: Carrier::Tls(Box::new(tls)), early: Bytes::new() }
    }

    /// Gives back what was read too far.
    pub(super) fn unread(&mut self, early: Bytes) {
        self.early = early;
    }

    /// The socket: to the host itself, or to the proxy.
    pub fn socket(&self) -> &TcpStream {
        match &self.carrier {
            Carrier::Tcp(socket) => socket,
            Carrier::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for EgressStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let taken = self.early.len().min(buf.remaining());
            buf.put_slice(self.early.get(..taken).unwrap_or_default());
            self.early.advance(taken);
            return Poll::Ready(Ok(()));
        }
        match &mut self.carrier {
            Carrier::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Carrier::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for EgressStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Tcp(io) => Pin::new(io).poll_write(cx, data),
            Carrier::Tls(io) => Pin::new(io).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Tcp(io) => Pin::new(io).poll_write_vectored(cx, data),
            Carrier::Tls(io) => Pin::new(io).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Carrier::Tcp(io) => io.is_write_vectored(),
            Carrier::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tcp(io) => Pin::new(io).poll_flush(cx),
            Carrier::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Carrier::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
