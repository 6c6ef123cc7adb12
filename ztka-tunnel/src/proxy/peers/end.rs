//! The taking end of a link: what another proxy sends goes into a tunnel of this one, and nowhere else.

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _, service_fn};
use ztka_core::{Access, Body, BoxError, Permitted, ProxyId, Reply, UserId, Verified, empty};

use super::{
    super::{
        dispatch::{Beyond, Parcel},
        registry::Registry,
    },
    held,
};
use crate::{
    CLUSTERS_PATH, EVIDENCE_PATH, OWN_PATHS, Problem, TunnelError,
    agent::{End, Phase, serve},
    figures::{SettingUp, Side},
    stream::memory::Who,
};

/// More is not taken as evidence.
const MAX_EVIDENCE: usize = 64 << 10;

/// The body of a request that another proxy has sent here.
///
/// It is no `http_body::Body`, so that nothing takes it but [`LastHop`]: a request that came from a proxy cannot be sent to
/// another one, whatever it is wrapped in.
pub struct Peered(Body);

impl Peered {
    /// True if the request has no body.
    pub fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl fmt::Debug for Peered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peered")
    }
}

/// The last service of the stack for requests of other proxies: sends what is permitted into a tunnel of this proxy.
///
/// Unlike [`Dispatch`](crate::Dispatch) it sends nothing a second time that may have been done, since the proxy that
/// asks decides that, and is told why there is no answer.
#[derive(Clone, Debug)]
pub struct LastHop {
    registry: Registry,
}

impl LastHop {
    /// Sends into the tunnels of `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }
}

impl Service<Access<Permitted, Peered>> for LastHop {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, access: Access<Permitted, Peered>) -> Self::Future {
        let registry = self.registry.clone();
        Box::pin(async move {
            Ok(match Parcel::pack(access) {
                Ok((parcel, Peered(body))) => registry.send(parcel, body, Beyond::Back).await,
                Err(problem) => registry.refuse(problem),
            })
        })
    }
}

impl Registry {
    /// Takes requests from the proxy `from`, which has authenticated on `io`, until the link ends: gives `service` each,
    /// with `Verified<ProxyId>` and the [`ClusterId`](ztka_core::ClusterId) that it names as extensions, and `admit` the evidence that they refer
    /// to, with its headers; `who` knows by the headers of a request whose it is, as [`Dialer::start_for_users`](crate::Dialer::start_for_users)
    /// has it. The other proxy is told of which clusters there are tunnels here.
    ///
    /// `drain` lets the link end when its last request has. Dropping the future ends it at once.
    ///
    /// # Errors
    /// [`TunnelError`] says why it ended; `Ok` if the other proxy ended it.
    pub async fn serve_peer<T, S, A, W>(
        &self,
        io: T,
        from: Verified<ProxyId>,
        service: S,
        (admit, who): (A, W),
        drain: CancellationToken,
    ) -> Result<(), TunnelError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<Peered>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        A: Fn(&HeaderMap, Bytes) -> Result<(), Problem> + Clone + Send + 'static,
        W: Fn(&HeaderMap) -> Option<UserId> + Send + Sync + 'static,
    {
        let registry = self.clone();
        let own = service_fn(move |request: Request<Body>| {
            let (registry, service, admit) = (registry.clone(), service.clone(), admit.clone());
            async move {
                let path = request.uri().path();
                if !path.starts_with(OWN_PATHS) {
                    return service.oneshot(request.map(Peered)).await.map_err(Into::into);
                }
                Ok::<_, BoxError>(match (request.method(), path) {
                    (&Method::GET, CLUSTERS_PATH) => Reply::Response(Response::new(held::body(registry))),
                    (&Method::POST, EVIDENCE_PATH) => {
                        let (head, body) = request.into_parts();
                        match read(body).await.and_then(|bytes| admit(&head.headers, bytes)) {
                            Ok(()) => {
                                let mut response = Response::new(empty());
                                *response.status_mut() = StatusCode::NO_CONTENT;
                                Reply::Response(response)
                            }
                            Err(problem) => registry.refuse(problem),
                        }
                    }
                    _ => registry.refuse(Problem::new(StatusCode::NOT_FOUND, "no such path")),
                })
            }
        });
        let setting_up = SettingUp::begin(Side::Peer);
        let (phase, mut phases) = watch::channel(Phase::SetUp);
        let up = async {
            // It has ended before, if nobody tells any more.
            let is_ready = phases.wait_for(|phase| *phase != Phase::SetUp).await.is_ok();
            let _up = if is_ready { setting_up.ready() } else { None };
            pending::<Infallible>().await
        };
        tokio::select! {
            ended = serve(io, (End::Proxy, from, Who::new(who)), own, self.settings(), self.memory(), drain, phase) => ended,
            never = up => match never {},
        }
    }
}

async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |_| Problem::new(StatusCode::BAD_REQUEST, "the evidence broke off");
        let data = frame.map_err(broken)?.into_data().unwrap_or_default();
        if held.len() + data.len() > MAX_EVIDENCE {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "the evidence of who you are is larger than 64 KiB"));
        }
        held.extend_from_slice(&data);
    }
    Ok(held.freeze())
}
