//! Connections to the one apiserver: kept while idle, one request at a time, a fresh one for each upgrade.
//!
//! HTTP/1.1 on purpose: one slow reader holds up nobody else. Only watches share connections, by HTTP/2 and within the
//! apiserver's limit of streams (`docs/decisions/0002-upstream-http1.md`).

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use ztka_core::{Body, BoxError};

use super::watches::{Sent, Watches};

/// A connection unused for longer is closed by us, before the apiserver closes it under a request of ours.
const IDLE: Duration = Duration::from_secs(30);
/// Idle connections kept at the most.
const KEPT: usize = 256;
/// For TCP and TLS together.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// Headers of an answer, as generous as the way to the user.
const MAX_HEADERS: usize = 500;
/// A whole header section must fit into it; bodies are read in pieces of up to this size.
const BUFFER: usize = 256 * 1024;

/// The apiserver could not be reached, or broke off before it answered.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct UpstreamError {
    what: &'static str,
    #[source]
    source: BoxError,
}

impl UpstreamError {
    pub(super) fn because(what: &'static str) -> impl FnOnce(BoxError) -> Self {
        move |source| Self { what, source }
    }
}

type Sender = http1::SendRequest<Body>;

/// Connections to one apiserver. Clones share them.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    tls: TlsConnector,
    address: String,
    name: ServerName<'static>,
    host: HeaderValue,
    idle: Mutex<VecDeque<(Sender, Instant)>>,
    watches: Watches,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("address", &self.0.address).finish_non_exhaustive()
    }
}

impl Pool {
    /// Connects to `apiserver`, an `https` URL with host and optional port, by `tls`.
    ///
    /// # Errors
    /// If the URL is not of that form.
    pub fn new(apiserver: &Uri, tls: Arc<rustls::ClientConfig>) -> Result<Self, InvalidApiserver> {
        let host = apiserver.host().filter(|_| apiserver.scheme_str() == Some("https"));
        let host = host.ok_or(InvalidApiserver)?.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| InvalidApiserver)?;
        let port = apiserver.port_u16().unwrap_or(443);
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let authority = apiserver.authority().ok_or(InvalidApiserver)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| InvalidApiserver)?;
        let (idle, watches) = (Mutex::default(), Watches::new(&tls, address.clone(), name.clone(), authority.clone()));
        Ok(Self(Arc::new(Inner { tls: TlsConnector::from(tls), address, name, host, idle, watches })))
    }

    /// Sends `request` on an idle or a new connection; the connection is kept once the body has been read to its end.
    ///
    /// Dropping the future or the body closes the connection, which ends the request at the apiserver.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        let mut request = self.prepared(request);
        // A kept connection may have been closed a moment ago. What was not written may be sent again.
        while let Some(mut sender) = self.idle().await {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(self.keep(sender, response))
    }

    /// Sends `request`, a watch without a body, on a connection that it shares with others if the apiserver can do that.
    ///
    /// Dropping the future or the body ends the watch at the apiserver.
    pub async fn watch(&self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        match self.0.watches.send(request).await? {
            Sent::Answered(response) => Ok(response),
            Sent::Unshared(request) => self.send(request).await,
        }
    }

    /// Sends `request` on a connection of its own, which is never used again.
    ///
    /// A 101 carries the connection as [`hyper::upgrade::OnUpgrade`].
    pub async fn send_alone(&self, request: Request<Body>) -> Result<Response<Incoming>, UpstreamError> {
        let request = self.prepared(request);
        let mut sender = self.connect().await?;
        sender.send_request(request).await.map_err(broken)
    }

    fn prepared(&self, mut request: Request<Body>) -> Request<Body> {
        request.headers_mut().insert(header::HOST, self.0.host.clone());
        request
    }

    async fn idle(&self) -> Option<Sender> {
        loop {
            let newest = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_back();
            let (mut sender, since) = newest?;
            if since.elapsed() < IDLE && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, UpstreamError> {
        let inner = &self.0;
        let connect = async {
            let tcp = TcpStream::connect(&inner.address).await?;
            tcp.set_nodelay(true)?;
            let tls = inner.tls.connect(inner.name.clone(), tcp).await?;
            let mut builder = http1::Builder::new();
            builder.max_headers(MAX_HEADERS).max_buf_size(BUFFER);
            Ok::<_, BoxError>(builder.handshake(TokioIo::new(tls)).await?)
        };
        let connected = timeout(CONNECT, connect).await.unwrap_or_else(|late| Err(late.into()));
        let (sender, connection) = connected.map_err(UpstreamError::because("the apiserver cannot be reached"))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the apiserver ended");
            }
        });
        Ok(sender)
    }

    fn keep(&self, sender: Sender, response: Response<Incoming>) -> Response<Body> {
        let kept = Some((sender, self.clone()));
        response.map(|inner| {
            let mut body = Kept { inner, kept };
            body.keep_if_ended();
            Body::new(body)
        })
    }

    fn put(&self, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.len() >= KEPT || idle.front().is_some_and(|(_, since)| since.elapsed() >= IDLE) {
            idle.pop_front();
        }
        idle.push_back((sender, Instant::now()));
    }
}

fn broken(error: hyper::Error) -> UpstreamError {
    UpstreamError::because("the apiserver broke off the connection before it answered")(error.into())
}

/// Not an address of an apiserver.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the apiserver's address must be of the form https://host:port")]
pub struct InvalidApiserver;

/// A body that gives its connection back at its end.
struct Kept {
    inner: Incoming,
    kept: Option<(Sender, Pool)>,
}

impl Kept {
    // A server does not poll a body again that says of itself that it has ended.
    fn keep_if_ended(&mut self) {
        if self.inner.is_end_stream()
            && let Some((sender, pool)) = self.kept.take()
        {
            pool.put(sender);
        }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Err(_)) => self.kept = None,
            Some(Ok(_)) => self.keep_if_ended(),
            None => {
                if let Some((sender, pool)) = self.kept.take() {
                    pool.put(sender);
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
