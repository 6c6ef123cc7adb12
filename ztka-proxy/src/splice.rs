//! The one place where an upgrade becomes a connection, and an error an answer.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tower::{Layer, Service};
use ztka_core::{Body, BoxError, Io, Reply, Status, Upgrade, empty};

use crate::{Connection, address};

/// Each direction of an upgraded connection is copied through this much.
const PIECE: usize = 64 * 1024;

/// Turns a [`Reply`] into what goes over the wire, and an error of the inner service into a `Status`.
///
/// The user's connection is spliced only for [`Reply::Upgraded`], behind its 101; after any other answer to a request
/// to upgrade the connection is closed, and what the client sent early is dropped. Each direction ends by itself
/// (half-close). All ends when the [`Connection`] is cut, or either side fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpliceLayer;

impl<S> Layer<S> for SpliceLayer {
    type Service = Splice<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Splice { inner }
    }
}

/// Service made by [`SpliceLayer`].
#[derive(Clone, Debug)]
pub struct Splice<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Splice<S>
where
    S: Service<Request<B>, Response = Reply>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let connection = request.extensions().get::<Connection>().cloned();
        let prefix = connection.as_ref().and_then(|connection| address::prefix(connection, request.uri().path()));
        let prefix = prefix.map(String::from);
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let user = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let reply = self.inner.call(request);
        Box::pin(async move {
            let reply = reply.await.unwrap_or_else(|error| answer(error.into()));
            let broken = connection.as_ref().and_then(|connection| connection.framing().broken_body());
            let reply = broken.map_or(reply, |violation| Reply::Response(violation.answer()));
            let mut response = match (reply, user) {
                (Reply::Response(mut response), user) => {
                    if user.is_some() {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                        if let Some(connection) = &connection {
                            connection.framing().upgrade_denied();
                        }
                    }
                    response
                }
                (Reply::Upgraded { head, io }, Some(user)) => {
                    let response = switching(head, upgrade.as_ref());
                    match &connection {
                        Some(connection) => {
                            connection.framing().upgrade_granted();
                            let connection = connection.clone();
                            connection.upgrades().clone().spawn(async move {
                                tokio::select! {
                                    () = splice(user, io) => {}
                                    () = connection.cut().cancelled() => {}
                                }
                            });
                        }
                        None => drop(tokio::spawn(splice(user, io))),
                    }
                    response
                }
                (Reply::Upgraded { .. }, None) => {
                    let message = "the cluster switched protocols, which the request did not ask for";
                    Status::new(StatusCode::BAD_GATEWAY, message).into_response()
                }
            };
            if let Some(prefix) = prefix {
                add_prefix(&mut response, &prefix);
            }
            Ok(response)
        })
    }
}

/// What is answered in place of an error.
fn answer(error: BoxError) -> Reply {
    let error = match error.downcast::<Status>() {
        Ok(status) => return Reply::from(*status),
        Err(error) => error,
    };
    tracing::warn!(error = &*error as &dyn std::error::Error, "a request failed on its way");
    Status::new(StatusCode::BAD_GATEWAY, format!("the request failed on its way to the cluster: {error}")).into()
}

/// The 101, with the two headers that belong to this hop.
fn switching(head: Response<()>, upgrade: Option<&HeaderValue>) -> Response<Body> {
    let mut response = head.map(|()| empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let token = upgrade.and_then(|token| token.to_str().ok()).and_then(Upgrade::from_token);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(token) = token {
        headers.insert(header::UPGRADE, HeaderValue::from_static(token.token()));
    }
    response
}

/// Copies both ways until both directions have ended, or one fails.
async fn splice(user: OnUpgrade, io: Io) {
    let user = match user.await {
        Ok(user) => user,
        Err(error) => return tracing::debug!(%error, "the user left before the upgrade"),
    };
    let (mut user, mut cluster) = (TokioIo::new(user), io.compat());
    if let Err(error) = tokio::io::copy_bidirectional_with_sizes(&mut user, &mut cluster, PIECE, PIECE).await {
        tracing::debug!(%error, "an upgraded connection failed");
    }
}

/// A client that asks by path has to be sent below that path again.
fn add_prefix(response: &mut Response<Body>, prefix: &str) {
    let location = response.headers().get(header::LOCATION).map(HeaderValue::as_bytes);
    if let Some(location @ [b'/', ..]) = location
        && !location.starts_with(b"//")
        && let Ok(location) = HeaderValue::from_bytes(&[prefix.as_bytes(), location].concat())
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
}
