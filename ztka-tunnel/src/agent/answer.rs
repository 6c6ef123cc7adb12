//! One stream on the agent: read, answered by the service, and its answer sent.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{Reason, RecvStream, ext::Protocol, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use ztka_core::{Body, BoxError, ClusterId, ProxyId, Reply, Upgrade, Verified, empty};

use super::{
    serve::{End, Phase},
    splice::splice,
};
use crate::{
    Channel, DRAIN_PATH, HELLO_PATH, PROTOCOL, PROTOCOL_HEADER, Problem, READY_PATH, Refusals,
    stream::{
        Inflow, Received,
        memory::{Share, Who},
        pump,
    },
    wire,
};

/// What is to be done with a stream.
pub(super) enum Asked {
    /// Already answered.
    Answered(Response<Body>),
    /// A request for the service, and the receiving half of an upgrade.
    Request(Request<Body>, Option<Receiving>),
}

/// The receiving half of an upgrade.
pub(super) type Receiving = (Inflow, Upgrade);

/// Reads one request; what proxies say about the tunnel itself is answered here.
pub(super) fn read(
    request: Request<RecvStream>,
    proxy: Verified<ProxyId>,
    end: End,
    phase: &watch::Sender<Phase>,
    (share, who, refusals): (&Arc<Share>, &Who, Refusals),
) -> Asked {
    if let Some(response) = own(&request, phase) {
        return Asked::Answered(response);
    }
    match restore(request, proxy, end, (share, who)) {
        Ok((request, upgrade)) => Asked::Request(request, upgrade),
        Err(problem) => Asked::Answered(refusals.answer(problem)),
    }
}

/// Sends what the service replies. When the proxy resets the stream or the tunnel ends, the service's future or the body
/// of its answer is dropped at once.
pub(super) async fn answer(
    mut reply: BoxFuture<'static, Result<Reply, BoxError>>,
    upgrade: Option<Receiving>,
    mut respond: SendResponse<Bytes>,
    refusals: Refusals,
) {
    let reply = poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => reply.as_mut().poll(cx).map(Some),
    })
    .await;
    let reply = match reply {
        None => return,
        Some(Ok(reply)) => reply,
        Some(Err(error)) => {
            tracing::error!(%error, "the service failed");
            let text = "the agent at the far end failed; its log says why";
            Reply::Response(refusals.answer(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text)))
        }
    };
    match (reply, upgrade) {
        (Reply::Response(response), None) => send(response, respond).await,
        (Reply::Response(response), Some(_)) if response.status().is_success() => {
            // On the wire a success means 101, and this was none.
            let text = format!("the upstream answered {} instead of upgrading", response.status());
            send(refusals.answer(Problem::new(StatusCode::BAD_GATEWAY, text)), respond).await;
        }
        (Reply::Response(response), Some(_)) => send(response, respond).await,
        (Reply::Upgraded { .. }, None) => {
            let text = "the upstream upgraded a request that did not ask for it";
            send(refusals.answer(Problem::new(StatusCode::BAD_GATEWAY, text)), respond).await;
        }
        (Reply::Upgraded { head, io }, Some((receive, upgrade))) => {
            let mut head = clean(head);
            *head.status_mut() = StatusCode::OK;
            head.headers_mut().remove(header::CONTENT_LENGTH);
            if let Ok(send) = respond.send_response(head, false) {
                splice(Channel::counted(send, receive, ()), io, upgrade).await;
            }
        }
    }
}

fn own(request: &Request<RecvStream>, phase: &watch::Sender<Phase>) -> Option<Response<Body>> {
    if *request.method() != Method::POST {
        return None;
    }
    let raise = |to: Phase| {
        phase.send_if_modified(|phase| {
            let raised = *phase < to;
            *phase = to.max(*phase);
            raised
        })
    };
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    match request.uri().path() {
        HELLO_PATH => {
            if !wire::speaks(request.headers()) {
                *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            }
            response.headers_mut().insert(&PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
        }
        READY_PATH => _ = raise(Phase::Ready),
        DRAIN_PATH => _ = raise(Phase::Draining),
        _ => return None,
    }
    Some(response)
}

/// The request as it was before it was put on the wire, and the receiving half of an upgrade.
///
/// The authority is dropped: an agent has one upstream, whatever a request names. A proxy reads the cluster from it.
fn restore(
    request: Request<RecvStream>,
    proxy: Verified<ProxyId>,
    end: End,
    (share, who): (&Arc<Share>, &Who),
) -> Result<(Request<Body>, Option<Receiving>), Problem> {
    let bad = |text: &'static str| Problem::new(StatusCode::BAD_REQUEST, text);
    let (mut head, stream) = request.into_parts();
    let path = head.uri.path_and_query().cloned().ok_or_else(|| bad("a request without a path"))?;
    if let End::Proxy = end {
        let named = head.uri.authority().and_then(|cluster| cluster.as_str().parse::<ClusterId>().ok());
        head.extensions.insert(named.ok_or_else(|| bad("a request that names no cluster"))?);
    }
    head.uri = path.into();
    head.extensions.insert(proxy);
    let method = head.headers.remove(&ztka_core::METHOD);
    if head.method != Method::CONNECT {
        if method.is_some() {
            return Err(bad("ztka-method belongs to an upgrade"));
        }
        let body = match stream.is_end_stream() {
            true => empty(),
            false => {
                let stream = share.watch(stream, Some(&head.headers), || who.pays(&head.headers));
                Received::new(stream, ()).boxed_unsync()
            }
        };
        return Ok((Request::from_parts(head, body), None));
    }
    let protocol = head.extensions.remove::<Protocol>();
    let upgrade = protocol.as_ref().and_then(|protocol| Upgrade::from_token(protocol.as_str()));
    let upgrade = upgrade.ok_or_else(|| bad("only WebSocket and SPDY/3.1 can be upgraded to"))?;
    head.extensions.insert(upgrade);
    let method = method.as_ref().map(HeaderValue::as_bytes);
    head.method = match method {
        Some(b"GET") => Method::GET,
        Some(b"POST") => Method::POST,
        _ => return Err(bad("an upgrade is a GET or a POST; ztka-method says which")),
    };
    let stream = share.watch(stream, None, || who.pays(&head.headers));
    Ok((Request::from_parts(head, empty()), Some((stream, upgrade))))
}

/// Without what describes the connection that the answer came on.
fn clean<B>(mut response: Response<B>) -> Response<B> {
    wire::strip_hop_by_hop(response.headers_mut());
    *response.version_mut() = http::Version::HTTP_2;
    response
}

pub(super) async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>) {
    let (head, body) = clean(response).into_parts();
    let end = body.is_end_stream();
    // Fails only for a stream that has been reset meanwhile.
    match respond.send_response(Response::from_parts(head, ()), end) {
        Ok(stream) if !end => {
            let pass = |trailers: HeaderMap| trailers;
            if let Err(crate::stream::Unfinished::Body(error)) = pump(body, stream, pass).await {
                tracing::debug!(%error, "an answer broke off");
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "an answer could not be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}
