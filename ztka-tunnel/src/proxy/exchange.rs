//! One request on one tunnel: what is sent, and what comes back.

use std::{fmt, future::poll_fn, pin::Pin};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture, ext::Protocol};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use ztka_core::{BoxError, Reply, Upgrade, UserId, empty, strip_trailers};

use super::lease::{AbortOnDrop, Lease};
use crate::{
    Channel, UNKNOWN,
    stream::{Received, memory::Payer, pump},
    wire::{self, NONE, TUNNEL},
};

/// What became of a request.
pub(super) enum Outcome<B> {
    /// An answer.
    Reply(Reply),
    /// The agent has certainly not begun with it, and the body is as it was: another tunnel may be asked.
    Untouched(B),
    /// The agent does not hold the evidence that the request names; otherwise as `Untouched`.
    Unproven(B),
    /// As `Unproven`, but the body is on its way and cannot be sent again.
    Forgotten,
    /// The tunnel died before a byte of an answer. Nobody knows how far the agent came, but it may be asked again.
    Broken(B, Cause),
    /// Nobody knows how far the agent came, and it may not be asked again.
    Lost(Cause),
    /// The other proxy has no tunnel of the cluster (any more), and has done nothing; the body, if it is as it was.
    NotThere(Option<B>),
}

/// What broke.
#[derive(Debug)]
pub(super) enum Cause {
    /// A tunnel of this proxy.
    Here(h2::Error),
    /// The tunnel of the other proxy, as it says.
    There,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(error) => error.fmt(f),
            Self::There => f.write_str("the tunnel of the other proxy broke"),
        }
    }
}

/// Sends `head` with `body`; an [`Upgrade`] among its extensions makes it an extended CONNECT (RFC 8441).
///
/// Dropped, it resets the stream. A reply that is dropped does so as well. What of it nobody has read yet is `user`'s.
pub(super) async fn exchange<P, B>(lease: Lease<P>, mut head: Request<()>, body: B, user: Option<&UserId>) -> Outcome<B>
where
    P: Send + Sync + 'static,
    Lease<P>: fmt::Debug,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let upgrade = head.extensions().get::<Upgrade>().copied();
    let tunnel = lease.tunnel().clone();
    let Ok(uri) = tunnel.uri(head.uri()) else { return Outcome::Untouched(body) };
    *head.uri_mut() = uri;
    *head.version_mut() = http::Version::HTTP_2;
    if let Some(upgrade) = upgrade {
        let method = std::mem::replace(head.method_mut(), Method::CONNECT);
        if let Ok(method) = HeaderValue::from_str(method.as_str()) {
            head.headers_mut().insert(&ztka_core::METHOD, method);
        }
        // A POST that opens SPDY says that its body is empty. CONNECT has no body, and bytes that followed such a promise
        // would be an error of the stream (RFC 9113 §8.1.1).
        head.headers_mut().remove(header::CONTENT_LENGTH);
        head.extensions_mut().insert(Protocol::from_static(upgrade.token()));
    }
    let end = upgrade.is_none() && body.is_end_stream();
    let repeatable = end && is_repeatable(head.method());

    let mut sender = tunnel.sender.clone();
    let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
    let (response, stream) = match ready.and_then(|()| sender.send_request(head, end)) {
        Ok(sent) => sent,
        Err(_) => {
            tunnel.leave();
            return Outcome::Untouched(body);
        }
    };
    drop(sender);

    match upgrade {
        Some(upgrade) => match response.await {
            Ok(response) => upgraded(upgrade, response, stream, (lease, user), body),
            Err(error) => failed(error, Some(body), false),
        },
        None if end => match response.await {
            Ok(response) => answered(response, Some(body), repeatable, (lease, None), user),
            Err(error) => {
                if !error.is_reset() {
                    tunnel.leave();
                }
                failed(error, Some(body), repeatable)
            }
        },
        None => with_body(response, stream, (lease, user), body).await,
    }
}

