//! What is open ends as soon as it would no longer be let in.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use support::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Notify, mpsc},
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_audit::{Durability, Event, Journal, Opening, Recorder};
use ztka_core::{BoxError, Clock, Reply};
use ztka_proxy::{Connection, Drain, Limits};

/// For what happens within milliseconds.
const BOUND: Duration = Duration::from_secs(10);
const WATCH: &str = "https://c1.kube.example.com/api/v1/pods?watch=true";
const DOWNLOAD: &str = "https://c1.kube.example.com/api/v1/pods";

/// An answer whose body goes on until the returned sender is dropped.
fn endless() -> (mpsc::UnboundedSender<&'static str>, Reply) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::unfold(receiver, |mut receiver: mpsc::UnboundedReceiver<&'static str>| async {
        let text = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes()))), receiver))
    });
    (sender, Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync())))
}

/// An open answer at alice, and the sender that feeds it.
async fn open(made: &Installation, target: &str) -> (Incoming, mpsc::UnboundedSender<&'static str>) {
    let (feed, reply) = endless();
    let reply = Mutex::new(Some(reply));
    let users = made.users(&Limits::default(), move |_| reply.lock().unwrap().take().unwrap());
    let connection = connection(made).await;
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::get(target).body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    feed.send("first").unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    (body, feed)
}

async fn connection(made: &Installation) -> Connection {
    let certificate = Some(made.certificate().await);
    let name = Some("c1.kube.example.com".into());
    Connection::new("192.0.2.1:4711".parse().unwrap(), name, Some("c1".parse().unwrap()), certificate)
}

/// The stream ends with an error, so that nobody takes it for complete, and its far side is let go.
async fn ends(mut body: Incoming, feed: mpsc::UnboundedSender<&'static str>, made: &Installation) {
    assert!(body.frame().await.unwrap().is_err());
    feed.closed().await;
    made.until("the stream is forgotten", |made| made.open.streams() == 0).await;
}

#[tokio::test]
async fn a_revoked_credential_ends_its_streams() {
    let made = installation().await;
    made.enforce();
    let (body, feed) = open(&made, WATCH).await;
    made.revoke("k1").await;
    ends(body, feed, &made).await;
}

#[tokio::test]
async fn what_changed_before_anybody_watched_counts_too() {
    let made = installation().await;
    let (body, feed) = open(&made, WATCH).await;
    made.session("acme", "u1", "k1", "alice", -1).await;
    made.enforce();
    tokio::time::timeout(BOUND, ends(body, feed, &made)).await.expect("the stream goes on");
}

/// Ids are made by the controller; whoever has stolen an organisation's issuer makes them up.
#[tokio::test]
async fn a_session_in_use_is_nobody_elses_of_the_same_ids_in_another_organisation() {
    let made = installation().await;
    let (_body, _feed) = open(&made, WATCH).await;
    let (_, issued) = made.user("globex", "u1", "k1", 30).await;
    let chain: Vec<_> = issued.chain().to_vec();
    let peer = made.documents.trust().identify(ztka_pki::Purpose::Users, &chain).unwrap();
    let theirs = Some(ztka_proxy::Certificate { peer, chain });
    let (name, cluster) = (Some("c1.kube.example.com".into()), Some("c1".parse().unwrap()));
    let connection = Connection::new("192.0.2.2:4711".parse().unwrap(), name, cluster, theirs);
    let users = made.users(&Limits::default(), |_| ok("acme's"));
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::get(DOWNLOAD).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(made.sent().len(), 1);
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_streams() {
    let made = installation().await;
    made.enforce();
    for target in [WATCH, DOWNLOAD] {
        let (body, feed) = open(&made, target).await;
        made.session("acme", "u1", "k1", "alice", -1).await;
        ends(body, feed, &made).await;
        made.session("acme", "u1", "k1", "alice", 12).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_ends_a_session_that_is_not_renewed() {
    let made = installation().await;
    made.enforce();
    let (mut body, feed) = open(&made, WATCH).await;
    made.clock.advance(SignedDuration::from_hours(11));
    made.session("acme", "u1", "k1", "alice", 12).await;
    made.clock.advance(SignedDuration::from_hours(11));
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    feed.send("second").unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "second");
    made.clock.advance(SignedDuration::from_hours(2));
    ends(body, feed, &made).await;
}

#[tokio::test]
async fn a_role_taken_away_or_a_cluster_removed_ends_what_it_allowed() {
    let made = installation().await;
    made.enforce();
    let (mut body, feed) = open(&made, WATCH).await;
    made.policy("acme", &["c1", "c2"], "view").await; // may still watch pods
    tokio::task::yield_now().await;
    feed.send("second").unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "second");
    made.policy("acme", &["c2"], "cluster-admin").await;
    ends(body, feed, &made).await;
}

#[tokio::test]
async fn an_upgraded_connection_ends_too() {
    let made = installation().await;
    made.enforce();
    let (mut cluster, far) = tokio::io::duplex(1024);
    let io = Mutex::new(Some(far));
    let users = made.users(&Limits::default(), move |_| {
        let io = Box::pin(io.lock().unwrap().take().unwrap().compat());
        Reply::Upgraded { head: Response::new(()), io }
    });
    let connection = connection(&made).await;
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, false, connection, Drain::default()).await });
    let head = "GET /api/v1/namespaces/default/pods/web/exec?command=sh HTTP/1.1\r\nHost: c1.kube.example.com\r\n\
                Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut early = [0; 5];
    cluster.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    made.revoke("k1").await;
    assert_eq!(cluster.read(&mut early).await.unwrap(), 0);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&rest));
    made.until("the stream is forgotten", |made| made.open.streams() == 0).await;
}

