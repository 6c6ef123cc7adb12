//! Reads large pieces from a socket, for a TLS library that by itself reads small ones.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

const PIECE: usize = 64 << 10;

/// A transport that is read 64 KiB at a time, whatever the reader asks for. To be put under TLS.
///
/// The buffer is given back while there is nothing to read: ten thousand quiet connections hold none.
#[derive(Debug)]
pub struct ReadAhead<T> {
    io: T,
    buffer: BytesMut,
}

impl<T> ReadAhead<T> {
    /// Reads `io` in large pieces; writes pass through.
    pub fn new(io: T) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The transport itself.
    pub fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, buffer } = &mut *self;
        if buffer.is_empty() {
            if buf.remaining() >= PIECE {
                return Pin::new(io).poll_read(cx, buf);
            }
            buffer.reserve(PIECE);
            match poll_read_buf(Pin::new(io), cx, buffer) {
                Poll::Ready(read) => _ = read?,
                Poll::Pending => {
                    *buffer = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        let taken = buffer.len().min(buf.remaining());
        buf.put_slice(buffer.get(..taken).unwrap_or_default());
        buffer.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn small_reads_see_every_byte_and_an_idle_one_holds_no_buffer() {
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        far.write_all(&[7; 100_000]).await.unwrap();
        let mut got = [0; 1000];
        for _ in 0..100 {
            near.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [7; 1000]);
        }
        assert!(tokio::time::timeout(std::time::Duration::ZERO, near.read(&mut got)).await.is_err());
        assert_eq!(near.buffer.capacity(), 0);
        drop(far);
        assert_eq!(near.read(&mut got).await.unwrap(), 0);
    }
}
