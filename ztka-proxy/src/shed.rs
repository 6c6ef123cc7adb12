//! The layers that answer instead of queueing: 503 for too much of everything, 429 for too much of one user.

use std::{
    future::{Ready, ready},
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{Request, StatusCode};
use http_body::Body;
use tokio::sync::Semaphore;
use tower::{Layer, Service};
use ztka_core::{Access, Authenticated, Caller, Hold, Reason, Refusal, RefusalSink, Reply, Status, hold};

use crate::{
    Limits,
    limits::{ClusterCounts, CountedCluster, CountedUser, Kind, UserCounts, places},
};

/// Answers 503 with `Retry-After` while too many requests wait for the head of their answer. Watches and streams count
/// until then only. Requests with a body have places of their own: slow bodies keep nobody from reading.
#[derive(Clone, Debug)]
pub struct ShedLayer {
    without_body: Arc<Semaphore>,
    with_body: Arc<Semaphore>,
}

impl ShedLayer {
    /// Admits [`Limits::requests`] and [`Limits::requests_with_body`] at once.
    pub fn new(limits: &Limits) -> Self {
        let places = |count| Arc::new(places(count));
        Self { without_body: places(limits.requests), with_body: places(limits.requests_with_body) }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Shed { inner, layer: self.clone() }
    }
}

/// Service made by [`ShedLayer`].
#[derive(Clone, Debug)]
pub struct Shed<S> {
    inner: S,
    layer: ShedLayer,
}

impl<S, B> Service<Request<B>> for Shed<S>
where
    S: Service<Request<B>, Response = Reply>,
    S::Future: Send + 'static,
    B: Body,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<BoxFuture<'static, Result<Reply, S::Error>>, Ready<Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ShedLayer { without_body, with_body } = &self.layer;
        let places = if request.body().is_end_stream() { without_body } else { with_body };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let message = "the proxy has too many requests at the moment; try again";
            let status = Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(1);
            return Either::Right(ready(Ok(status.into())));
        };
        let reply = self.inner.call(request);
        Either::Left(Box::pin(async move {
            let reply = reply.await;
            drop(place);
            reply
        }))
    }
}

/// Answers 429 with `Retry-After` when one user, or one cluster, has too many requests or streams open. Both count to
/// their very end.
#[derive(Clone, Debug)]
pub struct PerUserLayer {
    limits: Limits,
    counts: UserCounts,
    clusters: ClusterCounts,
    refusals: Arc<dyn RefusalSink>,
}

impl PerUserLayer {
    /// Admits [`Limits::user_requests`] and [`Limits::user_streams`] of each user, [`Limits::cluster_requests`] and
    /// [`Limits::cluster_streams`] to each cluster, and reports the others.
    pub fn new(limits: &Limits, refusals: Arc<dyn RefusalSink>) -> Self {
        Self { limits: *limits, counts: UserCounts::default(), clusters: ClusterCounts::default(), refusals }
    }
}

impl<S> Layer<S> for PerUserLayer {
    type Service = PerUser<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PerUser { inner, layer: self.clone() }
    }
}

/// Service made by [`PerUserLayer`].
#[derive(Clone, Debug)]
pub struct PerUser<S> {
    inner: S,
    layer: PerUserLayer,
}

/// What a request is counted by.
#[derive(Debug)]
struct Shares {
    _of_user: CountedUser,
    _of_cluster: CountedCluster,
}

impl Hold for Shares {}

impl<S, B> Service<Access<Authenticated, B>> for PerUser<S>
where
    S: Service<Access<Authenticated, B>, Response = Reply> + Clone,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<BoxFuture<'static, Result<Reply, S::Error>>, Ready<Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Authenticated, B>) -> Self::Future {
        let PerUserLayer { limits, counts, clusters, refusals } = &self.layer;
        let attributes = access.stage().attributes();
        let is_long = attributes.is_ok_and(|asked| asked.is_long_running());
        let (kind, of_user, of_cluster) = match is_long {
            true => (Kind::Stream, limits.user_streams, limits.cluster_streams),
            false => (Kind::Request, limits.user_requests, limits.cluster_requests),
        };
        let user = counts.enter((access.principal().user().clone(), kind), of_user);
        let message = match (user.is_some(), is_long) {
            (false, true) => "you have too many watches and streams open; end some",
            (false, false) => "you have too many requests at once; try again",
            (true, true) => "the cluster has too many watches and streams open, of all users; end some",
            (true, false) => "the cluster has too many requests at once, of all users; try again",
        };
        let cluster = user.as_ref().and_then(|_| clusters.enter((access.cluster().clone(), kind), of_cluster));
        let (Some(of_user), Some(of_cluster)) = (user, cluster) else {
            let reason = Reason::Overloaded(message);
            let target = attributes.ok().map(|asked| asked.path_and_query().clone().into());
            let (target, caller) = (target.as_ref(), Caller::Principal(access.principal().clone()));
            refusals.refused(Refusal { target, source: access.source(), principal: Some(&caller), reason: &reason });
            return Either::Right(ready(Ok(Status::from(&reason).into())));
        };
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let reply = mem::replace(&mut self.inner, clone).call(access);
        let counted = Shares { _of_user: of_user, _of_cluster: of_cluster };
        Either::Left(Box::pin(async move { Ok(hold(reply.await?, counted)) }))
    }
}
