//! Nobody shuts others out: connections and handshakes have places by network. Real TCP and TLS behind a trusted balancer,
//! whose PROXY protocol headers make addresses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::select_all;
use http::Response;
use rustls_pki_types::ServerName;
use support::{
    front::{Front, front_with},
    *,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::Reply;
use ztka_proxy::{Limits, PassOn};

/// Less than what a stalled handshake may last.
const SOON: Duration = Duration::from_secs(8);

async fn behind_a_balancer(limits: Limits, controller: PassOn) -> Front {
    front_with(limits, controller, vec!["127.0.0.0/8".parse().unwrap()], |_| ok("pod")).await
}

/// A connection that the balancer passes on for `client`.
async fn tcp(front: &Front, client: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(front.address).await.unwrap();
    let from = SocketAddr::new(client.parse().unwrap(), 4711);
    tcp.write_all(&ztka_proxy::proxy_protocol::header(from, front.address)).await.unwrap();
    tcp
}

/// The handshake of alice as `client`, to its end.
async fn alice(front: &Front, client: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let (key, issued) = front.made.user("acme", "u1", "k1", 30).await;
    let config = front.made.client(Some((&key, issued.chain())), "http/1.1");
    let name = ServerName::try_from("c1.kube.example.com").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp(front, client).await).await
}

/// Begins a handshake and says nothing more.
async fn stalled(front: &Front, client: &str, name: &'static str) -> TcpStream {
    let config = Arc::new(front.made.client(None, "h2"));
    let mut hello = Vec::new();
    let mut tls = rustls::ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
    tls.write_tls(&mut hello).unwrap();
    let mut tcp = tcp(front, client).await;
    tcp.write_all(&hello).await.unwrap();
    tcp
}

async fn is_answered(tcp: &mut TcpStream) -> bool {
    matches!(timeout(SOON, tcp.read(&mut [0; 64])).await, Ok(Ok(count)) if count > 0)
}

/// The server closes without a word.
async fn is_closed(tcp: &mut TcpStream) -> bool {
    matches!(timeout(SOON, tcp.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
}

/// Alice is answered over this connection.
async fn is_served(mut tls: TlsStream<TcpStream>) -> TlsStream<TcpStream> {
    let asked = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n");
    tls.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = tls.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
    tls
}

#[tokio::test]
async fn stalled_handshakes_keep_only_their_own_network_waiting() {
    let limits = Limits { handshakes: 4, address_handshakes: 2, ..Limits::default() };
    let front = behind_a_balancer(limits, PassOn::Nowhere).await;
    for (name, other) in [("c1.kube.example.com", "192.0.2.1"), ("tunnel.example.com", "192.0.2.2")] {
        let mut stalling = Vec::new();
        for host in 1..=8 {
            let mut tcp = stalled(&front, &format!("2001:db8::{host}"), name).await;
            stalling.push(Box::pin(async move { (is_answered(&mut tcp).await, tcp) }));
        }
        // Two of the network's have their turn.
        let ((answered, first), _, stalling) = select_all(stalling).await;
        assert!(answered);
        let ((answered, second), _, stalling) = select_all(stalling).await;
        assert!(answered);
        let tls = timeout(SOON, alice(&front, other)).await.unwrap().unwrap();
        is_served(tls).await;
        // One that ends makes room for one that waits.
        drop(first);
        let ((answered, _), ..) = select_all(stalling).await;
        assert!(answered);
        drop(second);
    }
}

#[tokio::test]
async fn stalled_tunnels_keep_no_user_waiting() {
    let limits = Limits { handshakes: 1, address_handshakes: 1, ..Limits::default() };
    let front = behind_a_balancer(limits, PassOn::Nowhere).await;
    let mut tunnel = stalled(&front, "192.0.2.1", "tunnel.example.com").await;
    assert!(is_answered(&mut tunnel).await);
    is_served(timeout(SOON, alice(&front, "192.0.2.1")).await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let limits = Limits { address_connections: 3, ..Limits::default() };
    let front = behind_a_balancer(limits, PassOn::Nowhere).await;
    let mut held = Vec::new();
    for host in 1..=3 {
        held.push(is_served(alice(&front, &format!("2001:db8::{host}")).await.unwrap()).await);
    }
    assert!(alice(&front, "2001:db8::4").await.is_err());
    is_served(alice(&front, "2001:db8:0:1::1").await.unwrap()).await;
    held.pop();
    let served = async {
        loop {
            if let Ok(tls) = alice(&front, "2001:db8::4").await {
                return is_served(tls).await;
            }
        }
    };
    timeout(SOON, served).await.unwrap();
}

#[tokio::test]
async fn an_upgraded_stream_keeps_its_place() {
    let (cluster, far) = tokio::io::duplex(1024);
    let far = Mutex::new(Some(far));
    let limits = Limits { address_connections: 1, ..Limits::default() };
    let balancers = vec!["127.0.0.0/8".parse().unwrap()];
    let front = front_with(limits, PassOn::Nowhere, balancers, move |_| {
        let io = Box::pin(far.lock().unwrap().take().unwrap().compat());
        Reply::Upgraded { head: Response::new(()), io }
    })
    .await;
    let mut tls = alice(&front, "192.0.2.1").await.unwrap();
    let head = "GET /api/v1/namespaces/default/pods/web/exec?command=sh HTTP/1.1\r\nHost: c1.kube.example.com\r\n\
                Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = tls.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer[..length]));
    // Bytes come through: the stream lives apart from the server of its connection by now.
    let (mut reader, mut writer) = tokio::io::split(cluster);
    writer.write_all(b"$").await.unwrap();
    tls.read_exact(&mut answer[..1]).await.unwrap();
    assert!(is_closed(&mut tcp(&front, "192.0.2.1").await).await);
    drop(tls);
    assert_eq!(reader.read(&mut answer).await.unwrap(), 0);
    drop((reader, writer));
    timeout(SOON, async { while alice(&front, "192.0.2.1").await.is_err() {} }).await.unwrap();
}

#[tokio::test]
async fn what_is_passed_on_within_the_process_keeps_its_place() {
    let (sender, mut controller) = mpsc::channel(8);
    let limits = Limits { address_connections: 1, ..Limits::default() };
    let front = behind_a_balancer(limits, PassOn::Channel(sender)).await;
    let _first = stalled(&front, "192.0.2.1", "api.example.com").await;
    let mut passed = controller.recv().await.unwrap();
    assert!(is_closed(&mut tcp(&front, "192.0.2.1").await).await);
    let _other = stalled(&front, "192.0.2.2", "api.example.com").await;
    assert!(controller.recv().await.is_some());
    // As a stream it begins with the ClientHello.
    let mut begin = [0; 2];
    passed.read_exact(&mut begin).await.unwrap();
    assert_eq!(begin, [22, 3]);
    drop(passed);
    let again = stalled(&front, "192.0.2.1", "api.example.com").await;
    assert!(timeout(SOON, controller.recv()).await.unwrap().is_some());
    drop(again);
}
