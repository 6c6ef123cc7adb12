//! Streams have no limit of time: a watch may say nothing for a day, and a session too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    time::sleep,
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::{BoxError, Reply};
use ztka_proxy::{Connection, Drain, Limits, Users};

const HOST: &str = "c1.kube.example.com";
const WATCH: &str = "/api/v1/pods?watch=true";
const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=sh";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn connect(made: &Installation, users: &Users<Stack>, is_http2: bool) -> DuplexStream {
    let (cluster, certificate) = (Some("c1".parse().unwrap()), Some(made.certificate().await));
    let connection = Connection::new("192.0.2.1:4711".parse().unwrap(), Some(HOST.into()), cluster, certificate);
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(users.serve(server, is_http2, connection, Drain::default()));
    client
}

#[tokio::test(start_paused = true)]
async fn a_watch_and_a_session_may_say_nothing_for_a_day() {
    let made = installation().await;
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let (far, fed) = (Arc::new(Mutex::new(None)), feeds.clone());
    let session = far.clone();
    let users = made.users(&Limits::default(), move |request| {
        if request.uri().path().ends_with("/exec") {
            let (near, io) = tokio::io::duplex(1024);
            *session.lock().unwrap() = Some(io);
            return Reply::Upgraded { head: Response::new(()), io: Box::pin(near.compat()) };
        }
        let (feed, receiver) = mpsc::unbounded_channel::<&'static str>();
        fed.lock().unwrap().push(feed);
        let events = futures_util::stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(event.as_bytes()))), receiver))
        });
        Reply::Response(Response::new(StreamBody::new(events).boxed_unsync()))
    });
    let mut http1 = connect(&made, &users, false).await;
    http1.write_all(format!("GET {WATCH} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut piece = [0; 2048];
    let length = http1.read(&mut piece).await.unwrap();
    assert!(piece[..length].starts_with(b"HTTP/1.1 200 "));
    let io = TokioIo::new(connect(&made, &users, true).await);
    let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let watch = Request::get(format!("https://{HOST}{WATCH}")).body(Empty::<Bytes>::new()).unwrap();
    let mut http2 = sender.send_request(watch).await.unwrap().into_body();
    let mut exec = connect(&made, &users, false).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    exec.write_all(format!("GET {EXEC} HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n").as_bytes()).await.unwrap();
    let length = exec.read(&mut piece).await.unwrap();
    assert!(piece[..length].starts_with(b"HTTP/1.1 101 "));

    sleep(DAY).await;
    for feed in feeds.lock().unwrap().iter() {
        feed.send("event").unwrap();
    }
    let length = http1.read(&mut piece).await.unwrap();
    assert!(String::from_utf8_lossy(&piece[..length]).contains("event"));
    assert_eq!(http2.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
    let mut far = far.lock().unwrap().take().unwrap();
    far.write_all(b"word").await.unwrap();
    let length = exec.read(&mut piece).await.unwrap();
    assert_eq!(&piece[..length], b"word");
    exec.write_all(b"back").await.unwrap();
    let length = far.read(&mut piece).await.unwrap();
    assert_eq!(&piece[..length], b"back");
}
