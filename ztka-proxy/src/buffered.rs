//! A stream that is read in large pieces, and to which bytes already read can be given back.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// rustls by itself reads about 4 KiB at a time; a larger piece saves system calls for bodies.
const PIECE: usize = 64 * 1024;

/// A stream with a read buffer, which is given up while there is nothing to read. Writes go straight through.
#[derive(Debug)]
pub struct Buffered<T> {
    io: T,
    buffer: BytesMut,
}

impl<T> Buffered<T> {
    /// Buffers `io`.
    pub fn new(io: T) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// What was read and not yet taken.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes `count` bytes of the buffer away.
    pub(crate) fn consume(&mut self, count: usize) {
        self.buffer.advance(count.min(self.buffer.len()));
    }

    /// The stream below.
    pub fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> Buffered<T> {
    /// Reads more into the buffer; 0 at the end of the stream. Cancel safe.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < 1024 {
            self.buffer.reserve(PIECE);
        }
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buffer)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Buffered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            if buf.remaining() >= PIECE {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            match this.poll_fill(cx) {
                Poll::Pending => {
                    this.buffer = BytesMut::new();
                    return Poll::Pending;
                }
                filled => ready!(filled)?,
            };
        }
        let count = this.buffer.len().min(buf.remaining());
        buf.put_slice(this.buffer.get(..count).unwrap_or_default());
        this.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Buffered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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
