//! Serves users' connections: HTTP/1.1 or HTTP/2 as negotiated, behind the guard, each request with its [`Connection`].

use std::{convert::Infallible, fmt, future::ready, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tower::{Service, ServiceExt as _};
use ztka_core::{Body, BoxError, Reason, Refusal, RefusalSink, Status, Subject};
use ztka_pki::Purpose;

use crate::{
    Accepted, Arrival, Certificate, Connection, Connections, Drain, FloodLimits, Guarded, Handler, Limits, Role,
    activity::{Activity, Running},
    guard::REFUSED,
    head,
    limits::{Account, Kind, UserArrivals, UserCounts, UserResets},
    pace::{UserBody, is_timeless},
    windows::UserWindows,
};

/// Header list that is unpacked at all: enough beyond [`head::LIST`] for an answer that says what is wrong. What is
/// larger still gets h2's own 431 without a body, so that nobody makes us hold it.
const HEADER_LIST: u32 = 256 * 1024;
/// Room for a head behind what is left of the message before it.
const HTTP1_BUFFER: usize = 256 * 1024;
const STREAMS: u32 = 2_000;
const STREAM_WINDOW: u32 = 1024 * 1024;
const FRAME: u32 = 64 * 1024;
/// Bytes of one stream that wait for a client which does not take them.
const SEND_BUFFER: usize = 128 * 1024;
/// A peer that does not answer a PING in this time is gone.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));

/// Serves the access stack `S` to users.
#[derive(Clone)]
pub struct Users<S> {
    stack: S,
    connections: Connections,
    trust: ztka_pki::TrustSource,
    limits: Limits,
    counts: UserCounts,
    arrivals: UserArrivals,
    resets: UserResets,
    windows: UserWindows,
    refusals: Arc<dyn RefusalSink>,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

impl<S> fmt::Debug for Users<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<S> Users<S> {
    /// Serves `stack`; certificates are verified by `trust`, the connections are entered into `connections`, and what is refused
    /// before it is a request is reported to `refusals`.
    pub fn new(
        stack: S,
        connections: Connections,
        trust: ztka_pki::TrustSource,
        limits: &Limits,
        refusals: Arc<dyn RefusalSink>,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // Time limits of HTTP/1.1 heads are the guard's.
        builder.http1().max_headers(head::LINES).max_buf_size(HTTP1_BUFFER);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .max_concurrent_streams(STREAMS)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST);
        let (arrivals, resets) = (UserArrivals::new(limits), UserResets::new(limits));
        let (http1, http2) = (builder.clone().http1_only(), builder.http2_only());
        Self {
            stack,
            connections,
            trust,
            limits: *limits,
            counts: UserCounts::default(),
            arrivals,
            resets,
            windows: UserWindows::new(limits.user_memory_mib << 20),
            refusals,
            http1,
            http2,
        }
    }
}

impl<S> Users<S> {
    /// Reads what connections of users may hold before it is read, in bytes: of all users, and of the one who may most. It works
    /// as long as there is a clone of these users.
    pub fn window_bytes(&self) -> impl Fn() -> (usize, usize) + Send + Sync + use<S> {
        let windows = self.windows.clone();
        move || windows.granted()
    }
}

impl<S, B> Handler for Users<S>
where
    S: Service<Request<UserBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn handle(&self, tls: Accepted, arrival: Arrival, drain: Drain) -> BoxFuture<'static, ()> {
        let chain = tls.get_ref().1.peer_certificates().map(|chain| {
            let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            self.trust.identify(Purpose::Users, &chain).map(|peer| Certificate { peer, chain })
        });
        let certificate = match chain.transpose() {
            Ok(certificate) => certificate,
            // The handshake verified it a moment ago: trust has changed in between.
            Err(error) => {
                tracing::debug!(%error, client = %arrival.client, "a certificate is no longer trusted");
                return Box::pin(std::future::ready(()));
            }
        };
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let cluster = match arrival.role {
            Role::Users(cluster) => cluster,
            _ => None,
        };
        let connection = Connection::new(arrival.client, arrival.server_name, cluster, certificate);
        let connection = connection.placed(arrival.place);
        self.serve(tls, is_http2, connection, drain)
    }
}

