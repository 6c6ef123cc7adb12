//! Whatever becomes of a request, its record is opened first and closed once.

use std::{
    convert::Infallible,
    future::pending,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _,
    io::Cursor,
    stream::{self, BoxStream},
};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use tower::{ServiceExt as _, service_fn};
use ztka_core::{
    AuditId, Body, BoxError, Caller, Evidence, Identity, ManualClock, Principal, Reason, Refusal, RefusalSink as _,
    Session, Upgrade, Verified, body,
};

use super::*;
use crate::{Event, Journal, MemoryJournal, Stage, ports::tests as ports};

mod levels;

const POD: &str = "/api/v1/namespaces/default/pods/web";

fn alice() -> Verified<Principal> {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: vec!["dev".parse().unwrap()],
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    Verified::assertion(Principal::new("acme".parse().unwrap(), session))
}

fn identity() -> Identity {
    Identity::new(alice(), "c1".parse().unwrap(), Evidence::new("evidence"))
}

fn asked(target: &str) -> Access<Authenticated, ()> {
    let (head, ()) = Request::get(target).header("user-agent", "kubectl/v1").body(()).unwrap().into_parts();
    Authenticated::assertion(identity().from_source(Some([192, 0, 2, 7].into())), &head, ())
}

fn exec() -> Access<Authenticated, ()> {
    let target = format!("{POD}/exec?command=sh&command=-c&command=id&container=app&stdin=true");
    let (mut head, ()) = Request::get(target).body(()).unwrap().into_parts();
    head.extensions.insert(Upgrade::WebSocket);
    Authenticated::assertion(identity(), &head, ())
}

struct Bench {
    journal: Arc<MemoryJournal>,
    clock: ManualClock,
    recorder: Recorder,
}

fn bench() -> Bench {
    let journal = Arc::new(MemoryJournal::default());
    let clock = ManualClock::at("2025-01-02T03:04:05Z".parse().unwrap());
    let recorder = Recorder::new(journal.clone(), Arc::new(clock.clone()));
    Bench { journal, clock, recorder }
}

impl Bench {
    async fn call<F>(
        &self,
        access: Access<Authenticated, ()>,
        answer: impl FnOnce(AuditId) -> F + Clone + Send + 'static,
    ) -> Result<Reply, BoxError>
    where
        F: Future<Output = Result<Reply, BoxError>> + Send,
    {
        let inner = service_fn(move |access: Access<Recorded, ()>| {
            let answer = answer.clone();
            async move {
                // The record's id is known to the stage below only once it is permitted; here the layer's is read back.
                let id = format!("{:?}", access.stage());
                let id = id.split("AuditId(").nth(1).and_then(|rest| rest.split(')').next()).unwrap().to_owned();
                answer(AuditId::parse(&id).unwrap()).await
            }
        });
        AuditLayer::new(self.recorder.clone()).layer(inner).oneshot(access).await
    }

    fn stages(&self) -> Vec<Stage> {
        self.journal.events().iter().map(|event| event.stage).collect()
    }

    fn last(&self) -> Event {
        self.journal.events().pop().unwrap()
    }

    fn end(&self) -> String {
        assert_eq!(self.last().stage, Stage::ResponseComplete);
        self.last().fact("end").unwrap().to_owned()
    }
}

