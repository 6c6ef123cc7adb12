//! When a user's connection has to go: it had nothing to do for too long, or never said whose it is.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header::CONTENT_LENGTH};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use ztka_core::{Body, BoxError, Farewell};

use crate::limits::Account;

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
    /// Who pays for what is given up, and what ends the connection of somebody who cannot.
    account: Option<(Account, CancellationToken)>,
    overdrawn: AtomicBool,
}

impl Activity {
    /// Of a connection that begins; it lasts for `life` only where that is given. What is given up before it has ended is
    /// charged to the account, and beyond that the token is cancelled.
    pub(crate) fn new(life: Option<Duration>, account: Option<(Account, CancellationToken)>) -> Self {
        let now = Instant::now();
        let until = life.map(|life| now + life);
        let (under_way, since, overdrawn) = (AtomicUsize::new(0), Mutex::new(now), AtomicBool::new(false));
        Self(Arc::new(Shared { under_way, since, until, account, overdrawn }))
    }

    pub(crate) fn begin(&self) -> Under {
        self.0.under_way.fetch_add(1, Relaxed);
        Under { activity: self.clone(), has_ended: false }
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

    /// Whether its user has given up too much.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.0.overdrawn.load(Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.0.under_way.load(Relaxed) == 0
    }

    fn since(&self) -> Instant {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way, until it is dropped: given up, if it has not ended by then.
pub(crate) struct Under {
    activity: Activity,
    has_ended: bool,
}

impl Drop for Under {
    fn drop(&mut self) {
        let Shared { under_way, since, account, overdrawn, .. } = &*self.activity.0;
        if under_way.fetch_sub(1, Relaxed) == 1 {
            *since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        if !self.has_ended
            && let Some((account, cut)) = account
            && !account.charge()
        {
            overdrawn.store(true, Relaxed);
            cut.cancel();
        }
    }
}

/// The body of an answer, which keeps its connection from being idle. A [`Farewell`] ends it cleanly.
pub(crate) struct Running {
    body: Body,
    /// Still to come, where that is known: a server does not ask for more of a body whose announced length it has.
    left: Option<u64>,
    under: Under,
}

impl Running {
    /// `response`, with a body that is under way.
    pub(crate) fn of(response: Response<Body>, under: Under) -> Response<Self> {
        let (head, body) = response.into_parts();
        let announced = || head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let left = body.size_hint().exact().or_else(announced);
        Response::from_parts(head, Self { body, left, under })
    }

    fn note(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, BoxError>>>) {
        match frame {
            Poll::Pending => return,
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
            }
            Poll::Ready(None | Some(Err(_))) => self.under.has_ended = true,
        }
        self.under.has_ended |= self.left == Some(0) || self.body.is_end_stream();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of an answer without content nothing is asked.
        self.under.has_ended |= self.left == Some(0) || self.body.is_end_stream();
    }
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.note(&frame);
        match frame {
            Poll::Ready(Some(Err(error))) if Farewell::is(&*error) => Poll::Ready(None),
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