impl<S, B> Users<S>
where
    S: Service<Request<UserBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves one connection to its end. `io` is behind TLS, which negotiated HTTP/2 or not.
    pub fn serve<T>(&self, io: T, is_http2: bool, connection: Connection, drain: Drain) -> BoxFuture<'static, ()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let users = self.clone();
        Box::pin(async move { users.run(io, is_http2, connection, drain).await })
    }

    async fn run<T>(&self, io: T, is_http2: bool, connection: Connection, drain: Drain)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let user = |certificate: &Certificate| match &certificate.peer.id.subject {
            Subject::User { user, .. } => Some(user.clone()),
            _ => None,
        };
        let user = connection.certificate().and_then(user);
        let account = user.clone().map(|user| Account { resets: self.resets.clone(), user });
        let (mut granted, mut http2) = (None, None);
        let (io, builder) = match is_http2 {
            true => {
                let window = granted.insert(self.windows.grant(user.as_ref())).window;
                let mut builder = self.http2.clone();
                builder
                    .http2()
                    .initial_stream_window_size(STREAM_WINDOW.min(window))
                    .initial_connection_window_size(window);
                (Guarded::http2_server(io, FloodLimits::USER), &*http2.insert(builder))
            }
            false => (Guarded::http1(io), &self.http1),
        };
        let connection = connection.served(io.framing(), drain.streams().clone(), drain.cut().child_token());
        let counted = user.and_then(|user| {
            let counted = self.counts.enter((user.clone(), Kind::Connection), self.limits.user_connections);
            // Who owes for what was given up before has to wait, too.
            if counted.is_none() || !self.arrivals.admit(&user) || self.resets.is_owing(&user) {
                connection.set_crowded();
            }
            counted
        });
        connection.keep(self.connections.watch(&connection), counted);
        // Who does not say who it is can only be refused; its place is for somebody else.
        let life = self.limits.without_certificate.unsigned_abs();
        let life = connection.certificate().is_none().then_some(life);
        let activity = Activity::new(life, account.map(|account| (account, connection.cut().clone())));
        let service = Asks {
            stack: self.stack.clone(),
            connection: connection.clone(),
            activity: activity.clone(),
            refusals: self.refusals.clone(),
            body_bytes_per_second: self.limits.body_bytes_per_second,
            drain: drain.clone(),
        };
        let served = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        let mut served = pin!(served);
        // Over HTTP/1.1 there is no word for idle connections but the answers; and who comes after all has a request first.
        let is_told = is_http2 && !drain.has_begun();
        let told = async {
            match is_told {
                true => drain.begun().await,
                false => drain.closed().await,
            }
        };
        let mut told = pin!(told);
        let mut leaving = None;
        loop {
            tokio::select! {
                done = served.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(error, client = %connection.source(), "a user's connection failed");
                    }
                    break;
                }
                () = connection.cut().cancelled() => break,
                () = told.as_mut(), if leaving.is_none() => {
                    leaving = Some(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
                () = sleep_until(activity.next_look(leaving)) => {
                    if !activity.is_over(leaving) {
                        continue;
                    }
                    if leaving.is_some() {
                        break;
                    }
                    leaving = Some(Instant::now());
                    served.as_mut().graceful_shutdown();
                }
            }
        }
        self.report(&connection, activity.is_overdrawn());
    }

    /// Leaves an event of bytes that were refused, or of requests that were given up once too often.
    fn report(&self, connection: &Connection, overdrawn: bool) {
        let overdrawn = overdrawn.then_some(Reason::Overloaded(GIVEN_UP));
        if let Some(reason) = connection.framing().violation().map(|violation| violation.reason()).or(overdrawn) {
            let source = Some(connection.source());
            self.refusals.refused(Refusal { target: None, source, principal: None, reason: &reason });
        }
    }
}

/// The access stack as hyper calls it, on one connection.
struct Asks<S> {
    stack: S,
    connection: Connection,
    activity: Activity,
    refusals: Arc<dyn RefusalSink>,
    body_bytes_per_second: u32,
    drain: Drain,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Asks<S>
where
    S: Service<Request<UserBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Running>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Running>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let running = self.activity.begin();
        let refused = refused(&request, &self.connection).or_else(|| self.too_large(&request));
        if let Some(response) = refused {
            return Box::pin(ready(Ok(Running::of(response, running))));
        }
        let version = request.version();
        let is_timed = self.body_bytes_per_second > 0
            && !request.body().is_end_stream()
            && !is_timeless(&request, &self.connection);
        let mut request = request.map(UserBody::new);
        let mut slow = None;
        if is_timed {
            let (head, body) = request.into_parts();
            let (body, handle) = body.paced(self.body_bytes_per_second);
            slow = Some((handle, head.uri.clone(), self.refusals.clone(), self.connection.source()));
            request = Request::from_parts(head, body);
        }
        request.extensions_mut().insert::<IpAddr>(self.connection.source());
        request.extensions_mut().insert(self.connection.clone());
        let reply = self.stack.clone().oneshot(request);
        // Only HTTP/1.1 has to be told with the answer.
        let drain = (version < Version::HTTP_2).then(|| self.drain.beginning());
        Box::pin(async move {
            let response = match reply.await {
                Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
                Err(error) => unavailable(error.into()),
            };
            let response = match slow {
                Some((slow, target, refusals, source)) if slow.is_so() => {
                    let reason = Reason::framing(SLOW);
                    let (target, source) = (Some(&target), Some(source));
                    refusals.refused(Refusal { target, source, principal: None, reason: &reason });
                    too_slow(version)
                }
                _ => response,
            };
            let mut response = Running::of(response, running);
            let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if drain.is_some_and(|drain| drain.is_cancelled()) && !is_switching {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

impl<S> Asks<S> {
    /// The answer to a head that is too large: over HTTP/2, where it can be measured only now.
    fn too_large(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let violation = head::measure(request).err()?;
        let (reason, source) = (violation.reason(), Some(self.connection.source()));
        self.refusals.refused(Refusal { target: Some(request.uri()), source, principal: None, reason: &reason });
        Some(violation.status().into_response())
    }
}

/// The answer to the guard's stand-in for a request that it refused.
fn refused(request: &Request<Incoming>, connection: &Connection) -> Option<Response<Body>> {
    let violation = connection.framing().violation().filter(|_| request.method().as_str() == REFUSED)?;
    Some(violation.answer())
}

const GIVEN_UP: &str = "the user gives up too many requests before they have ended";
const SLOW: &str = "the body of the request came too slowly";

/// The rest of the body is not waited for: over HTTP/1.1 the connection closes behind the answer.
fn too_slow(version: Version) -> Response<Body> {
    let mut response = Status::new(StatusCode::REQUEST_TIMEOUT, SLOW).into_response();
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn unavailable(error: BoxError) -> Response<Body> {
    tracing::error!(%error, "the access stack failed");
    let message = "the proxy cannot serve requests at the moment; try again";
    Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(5).into_response()
}
