//! The layer that lets nothing go on unrecorded.

use std::{
    mem,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tower::{Layer, Service};
use ztka_core::{Access, Authenticated, Recorded, Reply};

use crate::{Recorder, record::Record};

/// Opens an audit record before the inner service and closes it when the reply is over.
///
/// The record is closed as well if the future of the call, the body of the reply or the upgraded connection is dropped
/// early, if the inner service fails, and if it panics. A request whose record cannot be opened is answered 503 and
/// does not reach the inner service.
#[derive(Clone, Debug)]
pub struct AuditLayer {
    recorder: Recorder,
}

impl AuditLayer {
    /// Records with `recorder`.
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder }
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let recorder = self.recorder.clone();
        Audit { inner, recorder }
    }
}

/// Service produced by [`AuditLayer`].
#[derive(Clone, Debug)]
pub struct Audit<S> {
    inner: S,
    recorder: Recorder,
}

impl<S, B> Service<Access<Authenticated, B>> for Audit<S>
where
    S: Service<Access<Recorded, B>, Response = Reply> + Clone + Send + 'static,
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
        let mut record = Record::new(&self.recorder, &access);
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            if let Err(unrecorded) = record.open().await {
                return Ok(record.refuse(&unrecorded));
            }
            let access = Recorded::assertion(access, record.id(), record.slot());
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
