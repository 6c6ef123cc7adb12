//! Against a server that can do HTTP/2 with any limit of streams, or only HTTP/1.1.

use std::{convert::Infallible, net::SocketAddr};

use futures_util::{FutureExt as _, future::join_all, poll};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::PrivateKeyDer;
use tokio::{net::TcpListener, sync::Notify};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use ztka_core::empty;

use super::{super::Pool, *};

/// What a server has been asked.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    most_on_one: AtomicUsize,
    changed: Notify,
}

impl Seen {
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if what(self) {
                return;
            }
            changed.await;
        }
    }
}

struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    certificate: rustls_pki_types::CertificateDer<'static>,
    /// The next connections say GOAWAY after one request.
    farewell: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

/// Says `size` bytes, then nothing more; counted until it is dropped.
struct Saying {
    left: usize,
    seen: Arc<Seen>,
    on_this: Arc<AtomicUsize>,
}

impl Drop for Saying {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
        self.on_this.fetch_sub(1, Ordering::SeqCst);
        self.seen.changed.notify_waiters();
    }
}

impl http_body::Body for Saying {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let piece = self.left.min(1000);
        self.left -= piece;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'.'; piece])))))
    }
}

impl Server {
    async fn start(alpn: &'static [u8], streams: u32) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen, farewell) =
            (listener.local_addr().unwrap(), Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let (shared, says_farewell) = (seen.clone(), farewell.clone());
        let accept = async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, seen, farewell) = (acceptor.clone(), shared.clone(), says_farewell.clone());
                tokio::spawn(async move {
                    let Ok(io) = acceptor.accept(tcp).await else { return };
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    seen.changed.notify_waiters();
                    serve(TokioIo::new(io), alpn, streams, seen, farewell).await;
                });
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(accept));
        Self { address, seen, certificate: cert.der().clone(), farewell, _task: task }
    }

    fn pool(&self) -> Pool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        let url = format!("https://localhost:{}", self.address.port()).parse().unwrap();
        Pool::new(&url, Arc::new(tls)).unwrap()
    }
}

async fn serve<T>(io: TokioIo<T>, alpn: &[u8], streams: u32, seen: Arc<Seen>, farewell: Arc<AtomicBool>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let on_this = Arc::new(AtomicUsize::new(0));
    let gone = Arc::new(Notify::new());
    let say_goodbye = gone.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, on_this) = (seen.clone(), on_this.clone());
        let size =
            request.uri().query().and_then(|query| query.strip_prefix("size=")).and_then(|size| size.parse().ok());
        if farewell.load(Ordering::SeqCst) {
            say_goodbye.notify_one();
        }
        async move {
            let Some(left) = size else { return Ok::<_, Infallible>(Response::new(Either::Right(Empty::new()))) };
            seen.open.fetch_add(1, Ordering::SeqCst);
            let now = on_this.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most_on_one.fetch_max(now, Ordering::SeqCst);
            seen.changed.notify_waiters();
            Ok(Response::new(Either::Left(Saying { left, seen, on_this })))
        }
    });
    if alpn == ALPN {
        let mut builder = conn::http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(streams);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        tokio::select! {
            _ = &mut connection => return,
            () = gone.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let _ = conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

fn watch(size: usize) -> Request<Body> {
    Request::get(format!("/api/v1/pods?size={size}")).body(empty()).unwrap()
}

/// Reads until so much has come.
async fn read(body: &mut Body, mut size: usize) {
    while size > 0 {
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        size = size.checked_sub(data.len()).unwrap();
    }
}

async fn open(pool: &Pool, count: usize) -> Vec<Response<Body>> {
    let mut open = join_all((0..count).map(|_| async { pool.watch(watch(10)).await.unwrap() })).await;
    for response in &mut open {
        read(response.body_mut(), 10).await;
    }
    open
}

#[tokio::test]
async fn a_thousand_watches_keep_to_the_limit_of_streams_and_a_get_goes_beside_them() {
    let server = Server::start(ALPN, 64).await;
    let pool = server.pool();
    let open = open(&pool, 1000).await;
    let seen = &server.seen;
    assert_eq!(seen.open.load(Ordering::SeqCst), 1000);
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.most_on_one.load(Ordering::SeqCst)), (16, 64));
    drop(open);
    seen.until(|seen| seen.open.load(Ordering::SeqCst) == 0).await;

    let server = Server::start(ALPN, 250).await;
    let pool = server.pool();
    let _open = self::open(&pool, 150).await;
    assert_eq!(server.seen.most_on_one.load(Ordering::SeqCst), STREAMS);
}

#[tokio::test]
async fn without_http2_each_watch_has_a_connection_of_its_own() {
    let server = Server::start(b"http/1.1", 1).await;
    let pool = server.pool();
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut response = pool.watch(watch(10)).await.unwrap();
        read(response.body_mut(), 10).await;
        open.push(response);
    }
    // And one that found out that there is no HTTP/2.
    server.seen.until(|seen| seen.connections.load(Ordering::SeqCst) == 6).await;
    assert_eq!(server.seen.most_on_one.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_watch_that_is_left_ends_at_the_apiserver_and_its_place_is_free() {
    let server = Server::start(ALPN, 3).await;
    let pool = server.pool();
    for _ in 0..5 {
        let open = open(&pool, 3).await;
        drop(open);
        server.seen.until(|seen| seen.open.load(Ordering::SeqCst) == 0).await;
    }
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);

    // Also before it is answered: the request is still on its way when its future is dropped.
    let mut asking = Box::pin(pool.watch(watch(10)));
    assert!(poll!(&mut asking).is_pending());
    drop(asking);
    let open = open(&pool, 3).await;
    assert_eq!(open.len(), 3);
}

#[tokio::test]
async fn readers_who_stop_reading_hold_up_nobody() {
    let server = Server::start(ALPN, 100).await;
    let pool = server.pool();
    // Each has more to say than it may be ahead.
    let stalled = join_all((0..99).map(|_| async { pool.watch(watch(2 << 20)).await.unwrap() })).await;
    let mut read_on = pool.watch(watch(2 << 20)).await.unwrap();
    read(read_on.body_mut(), 2 << 20).await;
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);
    for mut response in stalled {
        read(response.body_mut(), 2 << 20).await;
    }
}

#[tokio::test]
async fn after_a_farewell_watches_go_on_and_new_ones_go_elsewhere() {
    let server = Server::start(ALPN, 100).await;
    let pool = server.pool();
    let before = open(&pool, 2).await;
    server.farewell.store(true, Ordering::SeqCst);
    let last = open(&pool, 1).await;
    server.farewell.store(false, Ordering::SeqCst);
    let mut after = Vec::new();
    while server.seen.connections.load(Ordering::SeqCst) < 2 {
        after.extend(open(&pool, 1).await);
    }
    assert_eq!(server.seen.open.load(Ordering::SeqCst), 3 + after.len());
    drop((before, last));
    server.seen.until(|seen| seen.open.load(Ordering::SeqCst) == after.len()).await;
    assert!(after.iter_mut().all(|watch| watch.body_mut().frame().now_or_never().is_none()));
}

#[tokio::test]
async fn an_apiserver_that_is_not_there_is_an_error_for_all_who_wait() {
    let server = Server::start(ALPN, 100).await;
    let pool = server.pool();
    drop(server);
    let asked = join_all((0..50).map(|_| pool.watch(watch(1)))).await;
    assert!(
        asked.iter().all(|asked| asked.as_ref().is_err_and(|error| error.to_string().contains("cannot be reached")))
    );
}
