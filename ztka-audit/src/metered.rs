//! The body of a reply, or an upgraded connection, that carries its record along.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use http_body::{Frame, SizeHint};
use ztka_core::{Backlog, Body, BoxError, Io};

use crate::{End, exit::Exit, ports::Ports, record::Record};

/// Most bytes that are read for their ports before they go on.
const PIECE: usize = 64 * 1024;

/// Counts bytes and notes the end; the record is closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    inner: T,
    record: Record,
    gate: Option<Box<Gate>>,
    exit: Option<Box<Exit>>,
}

/// Of a port-forward: its ports are on record before the bytes that open them go on.
#[derive(Debug)]
struct Gate {
    ports: Ports,
    backlog: Backlog,
}

impl Metered<Body> {
    pub(crate) fn body(inner: Body, record: Record) -> Self {
        Self { inner, record, gate: None, exit: None }
    }
}

impl http_body::Body for Metered<Body> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.record.see_sent(data);
                    self.record.count_sent(data.len());
                }
            }
            Some(Err(error)) => self.record.broke(&**error),
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
    /// Reads the ports that a port-forward opens, if it is one, or how the command of an exec ended.
    pub(crate) fn io(inner: Io, record: Record, ports: Option<Ports>, exit: Option<Exit>) -> Self {
        let gate = ports.map(|ports| Box::new(Gate { ports, backlog: Backlog::default() }));
        Self { inner, record, gate, exit: exit.map(Box::new) }
    }

    /// Sends on what the gate holds; ready at once without a gate.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(gate) = &mut self.gate else { return Poll::Ready(Ok(())) };
        let drained = ready!(gate.backlog.poll_drain(&mut self.inner, cx));
        if let Err(error) = &drained {
            self.record.broke(error);
        }
        Poll::Ready(drained)
    }

    fn poll_write_read(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let Some(gate) = &mut self.gate else { return Poll::Ready(Ok(0)) };
        let piece = buf.get(..PIECE).unwrap_or(buf);
        match gate.ports.read(piece) {
            Ok(false) => {}
            Ok(true) => self.record.forwards(gate.ports.list()),
            Err(unreadable) => {
                self.record.cannot_go_on(&unreadable.to_string());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, unreadable)));
            }
        }
        if let Err(error) = gate.backlog.write(&mut self.inner, cx, piece) {
            self.record.broke(&error);
            return Poll::Ready(Err(error));
        }
        self.record.count_received(piece.len());
        Poll::Ready(Ok(piece.len()))
    }

    /// `bufs` were to be filled; as many bytes were read as `read` says.
    fn has_read<'a>(&mut self, read: &io::Result<usize>, bufs: impl Iterator<Item = &'a [u8]>, asked: bool) {
        if let (Some(exit), Ok(bytes)) = (&mut self.exit, read) {
            pieces(bufs, *bytes, |piece| exit.sent(piece));
            if let Some(outcome) = exit.outcome() {
                self.record.exited(outcome);
                self.exit = None;
            }
        }
        match read {
            Ok(0) if asked => self.record.end(End::Complete),
            Ok(bytes) => self.record.count_sent(*bytes),
            Err(error) => self.record.broke(error),
        }
    }

    fn has_written<'a>(&mut self, written: &io::Result<usize>, bufs: impl Iterator<Item = &'a [u8]>) {
        if let (Some(exit), Ok(bytes)) = (&mut self.exit, written) {
            pieces(bufs, *bytes, |piece| exit.received(piece));
        }
        match written {
            Ok(bytes) => self.record.count_received(*bytes),
            Err(error) => self.record.broke(error),
        }
    }
}

/// Shows the first `bytes` of what `bufs` hold.
fn pieces<'a>(bufs: impl Iterator<Item = &'a [u8]>, mut bytes: usize, mut show: impl FnMut(&[u8])) {
    for buf in bufs {
        let piece = buf.get(..bytes).unwrap_or(buf);
        bytes -= piece.len();
        show(piece);
    }
}

impl AsyncRead for Metered<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.inner.as_mut().poll_read(cx, buf));
        self.has_read(&read, std::iter::once(&*buf), !buf.is_empty());
        Poll::Ready(read)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(self.inner.as_mut().poll_read_vectored(cx, bufs));
        let asked = bufs.iter().any(|buf| !buf.is_empty());
        self.has_read(&read, bufs.iter().map(|buf| &**buf), asked);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Metered<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gate.is_some() {
            return self.poll_write_read(cx, buf);
        }
        let written = ready!(self.inner.as_mut().poll_write(cx, buf));
        self.has_written(&written, std::iter::once(buf));
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gate.is_some() {
            let buf = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write_read(cx, buf);
        }
        let written = ready!(self.inner.as_mut().poll_write_vectored(cx, bufs));
        self.has_written(&written, bufs.iter().map(|buf| &**buf));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.inner.as_mut().poll_close(cx)
    }
}
