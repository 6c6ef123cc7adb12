//! Each request's place in its trace: read, put one step further for whoever is next, and in a span.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};
use tracing::{Instrument as _, instrument::Instrumented};
use ztka_core::TraceContext;

/// Continues the trace that a request names by `traceparent` (W3C Trace Context), or begins one, and does everything for the
/// request in a span `request` with its ids. To be put outermost, on either side of a tunnel.
///
/// The span is of level `DEBUG`: whoever does not collect traces has hardly any cost.
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    hop: &'static str,
}

impl TraceLayer {
    /// `hop` says in each span whose it is, such as `proxy`.
    pub fn new(hop: &'static str) -> Self {
        Self { hop }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner, hop: self.hop }
    }
}

/// Service made by [`TraceLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Trace<S> {
    inner: S,
    hop: &'static str,
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let parent = TraceContext::read(request.headers());
        let step = TraceContext::advance(request.headers_mut());
        let span = tracing::debug_span!(
            "request",
            hop = self.hop,
            trace_id = format_args!("{:032x}", step.trace()),
            span_id = format_args!("{:016x}", step.span()),
            parent_id = parent.map(|parent| tracing::field::display(format!("{:016x}", parent.span()))),
        );
        let reply = span.in_scope(|| self.inner.call(request));
        reply.instrument(span)
    }
}
