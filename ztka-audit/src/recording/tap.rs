//! An upgraded connection that is recorded as it passes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_io::{AsyncRead, AsyncWrite};
use ztka_core::{Backlog, Io};

use super::tape::Tape;

/// Most bytes that are read before they go on.
const PIECE: usize = 64 * 1024;

/// Reads what passes. What comes from the cluster is read where it lies; what the client sends is read before it goes on, so
/// that nothing reaches the cluster that is not recorded.
#[derive(Debug)]
pub(super) struct Tap {
    inner: Io,
    tape: Arc<Tape>,
    backlog: Backlog,
}

impl Tap {
    pub(super) fn new(inner: Io, tape: Arc<Tape>) -> Self {
        Self { inner, tape, backlog: Backlog::default() }
    }

    fn poll_go_on(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tape.poll_go_on(cx).map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))
    }
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_go_on(cx))?;
        let read = ready!(self.inner.as_mut().poll_read(cx, buf));
        match &read {
            Ok(0) if !buf.is_empty() => self.tape.finish(),
            Ok(read) => {
                self.tape.read(false, buf.get(..*read).unwrap_or_default());
                // What cannot be recorded does not reach the client either.
                if let Poll::Ready(Err(error)) = self.poll_go_on(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            Err(_) => {}
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_go_on(cx))?;
        let Self { inner, tape, backlog } = &mut *self;
        ready!(backlog.poll_drain(inner, cx))?;
        let piece = buf.get(..PIECE).unwrap_or(buf);
        tape.read(true, piece);
        if let Poll::Ready(Err(error)) = self.poll_go_on(cx) {
            return Poll::Ready(Err(error));
        }
        let Self { inner, backlog, .. } = &mut *self;
        backlog.write(inner, cx, piece)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, backlog, .. } = &mut *self;
        ready!(backlog.poll_drain(inner, cx))?;
        inner.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, backlog, .. } = &mut *self;
        ready!(backlog.poll_drain(inner, cx))?;
        inner.as_mut().poll_close(cx)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.tape.finish();
    }
}