/// What nobody notices when it is done twice (RFC 9110 §9.2.1). TRACE is left out: nothing here answers it.
fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Sends the body while it waits for the answer, and goes on sending when the answer comes first.
async fn with_body<P, B>(
    mut response: ResponseFuture,
    stream: SendStream<Bytes>,
    (lease, user): (Lease<P>, Option<&UserId>),
    body: B,
) -> Outcome<B>
where
    P: Send + Sync + 'static,
    Lease<P>: fmt::Debug,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let keep = |mut trailers: HeaderMap| {
        strip_trailers(&mut trailers);
        trailers
    };
    let mut sending = Some(Box::pin(pump(body, stream, keep)));
    let response = poll_fn(|cx| {
        if sending.as_mut().is_some_and(|sending| sending.as_mut().poll(cx).is_ready()) {
            sending = None;
        }
        Pin::new(&mut response).poll(cx)
    });
    match response.await {
        Ok(response) => {
            let sending = sending.map(|sending| {
                let sending = tokio::spawn(async move { drop(sending.await) });
                AbortOnDrop(sending.abort_handle())
            });
            answered(response, None, false, (lease, sending), user)
        }
        Err(error) => failed(error, None, false),
    }
}

fn failed<B>(error: h2::Error, body: Option<B>, repeatable: bool) -> Outcome<B> {
    let reason = error.is_remote().then(|| error.reason()).flatten();
    match body {
        // RFC 9113 §8.7: nothing was done.
        Some(body) if reason == Some(Reason::REFUSED_STREAM) => Outcome::Untouched(body),
        // RFC 9113 §6.8: it crossed the agent's farewell, which a tunnel that was replaced says. Nothing was done either,
        // or it is read again.
        Some(body) if repeatable && error.is_go_away() && reason == Some(Reason::NO_ERROR) => Outcome::Untouched(body),
        // The stream alone was reset: the tunnel lives, and the agent has said that it could not.
        Some(body) if repeatable && !error.is_reset() => Outcome::Broken(body, Cause::Here(error)),
        _ => Outcome::Lost(Cause::Here(error)),
    }
}

fn answered<P, B>(
    response: Response<RecvStream>,
    body: Option<B>,
    repeatable: bool,
    held: (Lease<P>, Option<AbortOnDrop>),
    user: Option<&UserId>,
) -> Outcome<B>
where
    P: Send + Sync + 'static,
    Lease<P>: fmt::Debug,
{
    let (mut head, stream) = response.into_parts();
    if held.0.tunnel().is_link()
        && let Some(said) = head.headers.get(&TUNNEL)
    {
        return match body {
            _ if said == NONE => Outcome::NotThere(body),
            Some(body) if repeatable => Outcome::Broken(body, Cause::There),
            _ => Outcome::Lost(Cause::There),
        };
    }
    let unproven = head.headers.get(&ztka_core::EVIDENCE) == Some(&UNKNOWN);
    if unproven {
        return body.map_or(Outcome::Forgotten, Outcome::Unproven);
    }
    wire::strip_internal(&mut head.headers);
    head.version = http::Version::default();
    let body = match stream.is_end_stream() {
        true => empty(),
        false => {
            let stream = held.0.tunnel().memory.watch(stream, Some(&head.headers), || payer(user));
            Received::new(stream, held).boxed_unsync()
        }
    };
    Outcome::Reply(Reply::Response(Response::from_parts(head, body)))
}

fn upgraded<P, B>(
    upgrade: Upgrade,
    response: Response<RecvStream>,
    mut stream: SendStream<Bytes>,
    (lease, user): (Lease<P>, Option<&UserId>),
    body: B,
) -> Outcome<B>
where
    P: Send + Sync + 'static,
    Lease<P>: fmt::Debug,
{
    if response.status() != StatusCode::OK {
        // Nothing will be said on our half any more; fails only for a stream that has ended.
        let _ = stream.send_data(Bytes::new(), true);
        return answered(response, Some(body), false, (lease, None), user);
    }
    let (mut head, receive) = response.into_parts();
    wire::strip_internal(&mut head.headers);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade.token()));
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.version = http::Version::default();
    let receive = lease.tunnel().memory.watch(receive, None, || payer(user));
    let io = Box::pin(Channel::counted(stream, receive, lease));
    Outcome::Reply(Reply::Upgraded { head: Response::from_parts(head, ()), io })
}

fn payer(user: Option<&UserId>) -> Option<Payer> {
    user.cloned().map(Payer::User)
}
