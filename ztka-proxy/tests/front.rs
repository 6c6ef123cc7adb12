//! Port 443 with real TCP and TLS: routing by server name, certificates, framing, upgrades.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use support::{front::front, *};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::{Reply, Status};
use ztka_proxy::{Buffered, PassOn};

/// An alert in TLS 1.3 for a certificate comes after the client's handshake, with the first read.
async fn is_refused(connected: std::io::Result<TlsStream<TcpStream>>) -> bool {
    match connected {
        Err(_) => true,
        Ok(mut tls) => {
            let asked = tls.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await;
            asked.is_err() || tls.read(&mut [0; 16]).await.is_err()
        }
    }
}

#[tokio::test]
async fn users_ask_over_http1_and_http2() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let asked = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nConnection: close\r\n\r\n");
    let answer = front.exchange(asked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("pod"), "{answer}");
    let tls = front.alice("h2").await;
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(driver);
    for _ in 0..3 {
        let request = Request::get(format!("https://c1.kube.example.com{POD}")).body(Empty::<bytes::Bytes>::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.collect().await.unwrap().to_bytes(), "pod");
    }
    assert_eq!(front.made.sent().len(), 4);
}

#[tokio::test]
async fn certificates_of_another_authority_or_purpose_or_expired_get_an_alert() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let stranger = installation().await;
    let (key, issued) = stranger.user("acme", "u1", "k1", 30).await;
    let config = front.made.client(Some((&key, issued.chain())), "http/1.1");
    assert!(is_refused(front.connect("c1.kube.example.com", config).await).await);
    let (key, issued) = front.made.user("acme", "u1", "k1", 1).await;
    front.made.clock.advance(jiff::SignedDuration::from_hours(25));
    let config = front.made.client(Some((&key, issued.chain())), "http/1.1");
    assert!(is_refused(front.connect("c1.kube.example.com", config).await).await);
    front.made.until("refusals are recorded", |made| made.denials().len() == 2).await;
    assert!(front.made.sent().is_empty());
}

#[tokio::test]
async fn each_name_has_its_own_rule_for_certificates() {
    let mut front = front(PassOn::Nowhere, |_| ok("pod")).await;
    // No certificate: agents' names end the handshake, users' names answer 401.
    let none = || front.made.client(None, "http/1.1");
    assert!(is_refused(front.connect("tunnel.example.com", none()).await).await);
    let mut tls = front.connect("c1.kube.example.com", none()).await.unwrap();
    tls.write_all(b"GET /version HTTP/1.1\r\nHost: c1.kube.example.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("log in at"), "{answer}");
    // A user's certificate opens no tunnel.
    let (key, issued) = front.made.user("acme", "u1", "k1", 30).await;
    let config = front.made.client(Some((&key, issued.chain())), "h2");
    assert!(is_refused(front.connect("tunnel.example.com", config).await).await);
    assert!(front.tunnels.try_recv().is_err());
    // A name that is nobody's.
    assert!(front.connect("c1.kube.elsewhere.com", none()).await.is_err());
    assert!(front.connect("p2.tunnel.example.com", none()).await.is_err());
}

#[tokio::test]
async fn the_controllers_names_are_passed_on_as_they_came() {
    let controller = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = front(PassOn::Tcp(vec![controller.local_addr().unwrap()]), |_| ok("pod")).await;
    let config = front.made.client(None, "h2");
    let (tcp, address) = (TcpStream::connect(front.address).await.unwrap(), front.address);
    let client = tcp.local_addr().unwrap();
    let name = ServerName::try_from("api.example.com").unwrap();
    tokio::spawn(async move { TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(drop) });
    let (passed, _) = controller.accept().await.unwrap();
    let mut passed = Buffered::new(passed);
    let told = ztka_proxy::proxy_protocol::read(&mut passed).await.unwrap();
    assert_eq!(told, Some(client));
    assert_eq!(ztka_proxy::server_name(&mut passed).await.unwrap().as_deref(), Some("api.example.com"));
    // Within the process the connection itself is handed over.
    let _ = address;
}

#[tokio::test]
async fn the_controllers_names_can_be_passed_on_within_the_process() {
    let (sender, mut controller) = mpsc::channel(1);
    let front = front(PassOn::Channel(sender), |_| ok("pod")).await;
    let config = front.made.client(None, "h2");
    let tcp = TcpStream::connect(front.address).await.unwrap();
    let client = tcp.local_addr().unwrap();
    let name = ServerName::try_from("enroll.example.com").unwrap();
    tokio::spawn(async move { TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(drop) });
    let mut passed = controller.recv().await.unwrap();
    assert_eq!(passed.arrival.client, client);
    let name = ztka_proxy::server_name(&mut passed.stream).await.unwrap();
    assert_eq!(name.as_deref(), Some("enroll.example.com"));
}

#[tokio::test]
async fn bad_framing_is_answered_400_recorded_and_never_sent() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let post = |rest: &str| format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n{rest}");
    let cases = [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        post("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        post("Content-Length: 5, 6\r\n\r\nhello"),
        post("Content-Length: -5\r\n\r\nhello"),
        post("Transfer-Encoding: chunked\r\n\r\nZ\r\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: gzip\r\n\r\n"),
        post("X-A: b\n\r\n"),
        post("X-A: b\r\n folded\r\n\r\n"),
        post("X-A : b\r\n\r\n"),
        post("Host: c2.kube.example.com\r\n\r\n"),
        format!("GET {POD} HTTP/1.1\nHost: c1.kube.example.com\n\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "ZTKA-REFUSED / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
    ];
    let count = cases.len();
    for (index, bytes) in cases.into_iter().enumerate() {
        let answer = front.exchange(bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"kind\":\"Status\""), "{bytes}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        front.made.until("it is recorded", |made| made.denials().len() > index).await;
        // Refusals that come too fast are counted instead of written.
        front.made.clock.advance(jiff::SignedDuration::from_secs(1));
    }
    assert_eq!(front.made.denials().len(), count);
    assert!(front.made.sent().is_empty(), "{:?}", front.made.sent());
    let long = format!("GET /{} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n", "a".repeat(70_000));
    let answer = front.exchange(long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") && answer.contains("\"kind\":\"Status\""), "{answer}");
}

#[tokio::test]
async fn a_good_request_before_a_bad_one_is_answered_first_and_nothing_is_smuggled() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let bytes = format!(
        "GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n\
         POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /api/v1/namespaces/default/secrets/a HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n"
    );
    let answer = front.exchange(bytes.as_bytes()).await;
    let (first, second) = answer.split_once("pod").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 ") && second.starts_with("HTTP/1.1 400 "), "{answer}");
    let sent = front.made.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].request.uri().path(), POD);
}

