//! Watches share connections to the apiserver, by HTTP/2: a quiet one costs a stream and not a connection.
//!
//! Streams are counted: a connection takes no more than the apiserver says, and [`STREAMS`] at the most; then another one is
//! opened. Each stream may be [`WINDOW`] ahead of its reader, and a connection has room for all of its streams at once, so that
//! readers who stop reading hold up nobody. An apiserver that does not offer HTTP/2 gets each watch on a connection of its own.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, client::SendRequest};
use http::{Request, Response, Uri, Version, header, uri};
use http_body::Frame;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use ztka_core::{Body, BoxError};
use ztka_tunnel::ReadAhead;

use super::pool::{CONNECT, UpstreamError};

const ALPN: &[u8] = b"h2";
/// Watches on one connection at the most; kube-apiserver's own default.
const STREAMS: usize = 100;
/// Bytes that a watch may be ahead of its reader.
const WINDOW: u32 = 256 << 10;
/// The same of all watches on a connection.
const CONNECTION_WINDOW: u32 = WINDOW * 100;
/// A header section of an answer.
const MAX_HEADERS: u32 = 256 << 10;
/// A connection is asked for a sign of life this often, and given up when none comes within the second time.
const ASK: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(15);

/// Connections on which only watches are.
pub(super) struct Watches {
    tls: TlsConnector,
    address: String,
    name: ServerName<'static>,
    authority: uri::Authority,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is made; when that failed last, and why.
    opening: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// The apiserver offers HTTP/1.1 only.
    unshared: AtomicBool,
}

struct Connection {
    sender: SendRequest<Bytes>,
    streams: AtomicUsize,
    /// It takes no new streams.
    over: AtomicBool,
}

/// A place on a connection, given back when dropped.
struct Place(Arc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    fn limit(&self) -> usize {
        self.sender.current_max_send_streams().min(STREAMS)
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        let one_more = |streams| (streams < self.limit()).then_some(streams + 1);
        self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place(self.clone()))
    }
}

/// What became of a watch.
pub(super) enum Sent {
    /// It was answered.
    Answered(Response<Body>),
    /// The apiserver does not offer HTTP/2; nothing was sent.
    Unshared(Request<Body>),
}

