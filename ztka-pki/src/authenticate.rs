//! The first step of a request's way: who is it, and for which cluster.

use std::{
    future::{Ready, ready},
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, request::Parts};
use tower::{Layer, Service};
use ztka_core::{Access, Authenticated, Caller, Identity, Reason, Refusal, RefusalSink, Reply, Status};

/// Why a request is refused, and whom it is from all the same.
#[derive(Clone, Debug)]
pub struct NotAuthenticated {
    reason: Reason,
    caller: Option<Box<Caller>>,
}

impl NotAuthenticated {
    /// Refused for `reason`, although it was verified that it is `caller` who asks. The refusal is recorded as theirs.
    pub fn by(caller: Caller, reason: Reason) -> Self {
        Self { reason, caller: Some(Box::new(caller)) }
    }
}

impl From<Reason> for NotAuthenticated {
    /// Nothing was verified of whoever asks.
    fn from(reason: Reason) -> Self {
        Self { reason, caller: None }
    }
}

/// Finds out who a request is from and which cluster it is for.
pub trait Authenticator {
    /// Reads the verified peer that the acceptor has put into the request's extensions, the server name, and the host.
    /// Returns at once.
    ///
    /// # Errors
    /// The reason that the user is told, and whom the refusal is recorded of.
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated>;
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated> {
        (**self).authenticate(head)
    }
}

/// Admits only requests of somebody who is known, and reports the others.
///
/// The source address in such a report is the request's extension of type [`IpAddr`], if there is one.
#[derive(Clone, Debug)]
pub struct AuthenticateLayer<A> {
    authenticator: A,
    refusals: Arc<dyn RefusalSink>,
}

impl<A> AuthenticateLayer<A> {
    /// Asks `authenticator`, and tells `refusals` of requests that nobody is known to have made.
    pub fn new(authenticator: A, refusals: Arc<dyn RefusalSink>) -> Self {
        Self { authenticator, refusals }
    }
}

impl<S, A: Clone> Layer<S> for AuthenticateLayer<A> {
    type Service = Authenticate<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate { inner, layer: self.clone() }
    }
}

/// Service made by [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S, A> {
    inner: S,
    layer: AuthenticateLayer<A>,
}

impl<S, A, B> Service<Request<B>> for Authenticate<S, A>
where
    A: Authenticator,
    S: Service<Access<Authenticated, B>, Response = Reply>,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        match self.layer.authenticator.authenticate(&head) {
            Ok(identity) => Either::Left(self.inner.call(Authenticated::assertion(identity, &head, body))),
            Err(NotAuthenticated { reason, caller }) => {
                let source = head.extensions.get::<IpAddr>().copied();
                let principal = caller.as_deref();
                let refusal = Refusal { target: Some(&head.uri), source, principal, reason: &reason };
                self.layer.refusals.refused(refusal);
                Either::Right(ready(Ok(Status::from(&reason).into())))
            }
        }
    }
}
