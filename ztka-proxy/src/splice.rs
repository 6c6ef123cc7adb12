//! The one place where an upgrade becomes a connection, and an error an answer.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;
use tokio_util::{compat::FuturesAsyncReadCompatExt as _, sync::CancellationToken};
use tower::{Layer, Service};
use ztka_core::{Body, BoxError, Io, Reply, Status, Upgrade, empty};

use ztka_tunnel::LastWords;

use crate::{Connection, address};

/// Each direction of an upgraded connection is copied through this much.
const PIECE: usize = 64 * 1024;
/// A user who was told that the connection is closed has this long to close it too.
const GOODBYE: Duration = Duration::from_secs(2);

/// Turns a [`Reply`] into what goes over the wire, and an error of the inner service into a `Status`.
///
/// The user's connection is spliced only for [`Reply::Upgraded`], behind its 101; after any other answer to a request
/// to upgrade the connection is closed, and what the client sent early is dropped. Each direction ends by itself
/// (half-close). All ends when the [`Connection`] is cut, or either side fails; of the cluster's failure, and of a server
/// that stops, the user hears by a close frame.
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
                    let protocol = upgrade.as_ref().and_then(|token| token.to_str().ok()).and_then(Upgrade::from_token);
                    let response = switching(head, protocol);
                    match &connection {
                        Some(connection) => {
                            connection.framing().upgrade_granted();
                            let connection = connection.clone();
                            connection.upgrades().clone().spawn(async move {
                                tokio::select! {
                                    () = splice(user, io, protocol) => {}
                                    () = connection.cut().cancelled() => {}
                                }
                            });
                        }
                        None => drop(tokio::spawn(splice(user, io, protocol))),
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
fn switching(head: Response<()>, protocol: Option<Upgrade>) -> Response<Body> {
    let mut response = head.map(|()| empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(token) = protocol {
        headers.insert(header::UPGRADE, HeaderValue::from_static(token.token()));
    }
    response
}

/// Copies both ways until both directions have ended, or one fails. Where the cluster's side fails the user is told so in
/// `protocol`, and has a moment to close as well.
async fn splice(user: OnUpgrade, io: Io, protocol: Option<Upgrade>) {
    let user = match user.await {
        Ok(user) => user,
        Err(error) => return tracing::debug!(%error, "the user left before the upgrade"),
    };
    let said = CancellationToken::new();
    let (mut user, mut cluster) = (TokioIo::new(user), LastWords::new(io.compat(), protocol, said.clone()));
    let closed = async {
        said.cancelled().await;
        sleep(GOODBYE).await;
    };
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut user, &mut cluster, PIECE, PIECE) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded connection failed");
            }
        }
        () = closed => {}
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