impl Watches {
    pub(super) fn new(
        tls: &rustls::ClientConfig,
        address: String,
        name: ServerName<'static>,
        authority: uri::Authority,
    ) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
        let (connections, opening, unshared) =
            (Mutex::default(), tokio::sync::Mutex::default(), AtomicBool::new(false));
        Self { tls: TlsConnector::from(Arc::new(tls)), address, name, authority, connections, opening, unshared }
    }

    /// Sends a request that has no body. One whose connection ends before the answer's head is sent once more, on another.
    ///
    /// Dropping the future or the answer's body ends the watch at the apiserver.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Sent, UpstreamError> {
        let mut again = true;
        loop {
            let place = match self.place().await? {
                Some(place) => place,
                None => return Ok(Sent::Unshared(request)),
            };
            let asked = self.asked(&request).map_err(UpstreamError::because("the request cannot be sent"))?;
            match exchange(&place, asked).await {
                Ok(response) => {
                    return Ok(Sent::Answered(response.map(|stream| Body::new(Watched { stream, _place: place }))));
                }
                Err(error) => {
                    // A reset is the answer to this request alone; everything else is about the connection.
                    let only_this = error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM);
                    if !only_this {
                        place.0.over.store(true, Ordering::Relaxed);
                    }
                    if only_this || !again {
                        let what = "the apiserver broke off the connection before it answered";
                        return Err(UpstreamError::because(what)(error.into()));
                    }
                    again = false;
                }
            }
        }
    }

    fn asked(&self, request: &Request<Body>) -> Result<Request<()>, BoxError> {
        let path = request.uri().path_and_query().cloned().unwrap_or(uri::PathAndQuery::from_static("/"));
        let mut asked = Request::new(());
        *asked.method_mut() = request.method().clone();
        *asked.version_mut() = Version::HTTP_2;
        *asked.uri_mut() =
            Uri::builder().scheme(uri::Scheme::HTTPS).authority(self.authority.clone()).path_and_query(path).build()?;
        *asked.headers_mut() = request.headers().clone();
        asked.headers_mut().remove(header::HOST);
        Ok(asked)
    }

    fn free(&self) -> Option<Place> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| !connection.over.load(Ordering::Relaxed));
        let place = connections.iter().find_map(Connection::enter);
        // What nobody uses any more is closed, but for one that the next watch finds.
        let mut idle = 0;
        connections.retain(|connection| {
            idle += usize::from(connection.streams.load(Ordering::Relaxed) == 0);
            connection.streams.load(Ordering::Relaxed) > 0 || idle == 1
        });
        place
    }

    /// Room for a stream; none if connections cannot be shared.
    async fn place(&self) -> Result<Option<Place>, UpstreamError> {
        if self.unshared.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(place) = self.free() {
            return Ok(Some(place));
        }
        let came = Instant::now();
        let mut failed = self.opening.lock().await;
        if let Some(place) = self.free() {
            return Ok(Some(place));
        }
        let unreachable = UpstreamError::because("the apiserver cannot be reached");
        // Who has waited while somebody else tried need not try for as long again.
        if let Some((at, why)) = &*failed
            && *at > came
        {
            return Err(unreachable(why.clone().into()));
        }
        if self.unshared.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match timeout(CONNECT, self.connect()).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(Some(connection)) => {
                let place = connection.enter();
                self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                match place {
                    Some(place) => Ok(Some(place)),
                    None => Err(unreachable("it takes no streams".into())),
                }
            }
            Ok(None) => {
                self.unshared.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.to_string()));
                Err(unreachable(error))
            }
        }
    }

    async fn connect(&self) -> Result<Option<Arc<Connection>>, BoxError> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = self.tls.connect(self.name.clone(), ReadAhead::new(tcp)).await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Ok(None);
        }
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .enable_push(false)
            // Until the apiserver's own limit is known.
            .initial_max_send_streams(1);
        let (sender, mut connection) = builder.handshake::<_, Bytes>(tls).await?;
        let mut ping = connection.ping_pong().ok_or("no PING")?;
        // The apiserver's limit comes before its answer.
        tokio::select! {
            ended = &mut connection => {
                return Err(ended.err().map_or_else(|| "it ended the connection at once".into(), Into::into));
            }
            pong = ping.ping(Ping::opaque()) => { pong?; }
        }
        let shared = Arc::new(Connection { sender, streams: AtomicUsize::new(0), over: AtomicBool::new(false) });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            drive(connection, ping).await;
            if let Some(shared) = weak.upgrade() {
                shared.over.store(true, Ordering::Relaxed);
            }
        });
        Ok(Some(shared))
    }
}

async fn exchange(place: &Place, request: Request<()>) -> Result<Response<RecvStream>, h2::Error> {
    let mut sender = place.0.sender.clone().ready().await?;
    sender.send_request(request, true)?.0.await
}

/// Until the connection has ended, or has given no sign of life.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(connection: h2::client::Connection<T, Bytes>, ping: PingPong) {
    tokio::select! {
        ended = connection => tracing::debug!(error = ?ended.err(), "a connection of watches has ended"),
        () = silence(ping) => tracing::warn!("the apiserver does not answer on a connection of watches; it is closed"),
    }
}

async fn silence(mut ping: PingPong) {
    loop {
        sleep(ASK).await;
        if !matches!(timeout(ANSWER, ping.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// What a watch says; its place is given back at its end.
struct Watched {
    stream: RecvStream,
    _place: Place,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let data = match ready!(self.stream.poll_data(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(data)) => data,
        };
        // Fails only for a stream that has ended meanwhile.
        let _ = self.stream.flow_control().release_capacity(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
