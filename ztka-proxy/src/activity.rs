//! When a user's connection has to go: it had nothing to do for too long, or never said whose it is.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use ztka_core::{Body, BoxError};

/// A connection without a request is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A connection that was told to close, and has nothing open, has this long.
const GOODBYE: Duration = Duration::from_secs(10);

/// Requests under way on one connection. A handle: clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    under_way: AtomicUsize,
    /// When the last request ended.
    since: Mutex<Instant>,
    /// When the connection of a client without a certificate ends, whatever is under way.
    until: Option<Instant>,
}

impl Activity {
    /// Of a connection that begins; it lasts for `life` only where that is given.
    pub(crate) fn new(life: Option<Duration>) -> Self {
        let now = Instant::now();
        let until = life.map(|life| now + life);
        Self(Arc::new(Shared { under_way: AtomicUsize::new(0), since: Mutex::new(now), until }))
    }

    pub(crate) fn begin(&self) -> Under {
        self.0.under_way.fetch_add(1, Relaxed);
        Under(self.clone())
    }

    /// When to ask [`Self::is_over`] again; `leaving` since the connection was told to close.
    pub(crate) fn next_look(&self, leaving: Option<Instant>) -> Instant {
        let (now, idle, until) = (Instant::now(), self.is_idle(), self.0.until);
        match leaving {
            Some(since) if idle || until.is_some() => since + GOODBYE,
            Some(_) => now + GOODBYE,
            None => {
                let idle = if idle { self.since() } else { now } + IDLE;
                until.map_or(idle, |until| until.min(idle))
            }
        }
    }

    /// Whether it is time to tell the connection to close or, where it is `leaving` since then, to end it.
    pub(crate) fn is_over(&self, leaving: Option<Instant>) -> bool {
        let (now, idle, until) = (Instant::now(), self.is_idle(), self.0.until);
        match leaving {
            Some(since) => (idle || until.is_some()) && now >= since + GOODBYE,
            None => until.is_some_and(|until| now >= until) || idle && now >= self.since() + IDLE,
        }
    }

    fn is_idle(&self) -> bool {
        self.0.under_way.load(Relaxed) == 0
    }

    fn since(&self) -> Instant {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way, until it is dropped.
pub(crate) struct Under(Activity);

impl Drop for Under {
    fn drop(&mut self) {
        let Shared { under_way, since, .. } = &*self.0.0;
        if under_way.fetch_sub(1, Relaxed) == 1 {
            *since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// The body of an answer, which keeps its connection from being idle.
pub(crate) struct Running {
    body: Body,
    _under: Under,
}

impl Running {
    pub(crate) fn new(body: Body, under: Under) -> Self {
        Self { body, _under: under }
    }
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
