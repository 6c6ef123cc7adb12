//! Requests and bodies through a tunnel: what arrives, how fast, and what a leaving client leaves behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::pair::{Agent, Net, ask, collected, get, status, text, until};
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{mpsc, oneshot};
use ztka_core::{Body, BoxError, ProxyId, Reply, Verified};

const POD: &str = "/api/v1/namespaces/default/pods/web";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A body fed by hand.
fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// A body of `chunks` × 64 KiB that counts what has been taken of it.
fn counted(chunks: usize) -> (Arc<AtomicUsize>, Body) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let frames = stream::iter((0..chunks).map(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 64 << 10])))
    }));
    (taken, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test(start_paused = true)]
async fn carries_a_request_and_its_answer() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        let seen = request.headers();
        assert_eq!(request.extensions().get::<Verified<ProxyId>>().unwrap().as_str(), "p0");
        assert_eq!(seen["ztka-policy"], "1.7");
        assert_eq!(seen["ztka-source"], "192.0.2.7");
        assert_eq!(seen["accept"], "application/json");
        assert_eq!(seen["ztka-evidence"].len(), 64);
        assert_eq!(seen["audit-id"].len(), 36);
        assert!(!seen.contains_key("connection") && !seen.contains_key("host"));
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let body = request.into_body().collect().await.unwrap();
        let said = format!("{method} {uri} {:?}", body.to_bytes());
        let mut response = Response::new(ztka_core::body(said));
        *response.status_mut() = StatusCode::CREATED;
        let headers = response.headers_mut();
        headers.append("warning", "299 - \"one\"".parse().unwrap());
        headers.append("warning", "299 - \"two\"".parse().unwrap());
        headers.insert("connection", "close, x-hop".parse().unwrap());
        headers.insert("x-hop", "1".parse().unwrap());
        headers.insert("ztka-secret", "1".parse().unwrap());
        Reply::Response(response)
    });
    let _dialer = net.connected(&agent).await;
    let asked = ask(Method::POST, &format!("{PODS}?dryRun=All"))
        .header("accept", "application/json")
        .header("connection", "close")
        .header("host", "evil.example")
        .body(ztka_core::body("hello"));
    let answer = collected(net.ask(asked.permitted()).await).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.body(), &format!("POST {PODS}?dryRun=All b\"hello\""));
    assert_eq!(answer.headers().get_all("warning").iter().count(), 2);
    for gone in ["connection", "x-hop", "ztka-secret"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_large_empty_or_a_heads() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        match *request.method() {
            Method::HEAD => {
                let mut response = status(StatusCode::OK);
                response.headers_mut().insert("content-length", 1_000_000.into());
                Reply::Response(response)
            }
            Method::DELETE => Reply::Response(status(StatusCode::NO_CONTENT)),
            _ => text(vec![7; 20 << 20]),
        }
    });
    let _dialer = net.connected(&agent).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.body().len(), 20 << 20);
    let head = collected(net.ask(ask(Method::HEAD, POD).permitted()).await).await;
    assert_eq!((&head.headers()["content-length"], head.body().len()), (&1_000_000.into(), 0));
    let gone = collected(net.ask(ask(Method::DELETE, POD).permitted()).await).await;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_watch_answers_at_once_and_ends_with_trailers() {
    let net = Net::new(1);
    let (events, body) = fed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let agent = Agent::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Reply::Response(Response::new(body)) }
    });
    let _dialer = net.connected(&agent).await;
    let Reply::Response(mut watch) = net.ask(get(&format!("{PODS}?watch=1"))).await else { panic!() };
    for event in ["added", "modified"] {
        events.send(Ok(Frame::data(event.into()))).await.unwrap();
        assert_eq!(watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), event);
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    events.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    assert_eq!(watch.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    assert!(watch.body_mut().frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_breaks_at_the_other_end() {
    let net = Net::new(1);
    let agent = Agent::new(|_| async {
        let (events, body) = fed();
        tokio::spawn(async move {
            events.send(Ok(Frame::data("half".into()))).await.unwrap();
            events.send(Err("upstream broke".into())).await.unwrap();
        });
        Reply::Response(Response::new(body))
    });
    let _dialer = net.connected(&agent).await;
    let Reply::Response(response) = net.ask(get(POD)).await else { panic!() };
    assert!(response.into_body().collect().await.is_err(), "half an answer never looks whole");
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_no_faster_than_it_is_read_and_loses_its_identity_trailers() {
    let net = Net::with(1, ztka_tunnel::Settings { stream_window: 1 << 20, ..Default::default() });
    let (go, wait) = oneshot::channel();
    let wait = Arc::new(tokio::sync::Mutex::new(Some(wait)));
    let agent = Agent::new(move |request: Request<Body>| {
        let wait = wait.clone();
        async move {
            if let Some(wait) = wait.lock().await.take() {
                wait.await.unwrap();
            }
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().map(|trailers| trailers.keys().map(ToString::to_string).collect::<Vec<_>>());
            text(format!("{} {trailers:?}", body.to_bytes().len()))
        }
    });
    let _dialer = net.connected(&agent).await;
    let (taken, body) = counted(160);
    let upload = tokio::spawn(net.ask(ask(Method::POST, PODS).body(body).permitted()).then(collected));
    until("window full", || taken.load(Ordering::Relaxed) >= 16).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(taken.load(Ordering::Relaxed) <= 28, "{taken:?} × 64 KiB in flight");
    go.send(()).unwrap();
    assert_eq!(upload.await.unwrap().body(), &format!("{} None", 160 * (64 << 10)));

    let trailers = ["x-checksum", "impersonate-user", "ztka-evidence"];
    let trailers = trailers.map(|name| (name.parse().unwrap(), "x".parse().unwrap()));
    let frames = [Frame::data(Bytes::from_static(b"abc")), Frame::trailers(HeaderMap::from_iter(trailers))];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, BoxError>))).boxed_unsync();
    let answer = collected(net.ask(ask(Method::POST, PODS).body(body).permitted()).await).await;
    let left = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(!left.contains("impersonate") && !left.contains("ztka"), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_download_goes_no_faster_than_it_is_read() {
    let net = Net::with(1, ztka_tunnel::Settings { stream_window: 1 << 20, ..Default::default() });
    let (taken, body) = counted(160);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let agent = Agent::new(move |_| {
        let body = body.lock().unwrap().take();
        async { body.map_or_else(|| text("others are served"), |body| Reply::Response(Response::new(body))) }
    });
    let _dialer = net.connected(&agent).await;
    let slow = net.ask(get(POD)).await;
    until("window full", || taken.load(Ordering::Relaxed) >= 16).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(taken.load(Ordering::Relaxed) <= 28, "{taken:?} × 64 KiB in flight");
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "others are served");
    assert_eq!(collected(slow).await.body().len(), 160 * (64 << 10));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_come_before_the_upload_is_whole() {
    let net = Net::new(1);
    let agent = Agent::echo();
    let _dialer = net.connected(&agent).await;
    let (upload, body) = fed();
    let Reply::Response(mut echo) = net.ask(ask(Method::POST, PODS).body(body).permitted()).await else { panic!() };
    for part in ["one", "two", "three"] {
        upload.send(Ok(Frame::data(part.into()))).await.unwrap();
        assert_eq!(echo.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), part);
    }
    drop(upload);
    assert!(echo.body_mut().frame().await.is_none());
}

/// Says when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_agents_work() {
    let net = Net::new(1);
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let agent = Agent::new(move |request: Request<Body>| {
        let (guard, at_end) = oneshot::channel();
        sender.send(at_end).unwrap();
        async move {
            let guard = Dropped(Some(guard));
            if request.uri().query() == Some("watch=1") {
                // Headers, and then nothing for hours.
                let frames = stream::unfold(guard, |guard| async {
                    std::future::pending::<()>().await;
                    Some((Ok::<_, BoxError>(Frame::data(Bytes::new())), guard))
                });
                return Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync()));
            }
            std::future::pending::<()>().await;
            drop(guard);
            text("never")
        }
    });
    let _dialer = net.connected(&agent).await;

    let waiting = tokio::spawn(net.ask(get(POD)));
    let at_end = dropped.recv().await.unwrap();
    waiting.abort();
    tokio::time::timeout(Duration::from_secs(1), at_end).await.expect("future dropped").unwrap();

    let watch = net.ask(get(&format!("{PODS}?watch=1"))).await;
    let at_end = dropped.recv().await.unwrap();
    assert_eq!(net.proxies[0].streams(), 1);
    drop(watch);
    tokio::time::timeout(Duration::from_secs(1), at_end).await.expect("quiet body dropped").unwrap();
    assert_eq!(net.proxies[0].streams(), 0);

    // The upload goes on behind an answer that has begun; it ends with it.
    let (upload, body) = fed();
    let watch = net.ask(ask(Method::POST, &format!("{PODS}?watch=1")).body(body).permitted()).await;
    let at_end = dropped.recv().await.unwrap();
    drop(watch);
    tokio::time::timeout(Duration::from_secs(1), at_end).await.expect("dropped").unwrap();
    tokio::time::timeout(Duration::from_secs(1), upload.closed()).await.expect("upload let go");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_watches_and_then_a_get() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        if request.uri().query().is_none() {
            return text("served");
        }
        let event = stream::once(async { Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"added"))) });
        let frames = futures_util::StreamExt::chain(event, stream::pending());
        Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync()))
    });
    let _dialer = net.connected(&agent).await;
    let asked = (0..1000).map(|_| net.ask(get(&format!("{PODS}?watch=1"))));
    let watches = futures_util::future::join_all(asked).await;
    assert_eq!(net.proxies[0].streams(), 1000);
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served");
    // All clients leave at the same moment: the tunnel does not take it for an attack.
    drop(watches);
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served");
    assert_eq!(net.cables.lock().unwrap().len(), 1, "still the first connection");
}

