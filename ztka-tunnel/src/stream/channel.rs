//! Both halves of a stream as bytes both ways: a connection that has changed protocol.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures_io::{AsyncRead, AsyncWrite};
use h2::{Reason, RecvStream, SendStream};

use super::{Broken, Inflow};

/// The most that one write takes.
const PIECE: usize = 64 << 10;

/// An upgraded connection inside a tunnel, with `held` kept as long as it lives.
///
/// `poll_close` is END_STREAM and ends our direction alone; reading 0 bytes is the peer's. RST_STREAM from the peer is
/// an error on both sides. Dropped before both directions have ended, the stream is reset.
pub struct Channel<K = ()> {
    send: SendStream<Bytes>,
    receive: Inflow,
    unread: Bytes,
    closed: bool,
    _held: K,
}

impl<K> Channel<K> {
    /// Puts the two halves of a stream together.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream, held: K) -> Self {
        Self::counted(send, Inflow::little(receive), held)
    }

    pub(crate) fn counted(send: SendStream<Bytes>, receive: Inflow, held: K) -> Self {
        Self { send, receive, unread: Bytes::new(), closed: false, _held: held }
    }
}

impl<K> fmt::Debug for Channel<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.receive).finish()
    }
}

fn broken(error: h2::Error) -> io::Error {
    Broken::from(error).into()
}

impl<K: Unpin> AsyncRead for Channel<K> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(0)),
                Some(chunk) => this.unread = chunk?,
            }
        }
        let taken = this.unread.len().min(buf.len());
        this.unread.copy_to_slice(buf.get_mut(..taken).unwrap_or_default());
        this.receive.release(taken);
        Poll::Ready(Ok(taken))
    }
}

impl<K: Unpin> AsyncWrite for Channel<K> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = buf.len().min(PIECE);
        self.send.reserve_capacity(wanted);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(ready!(self.poll_reason(cx)))),
            }
        }
        let data = Bytes::copy_from_slice(buf.get(..wanted.min(self.send.capacity())).unwrap_or_default());
        let taken = data.len();
        match self.send.send_data(data, false) {
            Ok(()) => Poll::Ready(Ok(taken)),
            Err(_) => Poll::Ready(Err(ready!(self.poll_reason(cx)))),
        }
    }

    /// Frames leave as soon as the windows allow, without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            if self.send.send_data(Bytes::new(), true).is_err() {
                return Poll::Ready(Err(ready!(self.poll_reason(cx))));
            }
            self.closed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<K> Channel<K> {
    /// Why nothing can be sent any more.
    fn poll_reason(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.send.poll_reset(cx).map(|reason| match reason {
            Ok(reason @ (Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED)) => {
                io::Error::new(io::ErrorKind::BrokenPipe, h2::Error::from(reason))
            }
            Ok(reason) => broken(reason.into()),
            Err(error) => broken(error),
        })
    }
}
