//! The step from a recorded request to a permitted one.

use std::{
    future::{Ready, ready},
    mem,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either};
use tower::{Layer, Service};
use ztka_core::{Access, Decision, Permitted, Reason, Recorded, Reply, Revision, Status};

use crate::{AuditLevel, Engine, Port, Supported, forward};

/// Lets a request through only if policy allows it; anything else is answered at once with a `Status`.
///
/// On a proxy a decision never waits. An agent may be a moment behind the proxy that sent the request, and
/// [waits](Self::waiting) for the policy that the request names.
#[derive(Clone, Debug)]
pub struct AuthorizeLayer {
    engine: Engine,
    patience: Duration,
    seen_to: SeenTo,
}

/// What is seen to around this layer.
#[derive(Clone, Copy, Debug, Default)]
struct SeenTo {
    watched: bool,
    sessions: bool,
    bodies: bool,
}

impl SeenTo {
    fn supported(self) -> Supported {
        let supported = if self.watched { Supported::WATCHED } else { Supported::ALWAYS };
        let audit = if self.bodies { AuditLevel::RequestResponse } else { AuditLevel::Metadata };
        Supported { audit: Some(audit), record: self.sessions, ..supported }
    }
}

impl AuthorizeLayer {
    /// Decides with `engine`, at once.
    pub fn new(engine: Engine) -> Self {
        Self { engine, patience: Duration::ZERO, seen_to: SeenTo::default() }
    }

    /// Waits up to `limit` for the policy that a request names, then denies it with 503.
    #[must_use]
    pub fn waiting(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }
}

impl AuthorizeLayer {
    /// Says that a [`CutLayer`](crate::CutLayer) behind this one decides on each port of a port-forward when it is opened, and
    /// ends what lasts longer than policy lets it. Without, a rule for some ports gives none, nor does a binding with
    /// `maxDuration`.
    #[must_use]
    pub fn with_ports_watched(mut self) -> Self {
        self.seen_to.watched = true;
        self
    }

    /// Says that sessions are recorded where a binding asks for it ([`Grant::recording`](ztka_core::Grant::recording)): by a layer
    /// behind this one, or for an agent by the proxy in front. Without, a binding that requires it gives no sessions.
    #[must_use]
    pub fn with_sessions_recorded(mut self) -> Self {
        self.seen_to.sessions = true;
        self
    }

    /// Says that bodies are recorded where a binding asks for it ([`Grant::audit`](ztka_core::Grant::audit)): by the audit layer
    /// around this one, or for an agent by the proxy in front. Without, what a binding gives under such an obligation is denied.
    #[must_use]
    pub fn with_bodies_recorded(mut self) -> Self {
        self.seen_to.bodies = true;
        self
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authorize { inner, engine: self.engine.clone(), patience: self.patience, seen_to: self.seen_to }
    }
}

/// Service produced by [`AuthorizeLayer`].
#[derive(Clone, Debug)]
pub struct Authorize<S> {
    inner: S,
    engine: Engine,
    patience: Duration,
    seen_to: SeenTo,
}

impl<S, B> Service<Access<Recorded, B>> for Authorize<S>
where
    S: Service<Access<Permitted, B>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future =
        Either<S::Future, Either<Ready<Result<Reply, S::Error>>, BoxFuture<'static, Result<Reply, S::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Recorded, B>) -> Self::Future {
        let named = access.allowed_by().filter(|named| is_behind(&self.engine, &access, *named));
        let Some(named) = named else {
            return match permit(&self.engine, access, None, self.seen_to) {
                Ok(access) => Either::Left(self.inner.call(access)),
                Err(status) => Either::Right(Either::Left(ready(Ok(status.into())))),
            };
        };
        // The instance that `poll_ready` was asked of is the one to call; its clone stays here.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let (engine, patience, seen_to) = (self.engine.clone(), self.patience, self.seen_to);
        Either::Right(Either::Right(Box::pin(async move {
            let org = access.principal().org().clone();
            let _ = tokio::time::timeout(patience, engine.at_least(&org, named)).await;
            match permit(&engine, access, Some(named), seen_to) {
                Ok(access) => inner.call(access).await,
                Err(status) => Ok(status.into()),
            }
        })))
    }
}

fn is_behind<B>(engine: &Engine, access: &Access<Recorded, B>, named: Revision) -> bool {
    engine.revision(access.principal().org()) < Some(named)
}

/// Decides; with `named` given, only by a policy of at least that revision.
fn permit<B>(
    engine: &Engine,
    access: Access<Recorded, B>,
    named: Option<Revision>,
    seen_to: SeenTo,
) -> Result<Access<Permitted, B>, Status> {
    let (source, supported) = (access.source(), seen_to.supported());
    let by_channels = forward::may_speak_in_channels(access.headers());
    let behind = named.is_some_and(|named| is_behind(engine, &access, named));
    Permitted::assertion(access, |who, cluster, asked| match behind {
        true => Decision::Deny(Reason::NoPolicy(
            "the policy that the proxy decided by has not reached the cluster's agent yet; try again",
        )),
        false if seen_to.watched && asked.is_port_forward() => {
            let decide = |port| engine.decide_supporting(supported, who, cluster, asked, source, port);
            forward::decide(asked, by_channels, decide)
        }
        false => engine.decide_supporting(supported, who, cluster, asked, source, Port::Unknown),
    })
}
