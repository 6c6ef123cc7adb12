//! A proxy that stops: whoever comes in time is served, what was begun has its grace, and what would go on without end is
//! ended in its own protocol's words, on record.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml does not reach helpers"
)]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{front::*, *};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::{BoxError, Reply};
use ztka_proxy::{Limits, PassOn};

const LONG: Duration = Duration::from_secs(60);
const HOST: &str = "c1.kube.example.com";
const WATCH: &str = "/api/v1/pods?watch=true";
const LOGS: &str = "/api/v1/namespaces/default/pods/web/log?follow=true";
const DOWNLOAD: &str = "/api/v1/pods";
const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=sh";

/// The far ends of upgraded connections.
type Sessions = Arc<Mutex<Vec<DuplexStream>>>;

/// A front whose cluster begins everything and ends nothing.
async fn front(notice: Duration, grace: Duration) -> (Front, Sessions) {
    let sessions = Sessions::default();
    let far = sessions.clone();
    let answer = move |request: &Request<()>| {
        if request.uri().path() == "/version" {
            return ok("v1");
        }
        if request.uri().path().ends_with("/exec") {
            let (near, io) = tokio::io::duplex(1024);
            far.lock().unwrap().push(io);
            return Reply::Upgraded { head: Response::new(()), io: Box::pin(near.compat()) };
        }
        let first = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"first")))]);
        let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Reply::Response(Response::new(StreamBody::new(body).boxed_unsync()))
    };
    (front_stopping((notice, grace), Limits::default(), PassOn::Nowhere, Vec::new(), answer).await, sessions)
}

fn get(target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n")
}

/// Reads until `text` has come.
async fn read_until(io: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let mut piece = [0; 1024];
        let length = timeout(LONG, io.read(&mut piece)).await.expect("it comes").unwrap();
        assert!(length > 0, "ended before {text:?}: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Everything to the end, which may be a break.
async fn rest(mut io: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = timeout(LONG, io.read_to_end(&mut all)).await.expect("it ends");
    all
}

#[tokio::test]
async fn what_has_no_end_is_ended_in_its_own_words_when_the_grace_is_over() {
    let (mut front, sessions) = front(Duration::ZERO, Duration::from_millis(300)).await;
    let mut open = BTreeMap::new();
    for target in [WATCH, LOGS, DOWNLOAD] {
        let mut tls = front.alice("http/1.1").await;
        tls.write_all(get(target, "").as_bytes()).await.unwrap();
        read_until(&mut tls, "first").await;
        open.insert(target, tls);
    }
    let mut upgraded = BTreeMap::new();
    for protocol in ["websocket", "SPDY/3.1"] {
        let mut tls = front.alice("http/1.1").await;
        let upgrade = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
        tls.write_all(get(EXEC, &upgrade).as_bytes()).await.unwrap();
        read_until(&mut tls, "\r\n\r\n").await;
        upgraded.insert(protocol, tls);
    }
    let io = TokioIo::new(front.alice("h2").await);
    let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut bodies = Vec::new();
    for target in [WATCH, DOWNLOAD] {
        let request = Request::get(format!("https://{HOST}{target}")).body(Empty::<Bytes>::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        bodies.push(body);
    }

    front.stop.take().unwrap().send(()).unwrap();
    for (target, tls) in open {
        let end = rest(tls).await;
        match target {
            DOWNLOAD => assert!(!end.ends_with(b"0\r\n\r\n"), "half a list must not look whole"),
            _ => assert_eq!(String::from_utf8_lossy(&end), "0\r\n\r\n", "{target}"),
        }
    }
    let [watch, download] = <[_; 2]>::try_from(bodies).unwrap();
    assert_eq!(timeout(LONG, watch.collect()).await.unwrap().unwrap().to_bytes(), "", "END_STREAM");
    assert!(timeout(LONG, download.collect()).await.unwrap().is_err(), "RST_STREAM");
    let close = rest(upgraded.remove("websocket").unwrap()).await;
    assert_eq!((close[0], &close[2..4], &close[4..]), (0x88, &[3, 0xe9][..], &b"the proxy stops; connect again"[..]));
    let goaway = rest(upgraded.remove("SPDY/3.1").unwrap()).await;
    assert_eq!(goaway[..4], [0x80, 3, 0, 7], "{goaway:?}");
    // Nothing of it is left in the cluster, and the server is gone.
    let sessions = std::mem::take(&mut *sessions.lock().unwrap());
    for mut session in sessions {
        assert_eq!(session.read(&mut [0; 16]).await.unwrap(), 0);
    }
    timeout(LONG, driver).await.unwrap().unwrap().unwrap();
    timeout(LONG, &mut front.server).await.unwrap().unwrap().unwrap();
    let events = front.made.journal.events();
    let ends = |of: &str| {
        let complete = events.iter().filter(|event| event.request_uri.contains(of) && event.fact("end").is_some());
        complete
            .map(|event| (event.fact("end").unwrap().to_owned(), event.fact("reason").unwrap_or_default().to_owned()))
            .collect::<Vec<_>>()
    };
    let stopped = ("stopped".to_owned(), "the proxy stops; connect again".to_owned());
    for (target, count) in [("watch=true", 2), ("follow=true", 1), ("/exec", 2)] {
        assert_eq!(ends(target), vec![stopped.clone(); count], "{target}");
    }
    let downloads: Vec<_> = ends("/api/v1/pods").into_iter().filter(|(end, _)| end != "stopped").collect();
    assert_eq!(downloads.len(), 2);
    assert!(downloads.iter().all(|(end, why)| end == "failed" && why.contains("it stops")), "{downloads:?}");
}

#[tokio::test]
async fn whoever_comes_during_the_notice_is_served_and_then_sent_elsewhere() {
    let (mut front, _) = front(Duration::from_secs(2), Duration::from_secs(5)).await;
    let io = TokioIo::new(front.alice("h2").await);
    let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(driver);
    let version = || Request::get(format!("https://{HOST}/version")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(version()).await.unwrap().status(), StatusCode::OK);
    let mut kept = front.alice("http/1.1").await;
    kept.write_all(get("/version", "").as_bytes()).await.unwrap();
    assert!(!read_until(&mut kept, "v1").await.to_lowercase().contains("connection: close"));

    front.stop.take().unwrap().send(()).unwrap();
    // HTTP/2 hears of it at once: the connection is over when nothing is open on it.
    timeout(LONG, driver).await.expect("GOAWAY").unwrap().unwrap();
    // HTTP/1.1 with the next answer.
    kept.write_all(get("/version", "").as_bytes()).await.unwrap();
    let last = String::from_utf8(rest(kept).await).unwrap();
    assert!(last.starts_with("HTTP/1.1 200 ") && last.to_lowercase().contains("connection: close"), "{last}");
    // A new connection is served, and over HTTP/2 it is not told to go before it has asked.
    let fresh = front.exchange(get("/version", "").as_bytes()).await;
    assert!(fresh.starts_with("HTTP/1.1 200 "), "{fresh}");
    let io = TokioIo::new(front.alice("h2").await);
    let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    assert_eq!(sender.send_request(version()).await.unwrap().status(), StatusCode::OK);
    drop(sender);
    timeout(LONG, &mut front.server).await.unwrap().unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(front.address).await.is_err(), "nothing listens");
}
