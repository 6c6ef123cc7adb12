//! The body of a user's request, which has to keep coming.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use ztka_core::{BoxError, RequestAttributes};

use crate::{Connection, address};

/// So long may be waited for a body that says nothing; bytes win time back, but never more than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body of a user's request: without trailers, which no Kubernetes request has and which could carry headers past
/// every check of headers; and no slower than [`Limits::body_bytes_per_second`](crate::Limits).
#[derive(Debug)]
pub struct UserBody {
    body: Incoming,
    pace: Option<Pace>,
}

/// How a body keeps up. Only time counts in which somebody waits for it: a slow cluster is not the user's fault.
#[derive(Debug)]
struct Pace {
    rate: f64,
    /// What is left to wait, when nobody waits; while somebody does, until when.
    credit: Duration,
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    slow: Slow,
}

/// Says whether a body was too slow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slow(Arc<AtomicBool>);

impl Slow {
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl UserBody {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, pace: None }
    }

    /// The same with so many bytes per second at least; the handle tells when it was not.
    pub(crate) fn paced(self, bytes_per_second: u32) -> (Self, Slow) {
        let (slow, now) = (Slow::default(), Instant::now());
        let timer = Box::pin(sleep_until(now + PATIENCE));
        let pace = Pace { rate: f64::from(bytes_per_second), credit: PATIENCE, since: None, timer, slow: slow.clone() };
        (Self { pace: Some(pace), ..self }, slow)
    }
}

/// Whether a request may take its time with its body: what is carried through to a pod, a service or a node is theirs.
pub(crate) fn is_timeless<B>(request: &Request<B>, connection: &Connection) -> bool {
    let prefix = address::prefix(connection, request.uri().path()).map_or(0, str::len);
    let target = request.uri().path_and_query().and_then(|target| target.as_str().get(prefix..));
    let Some(Ok(target)) = target.map(str::parse) else { return false };
    RequestAttributes::parse(request.method(), &target, None).is_ok_and(|asked| asked.is_proxied())
}

impl Pace {
    fn came(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.credit = self.credit.saturating_sub(since.elapsed());
        }
        let won = Duration::try_from_secs_f64(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / self.rate);
        self.credit = self.credit.saturating_add(won.unwrap_or(PATIENCE)).min(PATIENCE);
    }

    /// Ready when it was waited for too long.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.as_mut().reset(now + self.credit);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl http_body::Body for UserBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, pace } = &mut *self;
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {}
                Poll::Ready(frame) => {
                    if let (Some(pace), Some(Ok(frame))) = (pace.as_mut(), &frame) {
                        pace.came(frame.data_ref().map_or(0, Bytes::len));
                    }
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                }
                Poll::Pending => {
                    if let Some(pace) = pace
                        && pace.poll_waiting(cx).is_ready()
                    {
                        pace.slow.0.store(true, Relaxed);
                        return Poll::Ready(Some(Err("the body of the request came too slowly".into())));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
