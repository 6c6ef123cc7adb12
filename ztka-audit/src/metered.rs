//! The body of a reply, or an upgraded connection, that carries its record along.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use http_body::{Frame, SizeHint};
use ztka_core::{Body, BoxError, Io};

use crate::{End, record::Record};

/// Counts bytes and notes the end; the record is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    inner: T,
    record: Record,
}

impl Metered<Body> {
    pub(crate) fn body(inner: Body, record: Record) -> Self {
        Self { inner, record }
    }
}

impl http_body::Body for Metered<Body> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.record.count_sent(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => self.record.end(End::Failed),
            None => self.record.end(End::Complete),
        }
        // A server does not poll a body again that says of itself that it has ended.
        if self.inner.is_end_stream() {
            self.record.end(End::Complete);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Metered<Io> {
    pub(crate) fn io(inner: Io, record: Record) -> Self {
        Self { inner, record }
    }

    fn has_read(&mut self, read: &io::Result<usize>, asked: bool) {
        match read {
            Ok(0) if asked => self.record.end(End::Complete),
            Ok(bytes) => self.record.count_sent(*bytes),
            Err(_) => self.record.end(End::Failed),
        }
    }

    fn has_written(&mut self, written: &io::Result<usize>) {
        match written {
            Ok(bytes) => self.record.count_received(*bytes),
            Err(_) => self.record.end(End::Failed),
        }
    }
}

impl AsyncRead for Metered<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.inner.as_mut().poll_read(cx, buf));
        self.has_read(&read, !buf.is_empty());
        Poll::Ready(read)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(self.inner.as_mut().poll_read_vectored(cx, bufs));
        self.has_read(&read, bufs.iter().any(|buf| !buf.is_empty()));
        Poll::Ready(read)
    }
}

impl AsyncWrite for Metered<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.inner.as_mut().poll_write(cx, buf));
        self.has_written(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.inner.as_mut().poll_write_vectored(cx, bufs));
        self.has_written(&written);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_close(cx)
    }
}
