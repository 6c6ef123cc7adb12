//! Ties something to the life of a reply: to its body, or to its upgraded connection.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{Body, BoxError, Duplex, Io, Reply};
use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// What lives as long as a reply, and may end it.
pub trait Hold: Send + Unpin + 'static {
    /// Ready with the reason when the reply has to end now.
    fn poll_cut(&mut self, _: &mut Context<'_>) -> Poll<BoxError> {
        Poll::Pending
    }
}

/// Keeps `hold` until the last byte of `reply` was taken, or it is dropped.
pub fn hold<H: Hold>(reply: Reply, hold: H) -> Reply {
    match reply {
        Reply::Response(response) if response.body().is_end_stream() => Reply::Response(response),
        Reply::Response(response) => Reply::Response(response.map(|body| Held::new(body, hold).boxed_unsync())),
        Reply::Upgraded { head, io } => Reply::Upgraded { head, io: Box::pin(Held::new(io, hold)) },
    }
}

/// The reply and what it holds; both go at once when it ends.
struct Held<T, H>(Option<(T, H)>);

impl<T, H> Held<T, H> {
    fn new(inner: T, hold: H) -> Self {
        Self(Some((inner, hold)))
    }
}

impl<T, H> fmt::Debug for Held<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("ended", &self.0.is_none()).finish()
    }
}

impl<H: Hold> http_body::Body for Held<Body, H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some((body, hold)) = &mut self.0 else { return Poll::Ready(None) };
        if let Poll::Ready(reason) = hold.poll_cut(cx) {
            self.0 = None;
            return Poll::Ready(Some(Err(reason)));
        }
        let frame = Pin::new(&mut *body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

impl<H: Hold> Held<Io, H> {
    fn io(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut dyn Duplex>> {
        if let Some((_, hold)) = &mut self.0
            && let Poll::Ready(reason) = hold.poll_cut(cx)
        {
            self.0 = None;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        }
        match &mut self.0 {
            Some((io, _)) => Ok(io.as_mut()),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl<H: Hold> AsyncRead for Held<Io, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.io(cx)?.poll_read(cx, buf)
    }
}

impl<H: Hold> AsyncWrite for Held<Io, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io(cx)?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io(cx)?.poll_close(cx)
    }
}
