//! What a proxy tells an agent over its tunnel, apart from requests: evidence of users, and newer documents.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tower::{Layer, Service};
use ztka_core::{Body, Rejected, Reply, SignedDocument, Status, empty};
use ztka_follow::Documents;

use crate::Witness;

/// A policy of an organisation with thousands of bindings stays well below.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Answers what is under `/.ztka/` and passes everything else on.
#[derive(Clone, Debug)]
pub struct ControlLayer {
    witness: Witness,
    documents: Documents,
}

impl ControlLayer {
    /// Hands evidence to `witness` and documents to `documents`.
    pub fn new(witness: Witness, documents: Documents) -> Self {
        Self { witness, documents }
    }
}

impl<S> Layer<S> for ControlLayer {
    type Service = Control<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Control { inner, layer: self.clone() }
    }
}

/// Service produced by [`ControlLayer`].
#[derive(Clone, Debug)]
pub struct Control<S> {
    inner: S,
    layer: ControlLayer,
}

impl ControlLayer {
    async fn answer(self, request: Request<Body>) -> Reply {
        match self.take(request).await {
            Ok(()) => {
                let mut response = Response::new(empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Reply::Response(response)
            }
            Err(status) => status.into(),
        }
    }

    async fn take(self, request: Request<Body>) -> Result<(), Status> {
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/.ztka/evidence") => self.witness.admit(&head.headers, read(body).await?),
            (&Method::POST, "/.ztka/documents") => {
                let document = SignedDocument::from_wire(&read(body).await?);
                let taken = document.and_then(|document| self.documents.accept(document));
                match taken {
                    // Another proxy, or the controller itself, was faster.
                    Ok(_) | Err(Rejected::Rollback) => Ok(()),
                    Err(error) => Err(Status::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
                }
            }
            _ => Err(Status::new(StatusCode::NOT_FOUND, "the agent has no such operation")),
        }
    }
}

async fn read(mut body: Body) -> Result<Bytes, Status> {
    let bad = |text: &str| Status::new(StatusCode::BAD_REQUEST, text);
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| bad("the body broke off"))?.into_data().unwrap_or_default();
        if held.len() + data.len() > MAX_BYTES {
            return Err(Status::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 16 MiB"));
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
    type Future = Either<S::Future, BoxFuture<'static, Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with("/.ztka/") {
            return Either::Left(self.inner.call(request));
        }
        let layer = self.layer.clone();
        Either::Right(Box::pin(async move { Ok(layer.answer(request).await) }))
    }
}