#[tokio::test(start_paused = true)]
async fn large_header_lists_pass() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        let length: usize = request.headers().values().map(http::HeaderValue::len).sum();
        text(length.to_string())
    });
    let _dialer = net.connected(&agent).await;
    let mut asked = ask(Method::GET, POD);
    for n in 0..400 {
        let name: http::HeaderName = format!("x-header-{n}").parse().unwrap();
        asked.request.headers_mut().insert(name, "v".repeat(300).parse().unwrap());
    }
    let answer = collected(net.ask(asked.permitted()).await).await;
    assert!(String::from_utf8_lossy(answer.body()).parse::<usize>().unwrap() >= 400 * 300);
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_as_the_proxy() {
    let net = Net::new(1);
    let agent = Agent::echo();
    let _dialer = net.connected(&agent).await;
    for path in ["/.ztka/documents", "/.ztka/evidence", "/.ztka/drain"] {
        let asked = ask(Method::POST, path).body(ztka_core::body("forged"));
        assert_eq!(collected(net.ask(asked.permitted()).await).await.status(), StatusCode::NOT_FOUND);
    }
    assert!(agent.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_short_lines_nobody_reads_leaves_the_tunnel_whole() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        match request.uri().query() {
            None => text("served"),
            Some(_) => {
                let lines =
                    stream::iter((0..600_000).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"\n")))));
                Reply::Response(Response::new(StreamBody::new(lines).boxed_unsync()))
            }
        }
    });
    let _dialer = net.connected(&agent).await;
    let logs = net.ask(get(&format!("{POD}/log?follow=true"))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served");
    assert_eq!(collected(logs).await.body().len(), 600_000);
    assert_eq!(net.cables.lock().unwrap().len(), 1);
}
