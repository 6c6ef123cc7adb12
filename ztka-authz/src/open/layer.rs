//! The layer that keeps what is permitted under watch for as long as it is open.

use std::{
    future::{Ready, poll_fn, ready},
    mem,
    pin::pin,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use tower::{Layer, Service};
use ztka_core::{Access, Permitted, Reply, hold};

use super::{Open, Sessions};

/// Ends a permitted request as soon as it would no longer be let in: its session or certificate has ended, its credential
/// is revoked, its user disabled, the cluster removed, or (for what is long-running) policy says no. To be put behind
/// [`AuthorizeLayer`](crate::AuthorizeLayer).
///
/// An open body ends with an error, so that nobody takes it for complete; an upgraded connection is closed. A port-forward that
/// opens a port which policy refuses is told so in the cluster's place, and closed. When the server
/// [stops](Open::stop), what goes on without end gets a [`Farewell`](ztka_core::Farewell).
#[derive(Debug)]
pub struct CutLayer<S: Sessions> {
    open: Open<S>,
}

impl<S: Sessions> CutLayer<S> {
    /// Enters what is permitted into `open`, which somebody [enforces](Open::enforce).
    pub fn new(open: Open<S>) -> Self {
        Self { open }
    }
}

impl<S: Sessions> Clone for CutLayer<S> {
    fn clone(&self) -> Self {
        Self { open: self.open.clone() }
    }
}

impl<S: Sessions, I> Layer<I> for CutLayer<S> {
    type Service = Cut<S, I>;

    fn layer(&self, inner: I) -> Self::Service {
        Cut { inner, open: self.open.clone() }
    }
}

/// Service produced by [`CutLayer`].
#[derive(Debug)]
pub struct Cut<S: Sessions, I> {
    inner: I,
    open: Open<S>,
}

impl<S: Sessions, I: Clone> Clone for Cut<S, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), open: self.open.clone() }
    }
}

impl<S, I, B> Service<Access<Permitted, B>> for Cut<S, I>
where
    S: Sessions,
    I: Service<Access<Permitted, B>, Response = Reply> + Clone,
    I::Future: Send + 'static,
{
    type Response = Reply;
    type Error = I::Error;
    type Future = Either<BoxFuture<'static, Result<Reply, I::Error>>, Ready<Result<Reply, I::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Permitted, B>) -> Self::Future {
        let lease = match self.open.enter(&access) {
            Ok(lease) => lease,
            Err(cause) => return Either::Right(ready(Ok(cause.status(S::SERVER, false).into()))),
        };
        let mutating = access.stage().attributes().is_mutating();
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let reply = mem::replace(&mut self.inner, clone).call(access);
        Either::Left(Box::pin(async move {
            let mut reply = pin!(reply);
            let reply = poll_fn(|cx| match lease.poll_cause(cx) {
                Poll::Ready(cause) => Poll::Ready(Err(cause.status(S::SERVER, mutating))),
                Poll::Pending => reply.as_mut().poll(cx).map(Ok),
            });
            match reply.await {
                Ok(reply) => {
                    let reply = if lease.stream.attributes.is_some() { lease.accompany(reply?) } else { reply? };
                    Ok(hold(reply, lease))
                }
                Err(status) => Ok(status.into()),
            }
        }))
    }
}