fn streamed(frames: BoxStream<'static, Result<Frame<Bytes>, BoxError>>) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

#[tokio::test]
async fn says_who_what_when_and_how_it_ended() {
    let bench = bench();
    let clock = bench.clock.clone();
    let reply = bench
        .call(asked(&format!("{POD}?pretty=true")), async move |_| {
            clock.advance(jiff::SignedDuration::from_millis(1500));
            Ok(Reply::Response(Response::new(body("hello"))))
        })
        .await
        .unwrap();
    let Reply::Response(response) = reply else { panic!() };
    let id = response.headers()["audit-id"].to_str().unwrap().to_owned();
    assert_eq!(bench.stages(), [Stage::RequestReceived], "closed before it ended");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(bench.stages(), [Stage::RequestReceived, Stage::ResponseComplete]);
    let event = bench.last();
    assert_eq!(event.audit_id.to_string(), id);
    assert_eq!((event.user.username.as_str(), event.user.uid.as_str()), ("alice", "u1"));
    assert_eq!((event.user.groups.as_slice(), event.verb.as_str()), (["dev".to_owned()].as_slice(), "get"));
    assert_eq!(event.object_ref.as_ref().unwrap().name, "web");
    assert_eq!(event.request_uri, format!("{POD}?pretty=true"));
    assert_eq!(event.user_agent, "kubectl/v1");
    assert_eq!(event.source_ips, [std::net::IpAddr::from([192, 0, 2, 7])]);
    assert_eq!(event.response_status.as_ref().unwrap().code, 200);
    for (name, value) in [
        ("org", "acme"),
        ("cluster", "c1"),
        ("credential", "k1"),
        ("bytes-sent", "5"),
        ("duration", "1.500000"),
        ("end", "complete"),
    ] {
        assert_eq!(event.fact(name), Some(value), "{name}");
    }
    assert_eq!(event.fact("source"), None);
    assert_eq!(event.fact("reached"), None);
}

#[tokio::test]
async fn the_far_sides_audit_id_says_that_it_was_reached() {
    let bench = bench();
    let answer = async |id: AuditId| {
        Ok(Reply::Response(Response::builder().header("audit-id", id.to_string()).body(body("")).unwrap()))
    };
    drop(bench.call(asked(POD), answer).await.unwrap());
    assert_eq!(bench.last().fact("reached"), Some("true"));

    let answer =
        async |_| Ok(Reply::Response(Response::builder().header("audit-id", "another").body(body("")).unwrap()));
    let Reply::Response(response) = bench.call(asked(POD), answer).await.unwrap() else { panic!() };
    assert_eq!(response.headers().get_all("audit-id").iter().count(), 1);
    drop(response);
    assert_eq!(bench.last().fact("reached"), None);
}

#[tokio::test]
async fn an_agent_keeps_the_proxys_id() {
    let bench = bench();
    let id = AuditId::generate();
    let (head, ()) = Request::get(POD).body(()).unwrap().into_parts();
    let identity = identity().recorded_as(id).from_source(Some([192, 0, 2, 7].into()));
    let answer = async |_| Ok(Reply::Response(Response::new(body(""))));
    drop(bench.call(Authenticated::assertion(identity, &head, ()), answer).await.unwrap());
    assert!(bench.journal.events().iter().all(|event| event.audit_id == id));
    assert_eq!(bench.last().fact("source"), Some("asserted"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_is_closed() {
    let bench = bench();
    let call = bench.call(asked(POD), |_| pending());
    assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
    assert_eq!(bench.stages(), [Stage::RequestReceived, Stage::ResponseComplete]);
    assert_eq!(bench.end(), "cancelled");
    assert_eq!(bench.last().response_status, None);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_watch_is_seen() {
    let bench = bench();
    let answer = async |_| {
        let first = stream::iter([Ok(Frame::data(Bytes::from("event\n")))]);
        Ok(Reply::Response(Response::new(streamed(first.chain(stream::pending()).boxed()))))
    };
    let target = "/api/v1/namespaces/default/pods?watch=true";
    let Reply::Response(response) = bench.call(asked(target), answer).await.unwrap() else { panic!() };
    assert_eq!(bench.stages(), [Stage::RequestReceived, Stage::ResponseStarted]);
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(bench.end(), "cancelled");
    assert_eq!(bench.last().fact("bytes-sent"), Some("6"));
}

#[tokio::test]
async fn errors_and_panics_close_the_record() {
    let bench = bench();
    assert!(bench.call(asked(POD), async |_| Err("no tunnel".into())).await.is_err());
    assert_eq!(bench.end(), "failed");

    let answer = async |_| {
        let broken = stream::iter([Ok(Frame::data(Bytes::from("x"))), Err("reset".into())]);
        Ok(Reply::Response(Response::new(streamed(broken.boxed()))))
    };
    let Reply::Response(response) = bench.call(asked(POD), answer).await.unwrap() else { panic!() };
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(bench.end(), "failed");

    let call = bench.call(asked(POD), async |_| panic!("on purpose"));
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!((bench.last().stage, bench.last().fact("end")), (Stage::Panic, Some("panicked")));
}

#[tokio::test]
async fn a_body_of_known_length_is_complete_when_that_much_was_sent() {
    let bench = bench();
    let answer = async |_| {
        let all = stream::iter([Ok(Frame::data(Bytes::from("hello")))]).chain(stream::pending());
        Ok(Reply::Response(Response::builder().header("content-length", 5).body(streamed(all.boxed())).unwrap()))
    };
    let Reply::Response(response) = bench.call(asked(POD), answer).await.unwrap() else { panic!() };
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body); // as a server does that has written what it announced
    assert_eq!(bench.end(), "complete");
}

#[tokio::test]
async fn an_unrecorded_request_goes_nowhere() {
    let bench = bench();
    bench.journal.set_full(true);
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    let answer = async move |_| {
        count.fetch_add(1, Relaxed);
        Ok(Reply::Response(Response::new(body(""))))
    };
    let Reply::Response(response) = bench.call(asked(POD), answer).await.unwrap() else { panic!() };
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let json = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&json).contains("the journal is full"));
    assert_eq!(reached.load(Relaxed), 0);
    assert_eq!(bench.stages(), [Stage::ResponseComplete]);
    assert_eq!(bench.last().fact("decision"), Some("deny"));
    assert_eq!(bench.last().response_status.unwrap().code, 503);
}

#[tokio::test]
async fn malformed_requests_are_recorded_as_received() {
    let bench = bench();
    let target = "/api/v1/namespaces//secrets?token=s3cret";
    drop(bench.call(asked(target), async |_| Ok(Reply::Response(Response::new(body(""))))).await);
    let event = bench.last();
    assert_eq!(event.request_uri, "/api/v1/namespaces//secrets?token=REDACTED");
    assert_eq!((event.verb.as_str(), event.object_ref.is_none()), ("", true));
}

fn port_forward(upgrade: Upgrade) -> Access<Authenticated, ()> {
    let method = if upgrade == Upgrade::Spdy31 { Method::POST } else { Method::GET };
    let request = Request::builder().method(method).uri(format!("{POD}/portforward?ports=1")).body(()).unwrap();
    let (mut head, ()) = request.into_parts();
    head.extensions.insert(upgrade);
    Authenticated::assertion(identity(), &head, ())
}

#[tokio::test]
async fn a_spdy_retry_names_the_try_by_websocket_that_was_not_granted() {
    let bench = bench();
    async fn forbidden(_: AuditId) -> Result<Reply, BoxError> {
        Ok(Reply::from(ztka_core::Status::new(StatusCode::FORBIDDEN, "no")))
    }
    let ask = async |upgrade| {
        let reply = bench.call(port_forward(upgrade), forbidden).await.unwrap();
        let event = bench.last(); // on record before the answer is read: kubectl is quick
        drop(reply);
        (event.audit_id, event.fact("retry-of").map(str::to_owned))
    };
    let (first, of) = ask(Upgrade::WebSocket).await;
    assert_eq!(of, None);
    // Another one, of the same user, for something else.
    drop(bench.call(exec(), forbidden).await);
    let (retry, of) = ask(Upgrade::Spdy31).await;
    assert_eq!(of, Some(first.to_string()));
    assert!(
        bench
            .journal
            .events()
            .iter()
            .filter(|event| event.audit_id == retry)
            .all(|event| { event.fact("retry-of") == of.as_deref() })
    );
    assert_eq!(ask(Upgrade::Spdy31).await.1, None, "a second one is none");

    // One that failed, too; but none that was granted.
    assert!(bench.call(port_forward(Upgrade::WebSocket), async |_| Err("no tunnel".into())).await.is_err());
    let failed = bench.last().audit_id;
    assert_eq!(ask(Upgrade::Spdy31).await.1, Some(failed.to_string()));
    drop(forwarding(&bench, Upgrade::WebSocket).await);
    assert_eq!(ask(Upgrade::Spdy31).await.1, None);
}

#[tokio::test]
async fn a_request_that_was_sent_twice_says_so() {
    let bench = bench();
    for twice in [true, false] {
        let answer = async move |_| {
            let mut response = http::Response::new(ztka_core::empty());
            if twice {
                response.extensions_mut().insert(ztka_core::SentTwice);
            }
            Ok(Reply::Response(response))
        };
        drop(bench.call(exec(), answer).await.unwrap());
        assert_eq!(bench.last().fact("sent-twice"), twice.then_some("true"));
    }
}

/// Takes a few bytes at a time, and every second time none at all.
#[derive(Debug, Default)]
struct Slow(Arc<Mutex<Vec<u8>>>, bool);

impl futures_io::AsyncRead for Slow {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
}

impl futures_io::AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = buf.len().min(5);
        self.0.lock().unwrap().extend(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn forwarding(bench: &Bench, upgrade: Upgrade) -> (ztka_core::Io, Arc<Mutex<Vec<u8>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let far = taken.clone();
    let answer = async move |_| {
        let mut head = Response::builder().status(101).body(()).unwrap();
        head.headers_mut().extend(ports::tunnelled());
        Ok(Reply::Upgraded { head, io: Box::pin(Slow(far, false)) })
    };
    match bench.call(port_forward(upgrade), answer).await.unwrap() {
        Reply::Upgraded { io, .. } => (io, taken),
        Reply::Response(_) => panic!("not upgraded"),
    }
}

#[tokio::test]
async fn ports_are_on_record_before_they_are_opened() {
    let spdy = ports::forward(&["8080", "22", "8080"]);
    for (upgrade, all) in [(Upgrade::Spdy31, spdy.clone()), (Upgrade::WebSocket, ports::messages(&spdy, 50))] {
        let bench = bench();
        let (mut io, taken) = forwarding(&bench, upgrade).await;
        assert_eq!(bench.stages(), [Stage::RequestReceived, Stage::ResponseStarted]);
        assert_eq!(bench.last().fact("ports"), None, "{upgrade:?}: what the request says is not what is opened");
        let mut seen = Vec::new();
        for piece in all.chunks(7) {
            io.write_all(piece).await.unwrap();
            seen.push(bench.last().fact("ports").map(str::to_owned));
        }
        io.flush().await.unwrap();
        assert_eq!(*taken.lock().unwrap(), all, "{upgrade:?}: not one byte is changed");
        seen.dedup();
        assert_eq!(seen, [None, Some("8080".into()), Some("8080,22".into())], "{upgrade:?}");
        drop(io);
        assert_eq!(bench.stages()[2..], [Stage::ResponseStarted, Stage::ResponseStarted, Stage::ResponseComplete]);
        let event = bench.last();
        assert_eq!(event.fact("ports"), Some("8080,22"), "{upgrade:?}");
        assert_eq!(event.fact("bytes-received"), Some(all.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_port_forward_that_cannot_be_recorded_ends_before_it_goes_on() {
    let bench = bench();
    let (mut io, taken) = forwarding(&bench, Upgrade::Spdy31).await;
    let good = ports::forward(&["8080"]);
    io.write_all(&good).await.unwrap();
    io.flush().await.unwrap();
    assert!(io.write_all(&ports::opens(&[&[("streamtype", "data")]])).await.is_err());
    assert!(io.write_all(&good).await.is_err(), "goes on");
    assert_eq!(*taken.lock().unwrap(), good, "sent on what is not on record");
    drop(io);
    assert_eq!(bench.end(), "unrecorded");
    let event = bench.last();
    assert_eq!(event.fact("ports"), Some("8080"));
    assert!(event.fact("reason").unwrap().contains("port"), "{event:?}");
}

/// The far side of an upgraded connection: says hello, takes anything, may be reset.
#[derive(Debug)]
struct Far(Cursor<Vec<u8>>, bool);

impl futures_io::AsyncRead for Far {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.1 && self.0.position() == 5 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl futures_io::AsyncWrite for Far {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn upgraded(bench: &Bench, reset: bool) -> ztka_core::Io {
    let answer = async move |_| {
        let head = Response::builder().status(101).body(()).unwrap();
        Ok(Reply::Upgraded { head, io: Box::pin(Far(Cursor::new(b"hello".to_vec()), reset)) })
    };
    match bench.call(exec(), answer).await.unwrap() {
        Reply::Upgraded { io, .. } => io,
        Reply::Response(_) => panic!("not upgraded"),
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_recorded_to_its_end() {
    let bench = bench();
    let mut io = upgraded(&bench, false).await;
    assert_eq!(bench.stages(), [Stage::RequestReceived, Stage::ResponseStarted]);
    assert_eq!(bench.last().response_status.unwrap().code, 101);
    io.write_all(b"ls\n").await.unwrap();
    io.close().await.unwrap(); // half-close: the far side may still talk
    assert_eq!(bench.journal.events().len(), 2, "closed before it ended");
    io.read_to_end(&mut Vec::new()).await.unwrap();
    drop(io);
    assert_eq!(bench.end(), "complete");
    let event = bench.last();
    for (name, value) in [
        ("bytes-sent", "5"),
        ("bytes-received", "3"),
        ("command", r#"["sh","-c","id"]"#),
        ("container", "app"),
        ("protocol", "websocket"),
    ] {
        assert_eq!(event.fact(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_that_is_cut_or_reset_is_closed() {
    let bench = bench();
    drop(upgraded(&bench, false).await);
    assert_eq!(bench.end(), "cancelled");

    let mut io = upgraded(&bench, true).await;
    assert!(io.read_to_end(&mut Vec::new()).await.is_err());
    drop(io);
    assert_eq!(bench.end(), "failed");
}

#[test]
fn refusals_before_a_record_are_events_counted_and_bounded() {
    let bench = bench();
    let reason = Reason::Unauthenticated("log in again".into());
    let target = "/api?token=s3cret".parse().unwrap();
    let refuse = |last: u8| {
        let source = Some([192, 0, 2, last].into());
        bench.recorder.refused(Refusal { target: Some(&target), source, principal: None, reason: &reason });
    };
    (0..1000).for_each(|_| refuse(1));
    assert_eq!(bench.recorder.refusals(), 1000);
    assert_eq!(bench.recorder.suppressed_refusals(), 980);
    assert_eq!(bench.journal.events().len(), 20);
    let event = bench.last();
    assert_eq!(event.response_status.as_ref().unwrap().code, 401);
    assert_eq!(event.request_uri, "/api?token=REDACTED");
    assert_eq!((event.user.username.as_str(), event.fact("decision")), ("system:anonymous", Some("deny")));
    // Somebody else is heard all the same, and later the first one again.
    refuse(2);
    assert_eq!(bench.journal.events().len(), 21);
    bench.clock.advance(jiff::SignedDuration::from_secs(1));
    refuse(1);
    assert_eq!(bench.last().fact("suppressed"), Some("980"));
}

#[test]
fn refusals_of_somebody_known_are_theirs_and_not_hidden_by_strangers() {
    let bench = bench();
    let reason = Reason::Misdirected("there is no such cluster in your organisation");
    let source = Some([192, 0, 2, 1].into());
    let refuse = |principal: Option<&Caller>| {
        bench.recorder.refused(Refusal { target: None, source, principal, reason: &reason });
    };
    (0..100).for_each(|_| refuse(None));
    let written = bench.journal.events().len();
    refuse(Some(&Caller::Principal(alice())));
    let event = bench.last();
    assert_eq!((event.user.username.as_str(), event.user.uid.as_str()), ("alice", "u1"));
    assert_eq!((event.fact("org"), event.fact("credential")), (Some("acme"), Some("k1")));

    let certificate = "spiffe://example.com/org/acme/user/u1/credential/k1".parse().unwrap();
    refuse(Some(&Caller::Certificate(Verified::assertion(certificate))));
    let event = bench.last();
    assert_eq!((event.user.username.as_str(), event.user.uid.as_str()), ("org/acme/user/u1/credential/k1", "u1"));
    assert_eq!((event.fact("org"), event.fact("credential")), (Some("acme"), Some("k1")));
    assert_eq!(bench.journal.events().len(), written + 2);
}

#[tokio::test]
async fn what_waits_for_its_journal_is_not_let_through() {
    #[derive(Debug)]
    struct Never;
    impl Journal for Never {
        fn open(&self, _: &Event, _: crate::Durability) -> crate::Opening {
            crate::Opening::later(pending())
        }

        fn note(&self, _: &Event) {}
    }
    let recorder = Recorder::new(Arc::new(Never), Arc::new(ztka_core::SystemClock));
    let inner = service_fn(async |_: Access<Recorded, ()>| -> Result<Reply, Infallible> { panic!("let through") });
    let call = AuditLayer::new(recorder).layer(inner).oneshot(asked(POD));
    assert!(call.now_or_never().is_none());
}
