//! What must hold for any bytes of a client or balancer: shared by the replay of corpora and the fuzz targets.
//!
//! Each is held against a second reading of the same bytes: `httparse` for HTTP/1.1, and what the specifications say,
//! written down once more, for the others.

#![allow(dead_code, reason = "each test binary and fuzz target uses its part")]

pub(crate) mod hello;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod proxy_protocol;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection on which a client has sent `bytes` and ended; they come in pieces.
#[derive(Debug)]
pub(crate) struct Pieces<'a> {
    pub(crate) left: &'a [u8],
    pub(crate) size: usize,
    pub(crate) answer: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(left: &'a [u8], size: usize) -> Self {
        Self { left, size, answer: Vec::new() }
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.left.len().min(self.size).min(buf.remaining());
        let (now, later) = self.left.split_at(count);
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs `future` where time stands still.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}
