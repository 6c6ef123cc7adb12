//! A stream's receiving half, counted where it may hold much, and then to be taken away from a reader that does not read.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
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
pub(super) struct Slot(Mutex<Held>);

struct Held {
    /// None once it was taken.
    stream: Option<RecvStream>,
    /// Who waits for more of it. h2 wakes nobody when this half is dropped while the other one is held.
    reader: Option<Waker>,
}

impl Held {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut RecvStream, &mut Context<'_>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        let polled = poll(self.stream.as_mut()?, cx);
        if polled.is_pending() {
            match &mut self.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                None => self.reader = Some(cx.waker().clone()),
            }
        }
        Some(polled)
    }
}

impl Slot {
    pub(super) fn of(stream: RecvStream) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held { stream: Some(stream), reader: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the stream with all that waits on it, and tells its reader, who may have read the rest since it was decided and wait
    /// for more.
    pub(super) fn take(&self) {
        let mut held = self.lock();
        let taken = (held.stream.take(), held.reader.take());
        drop(held);
        let (stream, reader) = taken;
        drop(stream);
        if let Some(reader) = reader {
            reader.wake();
        }
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
            Kind::Counted(_, slot) => match slot.lock().poll(cx, RecvStream::poll_data) {
                Some(polled) => polled.map_err(Broken::Stream),
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
            Kind::Counted(_, slot) => _ = slot.lock().stream.as_mut().map(release),
        }
    }

    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Broken>> {
        match &mut self.kind {
            Kind::Little(stream) => stream.poll_trailers(cx).map_err(Broken::Stream),
            Kind::Counted(_, slot) => match slot.lock().poll(cx, RecvStream::poll_trailers) {
                Some(polled) => polled.map_err(Broken::Stream),
                None => Poll::Ready(Err(Broken::Unread)),
            },
        }
    }

    /// True if nothing more will come, and nothing is to be read.
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Little(stream) => stream.is_end_stream(),
            Kind::Counted(_, slot) => slot.lock().stream.as_ref().is_some_and(RecvStream::is_end_stream),
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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use http::{Request, Response};
    use tokio::{
        io::duplex,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        Settings,
        figures::Side,
        stream::memory::{Memory, Share},
    };

    /// A port-forward: whoever has just read the rest waits for more, and the other half of the stream is held.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_is_told_that_its_stream_was_taken_away() {
        let (near, far) = duplex(64 << 10);
        let (mut client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let serving = tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (request, mut respond) = server.accept().await.unwrap().unwrap();
            let sending = respond.send_response(Response::new(()), false).unwrap();
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            (request.into_body(), sending)
        });
        let (_response, mut upload) =
            client.send_request(Request::post("https://c1/").body(()).unwrap(), false).unwrap();
        let (stream, _sending) = serving.await.unwrap();
        let settings = Settings::default();
        let share = Share::new(Memory::new(&settings, Side::Agent), &settings, Side::Agent);
        let mut inflow = share.watch(stream, None, || None);
        let Kind::Counted(_, slot) = &inflow.kind else { panic!("it is not counted") };
        let slot = slot.clone();

        upload.send_data(Bytes::from_static(b"all that there is"), false).unwrap();
        let read = poll_fn(|cx| inflow.poll_data(cx)).await.unwrap().unwrap();
        assert_eq!(&read[..], b"all that there is");
        let waiting = tokio::spawn(async move { poll_fn(|cx| inflow.poll_data(cx)).await });
        sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        slot.take();
        let told = timeout(Duration::from_secs(60), waiting).await.expect("it is woken").unwrap();
        assert!(matches!(told, Some(Err(Broken::Unread))), "{told:?}");
    }
}
