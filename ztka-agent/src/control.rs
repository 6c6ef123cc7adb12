//! What a proxy tells an agent over its tunnel, apart from requests: evidence of users, and newer documents.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, Map},
};
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body_util::BodyExt as _;
use tower::{Layer, Service};
use ztka_core::{
    Body, ProxyId, Reason, Refusal, RefusalSink, Rejected, Reply, SignedDocument, Status, Verified, empty,
};
use ztka_follow::Documents;
use ztka_tunnel::{OWN_PATHS, UNKNOWN};

use crate::Witness;

/// A policy of an organisation with thousands of bindings stays well below.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Answers what is under `/.ztka/` and passes everything else on.
///
/// An answer to a request that names evidence which is not held (any more) says so, for the proxy to send it again.
#[derive(Clone, Debug)]
pub struct ControlLayer {
    witness: Witness,
    documents: Documents,
    refusals: Arc<dyn RefusalSink>,
}

impl ControlLayer {
    /// Hands evidence to `witness` and documents to `documents`, and tells `refusals` of what they do not believe and of
    /// which proxy it came from.
    pub fn new(witness: Witness, documents: Documents, refusals: Arc<dyn RefusalSink>) -> Self {
        Self { witness, documents, refusals }
    }
}

/// The request named evidence that was not held when it came.
fn unknown<E>(outcome: Result<Reply, E>) -> Result<Reply, E> {
    outcome.map(|reply| match reply {
        Reply::Response(mut response) if response.status() == StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(ztka_core::EVIDENCE.clone(), UNKNOWN.clone());
            Reply::Response(response)
        }
        reply => reply,
    })
}

impl<S> Layer<S> for ControlLayer {
    type Service = Control<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Control { inner, layer: self.clone() }
    }
}

/// The future of what is passed on.
type Passed<F, E> = Map<F, fn(Result<Reply, E>) -> Result<Reply, E>>;

/// Service produced by [`ControlLayer`].
#[derive(Clone, Debug)]
pub struct Control<S> {
    inner: S,
    layer: ControlLayer,
}

impl ControlLayer {
    async fn answer(self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let taken = match (&head.method, head.uri.path()) {
            (&Method::POST, "/.ztka/evidence") => self.evidence(&head, body).await,
            (&Method::POST, "/.ztka/documents") => self.document(&head, body).await,
            _ => return Status::new(StatusCode::NOT_FOUND, "the agent has no such operation").into(),
        };
        match taken {
            Ok(()) => {
                let mut response = Response::new(empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Reply::Response(response)
            }
            Err(reason) => {
                let recorded = shown_by(&head, reason.clone());
                let refusal = Refusal { target: Some(&head.uri), source: None, principal: None, reason: &recorded };
                self.refusals.refused(refusal);
                Status::from(&reason).into()
            }
        }
    }

    async fn evidence(&self, head: &Parts, body: Body) -> Result<(), Reason> {
        self.witness.admit(&head.headers, read(body).await?)
    }

    async fn document(&self, head: &Parts, body: Body) -> Result<(), Reason> {
        let document = SignedDocument::from_wire(&read(body).await?);
        // Signed as they may be: a proxy has those of all organisations, and is to keep them to itself.
        if let Ok(document) = &document
            && document.header().series.org.as_ref().is_some_and(|org| org != self.witness.org())
        {
            return Err(Reason::Denied("the document is of another organisation than the cluster".into()));
        }
        match document.and_then(|document| self.documents.accept(document)) {
            // Another proxy, or the controller itself, was faster.
            Ok(_) | Err(Rejected::Rollback) => Ok(()),
            Err(error) => {
                let proxy = head.extensions.get::<Verified<ProxyId>>().map(|proxy| proxy.as_str());
                tracing::warn!(proxy, %error, "a document that a proxy handed on is refused");
                Err(Reason::Denied(format!("the cluster's agent refused a document: {error}")))
            }
        }
    }
}

/// The reason as it is recorded: with the proxy whose word it was.
fn shown_by(head: &Parts, reason: Reason) -> Reason {
    let Some(proxy) = head.extensions.get::<Verified<ProxyId>>() else { return reason };
    let proxy: &ProxyId = proxy;
    match reason {
        Reason::Unauthenticated(text) => Reason::Unauthenticated(format!("proxy {proxy}: {text}")),
        Reason::Denied(text) => Reason::Denied(format!("proxy {proxy}: {text}")),
        other => other,
    }
}

async fn read(mut body: Body) -> Result<Bytes, Reason> {
    let bad = |text: &str| Reason::Denied(text.into());
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| bad("the body broke off"))?.into_data().unwrap_or_default();
        if held.len() + data.len() > MAX_BYTES {
            return Err(bad("the body is larger than 16 MiB"));
        }
        held.extend_from_slice(&data);
    }
    Ok(held.freeze())
}

impl<S> Service<Request<Body>> for Control<S>
where
    S: Service<Request<Body>, Response = Reply>,
    S::Error: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<Passed<S::Future, S::Error>, BoxFuture<'static, Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with(OWN_PATHS) {
            let held = self.layer.witness.holds_of(request.headers());
            let mark: fn(Result<Reply, S::Error>) -> _ = if held { |outcome| outcome } else { unknown };
            return Either::Left(self.inner.call(request).map(mark));
        }
        let layer = self.layer.clone();
        Either::Right(Box::pin(async move { Ok(layer.answer(request).await) }))
    }
}
