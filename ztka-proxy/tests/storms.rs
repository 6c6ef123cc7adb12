//! Users who attack: each storm ends its own connection, before it has cost much, is on record, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

#[path = "../../ztka-tunnel/tests/tunnel/storms.rs"]
mod storms;
mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use storms::*;
use support::{front::front_with, *};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use ztka_proxy::{Connection, Drain, Limits, PassOn, Users};

const LONG: Duration = Duration::from_secs(120);
const HOST: &str = "c1.kube.example.com";

async fn connect(made: &Installation, users: &Users<Stack>, is_http2: bool) -> DuplexStream {
    let certificate = Some(made.certificate().await);
    let client = "192.0.2.1:4711".parse().unwrap();
    let connection = Connection::new(client, Some(HOST.into()), Some("c1".parse().unwrap()), certificate);
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(users.serve(server, is_http2, connection, Drain::default()));
    client
}

async fn is_served(mut client: DuplexStream) {
    let get = format!("GET {POD} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    client.write_all(get.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn storms_end_their_connection_and_nobody_else_notices() {
    let made = installation().await;
    let users = made.users(&Limits::default(), |_| ok("pod"));
    for storm in Storm::of_client(POD, HOST) {
        let mut client = connect(&made, &users, true).await;
        client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let sent = storm.rage(client).await;
        println!("{}: closed after {} KiB", storm.name, sent >> 10);
        assert!(sent < 1 << 20, "{}: {sent} bytes", storm.name);
        is_served(connect(&made, &users, false).await).await;
    }
    // What was begun in a storm is over.
    made.until("nothing is left", |made| made.open.streams() == 0).await;
    made.until("it is on record", |made| made.denials().iter().any(|why| why.contains("SETTINGS"))).await;
}

#[tokio::test]
async fn a_bomb_is_not_unpacked() {
    let made = installation().await;
    let users = made.users(&Limits::default(), |_| ok("pod"));
    let mut client = connect(&made, &users, true).await;
    let block = bomb(&request(GET, POD, HOST));
    client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    client.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
    timeout(LONG, client.read_to_end(&mut Vec::new())).await.expect("closed").unwrap();
    assert!(made.sent().is_empty());
    is_served(connect(&made, &users, false).await).await;
}

/// A client that negotiates HTTP/2 and speaks HTTP/1.1 would not be held to the rules of either.
#[tokio::test]
async fn http1_on_a_connection_of_http2_is_not_answered() {
    let made = installation().await;
    let users = made.users(&Limits::default(), |_| ok("pod"));
    let plain = format!("GET {POD} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let smuggled = format!(
        "POST {POD} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    for text in [plain, smuggled, "INVALID CONNECTION PREFACE\r\n\r\n".into()] {
        let mut client = connect(&made, &users, true).await;
        client.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(LONG, client.read_to_end(&mut answer)).await.expect("closed").unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("HTTP/1."), "{text:?} is answered {answer}");
        made.clock.advance(jiff::SignedDuration::from_secs(1));
    }
    assert!(made.sent().is_empty());
    made.until("it is on record", |made| made.denials().iter().any(|why| why.contains("preface"))).await;
}

/// What this process holds in memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_thousand_half_open_handshakes_cost_little_and_keep_nobody_waiting() {
    const EACH: usize = 100;
    let front =
        front_with(Limits::default(), PassOn::Nowhere, vec!["127.0.0.0/8".parse().unwrap()], |_| ok("pod")).await;
    let from = async |client: String| {
        let mut tcp = TcpStream::connect(front.address).await.unwrap();
        let client = SocketAddr::new(client.parse().unwrap(), 4711);
        tcp.write_all(&ztka_proxy::proxy_protocol::header(client, front.address)).await.unwrap();
        tcp
    };
    let config = Arc::new(front.made.client(None, "h2"));
    let before = resident();
    let mut stalled = Vec::new();
    for network in 0..10 {
        for host in 0..EACH {
            let name = if host % 2 == 0 { HOST } else { "tunnel.example.com" };
            let mut hello = Vec::new();
            let mut tls = rustls::ClientConnection::new(config.clone(), ServerName::try_from(name).unwrap()).unwrap();
            tls.write_tls(&mut hello).unwrap();
            let mut tcp = from(format!("2001:db8:{network}::{}", host + 1)).await;
            // A third stops within its ClientHello.
            let whole = if host % 3 == 0 { hello.len() / 2 } else { hello.len() };
            tcp.write_all(&hello[..whole]).await.unwrap();
            stalled.push(tcp);
        }
    }
    let (key, issued) = front.made.user("acme", "u1", "k1", 30).await;
    let config = front.made.client(Some((&key, issued.chain())), "http/1.1");
    let tls = TlsConnector::from(Arc::new(config));
    let connected = tls.connect(ServerName::try_from(HOST).unwrap(), from("192.0.2.1".into()).await);
    let mut tls = timeout(Duration::from_secs(8), connected).await.expect("not kept waiting").unwrap();
    let get = format!("GET {POD} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    tls.write_all(get.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = timeout(LONG, tls.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    let each = resident().saturating_sub(before) / stalled.len();
    println!("{each} bytes for each half-open handshake, both ends");
    assert!(each < 100 << 10, "{each} bytes for each");
    // And none of them for longer than it may take: from here on only timers are left.
    tokio::time::pause();
    let closed = async {
        for tcp in &mut stalled {
            while matches!(tcp.read(&mut answer).await, Ok(1..)) {}
        }
    };
    timeout(LONG, closed).await.expect("every one is closed");
}