#[tokio::test]
async fn a_body_that_turns_bad_breaks_off_its_request() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let mut tls = front.alice("http/1.1").await;
    let head =
        format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    front.made.until("the request is under way", |made| made.open.streams() == 1).await;
    tls.write_all(b"5\r\nhello, world\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(front.made.sent().iter().all(|sent| sent.body.is_err()), "{:?}", front.made.sent());
}

#[tokio::test]
async fn an_upgrade_is_spliced_behind_its_101_with_half_close() {
    let (cluster, far) = tokio::io::duplex(1024);
    let far = Mutex::new(Some(far));
    let front = front(PassOn::Nowhere, move |request| {
        assert!(request.extensions().get::<ztka_core::Upgrade>().is_some());
        let io = Box::pin(far.lock().unwrap().take().unwrap().compat());
        Reply::Upgraded { head: Response::builder().header("x-from", "cluster").body(()).unwrap(), io }
    })
    .await;
    let mut tls = front.alice("http/1.1").await;
    let head = "POST /api/v1/namespaces/default/pods/web/exec?command=sh HTTP/1.1\r\nHost: c1.kube.example.com\r\n\
                Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = tls.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: spdy/3.1"), "{answer}");
    assert!(answer.contains("x-from: cluster"), "{answer}");
    let (mut reader, mut writer) = tokio::io::split(cluster);
    tls.write_all(b"to the cluster").await.unwrap();
    tls.shutdown().await.unwrap();
    let mut heard = Vec::new();
    reader.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"to the cluster");
    writer.write_all(b"to the user").await.unwrap();
    writer.shutdown().await.unwrap();
    let mut heard = Vec::new();
    tls.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"to the user");
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_dropped() {
    let denied = |_: &Request<()>| Status::new(StatusCode::FORBIDDEN, "no").into();
    let front = front(PassOn::Nowhere, denied).await;
    let smuggled = "GET /api/v1/namespaces/default/pods/web/exec?command=sh HTTP/1.1\r\nHost: c1.kube.example.com\r\n\
                    Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
                    GET /api/v1/namespaces/default/secrets/a HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n";
    let answer = front.exchange(smuggled.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.to_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(front.made.sent().len(), 1);
    for token in ["h2c", "TLS/1.0", "websocket, SPDY/3.1"] {
        let head = format!(
            "GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\r\n"
        );
        let answer = front.exchange(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{token} {answer}");
    }
    assert_eq!(front.made.sent().len(), 1);
}

#[tokio::test]
async fn a_ping_storm_ends_the_connection() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let mut tls = front.alice("h2").await;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat().repeat(100);
    let (mut reader, mut writer) = tokio::io::split(tls);
    let storm = async { while writer.write_all(&ping).await.is_ok() {} };
    let answers = async {
        let mut scrap = Vec::new();
        let _ = reader.read_to_end(&mut scrap).await;
        scrap.len()
    };
    let (_, answered) =
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(storm, answers) }).await.unwrap();
    assert!(answered < 1 << 20, "{answered}");
    front.made.until("it is recorded", |made| made.denials().iter().any(|why| why.contains("PING"))).await;
}

#[tokio::test]
async fn a_stopping_server_finishes_what_was_asked() {
    let mut front = front(PassOn::Nowhere, |_| ok("pod")).await;
    let mut idle = front.alice("http/1.1").await;
    front.stop.take().unwrap().send(()).unwrap();
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap_or(0), 0);
    tokio::time::timeout(Duration::from_secs(10), front.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_body_is_asked_for_only_when_the_request_is_allowed() {
    let front = front(PassOn::Nowhere, |_| ok("pod")).await;
    front.made.policy("acme", &["c1"], "edit").await;
    let put = |path: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n"
        )
    };
    let answer = front.exchange(put("/api/v1/nodes/a").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let mut tls = front.alice("http/1.1").await;
    tls.write_all(put(POD).as_bytes()).await.unwrap();
    let mut answer = [0; 256];
    let length = tls.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&answer[..length]));
    tls.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    tls.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 "), "{rest}");
    assert_eq!(front.made.sent().last().unwrap().body.as_deref(), Ok(&b"hello"[..]));
}
