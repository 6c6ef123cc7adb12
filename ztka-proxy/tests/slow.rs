//! Time limits, in paused time: heads have ten seconds, bodies have to keep coming, streams are not timed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::time::Duration;

use support::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::Instant,
};
use ztka_proxy::{Connection, Drain, Limits};

async fn connect(made: &Installation, is_http2: bool) -> DuplexStream {
    let name = Some("c1.kube.example.com".into());
    let cluster = Some("c1".parse().unwrap());
    let client = "192.0.2.1:4711".parse().unwrap();
    let connection = Connection::new(client, name, cluster, Some(made.certificate().await));
    let users = made.users(&Limits::default(), |_| ok("pod"));
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, is_http2, connection, Drain::default()).await });
    client
}

/// What is answered, and after how many seconds the connection is closed.
async fn closed(mut client: DuplexStream) -> (String, u64) {
    let (begin, mut answer) = (Instant::now(), Vec::new());
    let _ = client.read_to_end(&mut answer).await;
    (String::from_utf8_lossy(&answer).into_owned(), begin.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds() {
    let made = installation().await;
    let mut client = connect(&made, false).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: c1").await.unwrap();
    let (answer, seconds) = closed(client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!((9..=11).contains(&seconds), "{seconds}");
    // A byte now and then does not help.
    let mut client = connect(&made, false).await;
    let drip = async {
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.write_all(b"X").await.is_err() {
                break;
            }
        }
        client
    };
    let begin = Instant::now();
    let (answer, _) = closed(drip.await).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(62));
    assert!(made.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    let made = installation().await;
    for is_http2 in [false, true] {
        let (answer, seconds) = closed(connect(&made, is_http2).await).await;
        assert!(!answer.contains("HTTP"), "{answer}");
        assert!(seconds <= 12, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_five_minutes_and_a_body_that_keeps_coming_for_longer() {
    let made = installation().await;
    let mut client = connect(&made, false).await;
    let get = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n");
    let mut answer = [0; 2048];
    for _ in 0..2 {
        client.write_all(get.as_bytes()).await.unwrap();
        let length = client.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
        tokio::time::sleep(Duration::from_secs(200)).await;
    }
    let head = format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: 300000\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        client.write_all(&[b'x'; 10_000]).await.unwrap();
    }
    let length = client.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    let (_, seconds) = closed(client).await;
    assert!((299..=312).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_keep_nobody_from_reading() {
    let made = installation().await;
    let limits = Limits { requests: 1, requests_with_body: 1, ..Limits::default() };
    let users = made.users(&limits, |_| ok("pod"));
    let connect = async || {
        let (name, cluster) = (Some("c1.kube.example.com".into()), Some("c1".parse().unwrap()));
        let certificate = Some(made.certificate().await);
        let connection = Connection::new("192.0.2.1:4711".parse().unwrap(), name, cluster, certificate);
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(users.serve(server, false, connection, Drain::default()));
        client
    };
    let post = format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: 10\r\n\r\n");
    let get = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n");
    let mut slow = connect().await;
    slow.write_all(post.as_bytes()).await.unwrap();
    made.until("the slow request is under way", |made| made.open.streams() == 1).await;
    for (request, code) in [(&get, "200"), (&post, "503"), (&get, "200")] {
        let (mut client, mut answer) = (connect().await, [0; 2048]);
        client.write_all(request.as_bytes()).await.unwrap();
        let length = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    slow.write_all(b"0123456789").await.unwrap();
    let mut answer = [0; 2048];
    let length = slow.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
}

/// A connection whose client has presented no certificate.
async fn connect_nameless(made: &Installation, is_http2: bool) -> DuplexStream {
    let name = Some("c1.kube.example.com".into());
    let connection = Connection::new("192.0.2.1:4711".parse().unwrap(), name, Some("c1".parse().unwrap()), None);
    let users = made.users(&Limits::default(), |_| ok("pod"));
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, is_http2, connection, Drain::default()).await });
    client
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_certificate_has_no_long_life_whatever_it_asks() {
    let made = installation().await;
    let begin = Instant::now();
    let mut client = connect_nameless(&made, false).await;
    let get = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n");
    let mut answer = [0; 4096];
    while client.write_all(get.as_bytes()).await.is_ok() {
        match client.read(&mut answer).await {
            Ok(length @ 1..) => assert!(answer[..length].starts_with(b"HTTP/1.1 401 ")),
            _ => break,
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(begin.elapsed() < Duration::from_secs(60), "it goes on and on");
    }
    assert!((12..=26).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    // Nor if it does not take what it is answered.
    let begin = Instant::now();
    let mut http2 = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let io = hyper_util::rt::TokioIo::new(connect_nameless(&made, true).await);
    let (mut sender, driver) = http2.initial_stream_window_size(0).handshake(io).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = http::Request::get(format!("https://c1.kube.example.com{POD}")).body(full("")).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 401);
    let _ = tokio::time::timeout(Duration::from_secs(600), driver).await.unwrap().unwrap();
    assert!((12..=26).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_header_block_of_http2_has_ten_seconds() {
    let made = installation().await;
    let mut client = connect(&made, true).await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await.unwrap();
    let (_, seconds) = closed(client).await;
    assert!((9..=11).contains(&seconds), "{seconds}");
    made.until("it is recorded", |made| made.denials().iter().any(|why| why.contains("in time"))).await;
}

/// Sends a body of a byte per second, and what is answered after how many seconds.
async fn dripped(made: &Installation, path: &str, is_http2: bool) -> (String, u64) {
    let begin = Instant::now();
    let mut client = connect(made, is_http2).await;
    if is_http2 {
        let http2 = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let (mut sender, driver) = http2.handshake(hyper_util::rt::TokioIo::new(client)).await.unwrap();
        tokio::spawn(driver);
        let drip = futures_util::stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let frame = http_body::Frame::data(bytes::Bytes::from_static(b"x"));
            (count < 200).then_some((Ok::<_, std::convert::Infallible>(frame), count + 1))
        });
        let body = http_body_util::StreamBody::new(Box::pin(drip));
        let request = http::Request::post(format!("https://c1.kube.example.com{path}")).body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        return (answer.status().as_str().to_owned(), begin.elapsed().as_secs());
    }
    let head = format!("POST {path} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: 200\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if write.write_all(b"x").await.is_err() {
                return write;
            }
        }
        write
    });
    let mut answer = [0; 2048];
    let length = read.read(&mut answer).await.unwrap();
    let seconds = begin.elapsed().as_secs();
    if answer[..length].starts_with(b"HTTP/1.1 408 ") {
        // Closed behind it.
        read.read_to_end(&mut Vec::new()).await.unwrap();
    }
    drop(dripping.await.unwrap());
    (String::from_utf8_lossy(&answer[9..12]).into_owned(), seconds)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up() {
    let made = installation().await;
    for is_http2 in [false, true] {
        let (code, seconds) = dripped(&made, "/api/v1/namespaces/default/pods", is_http2).await;
        assert_eq!(code, "408");
        assert!((30..=35).contains(&seconds), "{seconds}");
        let sent = made.sent();
        assert!(sent.last().unwrap().body.as_ref().unwrap_err().contains("too slowly"), "{sent:?}");
        made.until("it is recorded", |made| made.denials().iter().any(|why| why.contains("too slowly"))).await;
        // It is the subresource that counts, and no name that looks like it.
        for named in ["/api/v1/namespaces/proxy/pods", "/api/v1/namespaces/default/pods/proxy", "/proxy/upload"] {
            assert_eq!(dripped(&made, named, is_http2).await.0, "408", "{named}");
        }
        // What a service behind the apiserver takes in is its own affair.
        let through = "/api/v1/namespaces/default/services/web/proxy/upload";
        let (code, seconds) = dripped(&made, through, is_http2).await;
        assert_eq!(code, "200");
        assert!((200..=205).contains(&seconds), "{seconds}");
    }
}
