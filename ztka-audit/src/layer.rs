//! The layer that lets nothing go on unrecorded.

use std::{
    mem,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Body;
use tower::{Layer, Service};
use ztka_core::{Access, Authenticated, Recorded, Reply};

use crate::{Levels, Recorder, Tapped, body::Tap, record::Record};

/// Opens an audit record before the inner service and closes it when the reply is over.
///
/// The record is closed as well if the future of the call, the body of the reply or the upgraded connection is dropped
/// early, if the inner service fails, and if it panics. A request whose record cannot be opened is answered 503 and
/// does not reach the inner service.
///
/// By itself it records everything at level `Metadata` and leaves bodies alone; with [`Levels`] it looks at them as they go by,
/// and the inner service is given the request's body as a [`Tapped`].
#[derive(Clone, Debug)]
pub struct AuditLayer<O = Unseen> {
    recorder: Recorder,
    observer: O,
}

impl AuditLayer {
    /// Records with `recorder`, at level `Metadata`.
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, observer: Unseen }
    }

    /// Records as much of each request as `levels` and the binding that allows it say.
    pub fn with_levels(self, levels: Levels) -> AuditLayer<Levels> {
        AuditLayer { recorder: self.recorder, observer: levels }
    }

    /// The same, but leaves the bodies of requests as they are and off the record: somebody else has them.
    pub fn with_levels_alone(self, levels: Levels) -> AuditLayer<Alone> {
        AuditLayer { recorder: self.recorder, observer: Alone(levels) }
    }
}

impl<S, O: Clone> Layer<S> for AuditLayer<O> {
    type Service = Audit<S, O>;

    fn layer(&self, inner: S) -> Self::Service {
        Audit { inner, recorder: self.recorder.clone(), observer: self.observer.clone() }
    }
}

/// Bodies are not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Unseen;

/// Levels, without the bodies of requests.
#[derive(Clone, Debug)]
pub struct Alone(Levels);

/// How an [`AuditLayer`] treats the bodies of requests; [`Unseen`], [`Levels`] and [`Alone`] are all there is.
pub trait Observe<B>: sealed::Sealed + Clone + Send + Sync + 'static {
    /// What the inner service is given in the place of `B`.
    type Seen: Send + 'static;

    /// The levels to record at, if there are any.
    #[doc(hidden)]
    fn levels(&self) -> Option<&Levels>;

    /// `body`, of which `tap` keeps the beginning.
    #[doc(hidden)]
    fn observe(body: B, tap: Option<Tap>) -> Self::Seen;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Unseen {}
    impl Sealed for crate::Levels {}
    impl Sealed for super::Alone {}
}

impl<B: Send + 'static> Observe<B> for Unseen {
    type Seen = B;

    fn levels(&self) -> Option<&Levels> {
        None
    }

    fn observe(body: B, _: Option<Tap>) -> B {
        body
    }
}

impl<B: Send + 'static> Observe<B> for Alone {
    type Seen = B;

    fn levels(&self) -> Option<&Levels> {
        Some(&self.0)
    }

    fn observe(body: B, _: Option<Tap>) -> B {
        body
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Observe<B> for Levels {
    type Seen = Tapped<B>;

    fn levels(&self) -> Option<&Levels> {
        Some(self)
    }

    fn observe(body: B, tap: Option<Tap>) -> Tapped<B> {
        Tapped::new(body, tap)
    }
}

/// Service produced by [`AuditLayer`].
#[derive(Clone, Debug)]
pub struct Audit<S, O = Unseen> {
    inner: S,
    recorder: Recorder,
    observer: O,
}

impl<S, B, O> Service<Access<Authenticated, B>> for Audit<S, O>
where
    O: Observe<B>,
    S: Service<Access<Recorded, O::Seen>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Reply, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Authenticated, B>) -> Self::Future {
        let mut record = Record::new(&self.recorder, &access, self.observer.levels());
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            if let Err(unrecorded) = record.open().await {
                return Ok(record.refuse(&unrecorded));
            }
            let access = Recorded::assertion(access, record.id(), record.slot());
            let tap = record.tap(access.headers());
            let access = access.map_body(|body| O::observe(body, tap));
            match inner.call(access).await {
                Ok(reply) => Ok(record.follow(reply)),
                Err(error) => {
                    record.fail();
                    Err(error)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
