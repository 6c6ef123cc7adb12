//! A stream's receiving half, counted where it may hold much, and then to be taken away from a reader that does not read.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{RecvStream, StreamId};
use http::HeaderMap;

use super::memory::Share;

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The stream or its connection broke.
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// It was ended here.
    #[error(
        "ended because too much of it was not read, and its user holds more unread than a user may; read, or ask for less at once"
    )]
    Unread,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stream(error) if error.is_io() => {
                error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
            }
            broken => Self::new(io::ErrorKind::ConnectionReset, broken),
        }
    }
}

/// Holds a stream until it is taken out.
pub(super) struct Slot(Mutex<Option<RecvStream>>);

impl Slot {
    pub(super) fn of(stream: RecvStream) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(stream))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<RecvStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the stream with all that waits on it. Its reader, who has not read what is there, is not waiting for more.
    pub(super) fn take(&self) {
        let stream = self.lock().take();
        drop(stream);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

/// What the peer sends on one stream. Dropped before the end, it resets the stream once nobody else holds it.
pub(crate) struct Inflow {
    id: StreamId,
    kind: Kind,
}

enum Kind {
    /// Too little to be counted.
    Little(RecvStream),
    Counted(Arc<Share>, Arc<Slot>),
}

impl Inflow {
    pub(crate) fn little(stream: RecvStream) -> Self {
        Self { id: stream.stream_id(), kind: Kind::Little(stream) }
    }

    pub(super) fn counted(share: Arc<Share>, id: StreamId, slot: Arc<Slot>) -> Self {
        Self { id, kind: Kind::Counted(share, slot) }
    }

    /// The next bytes; [`Self::release`] has to follow once they are read.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match &mut self.kind {
            Kind::Little(stream) => stream.poll_data(cx).map_err(Broken::Stream),
            Kind::Counted(_, slot) => match slot.lock().as_mut() {
                Some(stream) => stream.poll_data(cx).map_err(Broken::Stream),
                None => Poll::Ready(Some(Err(Broken::Unread))),
            },
        }
    }

    /// The peer may send so many more.
    pub(crate) fn release(&mut self, bytes: usize) {
        let release = |stream: &mut RecvStream| drop(stream.flow_control().release_capacity(bytes));
        // Fails only for a stream that has ended meanwhile.
        match &mut self.kind {
            Kind::Little(stream) => release(stream),
            Kind::Counted(_, slot) => _ = slot.lock().as_mut().map(release),
        }
    }

    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>> {
        match &mut self.kind {
            Kind::Little(stream) => stream.poll_trailers(cx).map_err(Broken::Stream),
            Kind::Counted(_, slot) => match slot.lock().as_mut() {
                Some(stream) => stream.poll_trailers(cx).map_err(Broken::Stream),
                None => Poll::Ready(Err(Broken::Unread)),
            },
        }
    }

    /// True if nothing more will come, and nothing is to be read.
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Little(stream) => stream.is_end_stream(),
            Kind::Counted(_, slot) => slot.lock().as_ref().is_some_and(RecvStream::is_end_stream),
        }
    }
}

impl fmt::Debug for Inflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inflow").field(&self.id).finish()
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        if let Kind::Counted(share, _) = &self.kind {
            share.forget(self.id);
        }
    }
}
