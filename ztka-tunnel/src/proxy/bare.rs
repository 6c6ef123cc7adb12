//! Requests that are nobody's: for tunnels that carry plain HTTP, where the embedder decides who may ask.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use http_body::Body;
use tower::Service;
use ztka_core::{BoxError, ClusterId, OrgId, Reply};

use super::{
    dispatch::{Beyond, Parcel},
    registry::Registry,
    tunnel::TunnelPeer,
};
use crate::{OWN_PATHS, Problem, wire};

/// Sends plain HTTP requests into the tunnels of one place, as [`Dispatch`](crate::Dispatch) does. Answers of its own are
/// [`Problem`]s.
///
/// It knows no user and asks no policy: whoever makes one vouches for every request that it is given. Hop-by-hop headers
/// and the tunnel's own stay behind; all others travel on as they are, `traceparent` (W3C Trace Context) among them. A
/// request with an [`Upgrade`](ztka_core::Upgrade) among its extensions becomes an upgraded reply.
#[derive(Clone, Debug)]
pub struct Bare {
    registry: Registry,
    org: OrgId,
    cluster: ClusterId,
}

impl Bare {
    /// States that whatever this service will be given may be asked of the place of `peer`, whichever of its agents answers.
    pub fn assertion(registry: Registry, peer: &TunnelPeer) -> Self {
        Self { registry, org: peer.org.clone(), cluster: peer.cluster.clone() }
    }
}

impl<B> Service<Request<B>> for Bare
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { registry, org, cluster } = self.clone();
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ());
        wire::strip_hop_by_hop(head.headers_mut());
        wire::strip_internal(head.headers_mut());
        head.headers_mut().remove(http::header::HOST);
        Box::pin(async move {
            if head.uri().path().starts_with(OWN_PATHS) {
                return Ok(registry.refuse(Problem::new(StatusCode::NOT_FOUND, "no such path")));
            }
            Ok(registry.send(Parcel { org, cluster, evidence: None, user: None, head }, body, Beyond::Nothing).await)
        })
    }
}