/// A disk that takes its time: a record is there when the test says so.
#[derive(Clone, Debug, Default)]
struct SlowJournal {
    begun: Arc<Notify>,
    synced: Arc<Notify>,
}

impl Journal for SlowJournal {
    fn open(&self, _: &Event, _: Durability) -> Opening {
        self.begun.notify_one();
        let synced = self.synced.clone();
        Opening::later(async move {
            synced.notified().await;
            Ok(())
        })
    }

    fn note(&self, _: &Event) {}
}

#[tokio::test]
async fn what_changes_while_a_record_is_synced_counts_for_the_stream_it_opens() {
    let journal = SlowJournal::default();
    let made = installation().await;
    let recorder = Recorder::new(Arc::new(journal.clone()), Arc::new(made.clock.clone()) as Arc<dyn Clock>);
    let made = Installation { recorder, ..made };
    made.enforce();
    for (target, code, change) in [
        (WATCH, 401, "the session ends"),
        (DOWNLOAD, 401, "the session ends"),
        (WATCH, 403, "the user has another name, which no binding names"),
        (WATCH, 200, "nothing"),
    ] {
        let users = made.users(&Limits::default(), |_| ok("first"));
        let connection = connection(&made).await;
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
        tokio::spawn(driver);
        let request = Request::get(target).body(Empty::<Bytes>::new()).unwrap();
        let asked = tokio::spawn(sender.send_request(request));
        journal.begun.notified().await;
        match change {
            "the session ends" => made.session("acme", "u1", "k1", "alice", -1).await,
            "nothing" => {}
            _ => made.session("acme", "u1", "k1", "bob", 12).await,
        }
        // What is open is reviewed now, and the stream is not open yet.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        journal.synced.notify_one();
        let response = asked.await.unwrap().unwrap();
        assert_eq!(response.status(), code, "{target}: {change}");
        assert_eq!(made.sent().len(), usize::from(code == 200), "{target}: {change}");
        made.session("acme", "u1", "k1", "alice", 12).await;
    }
}

#[tokio::test]
async fn a_stream_ends_when_it_has_lasted_as_long_as_policy_lets_it() {
    let made = installation().await;
    let policy = serde_json::json!({
        "clusters": [{"id": "c1", "name": "c1"}],
        "bindings": [{
            "name": "team", "subjects": [{"user": "alice"}], "role": "view", "clusters": {"all": true},
            "scope": "cluster", "obligations": {"maxDuration": "1h"},
        }],
    });
    made.document(ztka_core::DocumentKind::Policy, Some("acme"), "", &policy).await;
    made.enforce();
    let (mut body, feed) = open(&made, WATCH).await;
    made.clock.advance(SignedDuration::from_mins(59));
    feed.send("more").unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "more");
    made.clock.advance(SignedDuration::from_mins(1));
    tokio::time::timeout(BOUND, ends(body, feed, &made)).await.expect("the stream goes on");
}
