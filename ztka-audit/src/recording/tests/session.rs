//! The layer: what policy says of a session is done before anything of it reaches the cluster.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, future::BoxFuture, io::Cursor};
use http::{Request, Response, StatusCode};
use tower::{Layer as _, Service, ServiceExt as _, service_fn, util::BoxCloneService};
use ztka_core::{
    Access, Authenticated, Decision, Evidence, Grant, Identity, Permitted, Principal, Recorded, Recording, Reply,
    Revision, Session, SystemClock, Verified,
};

use super::{disk::cast, *};
use crate::{AuditLayer, Event, MemoryJournal, Recorder, Stage};

const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=sh&stdin=true&stdout=true&tty=true";

fn asked(target: &str, offered: Option<&'static str>) -> Access<Authenticated, ()> {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    let identity = Identity::new(alice, "c1".parse().unwrap(), Evidence::new("evidence"));
    let (mut head, ()) = Request::get(target).body(()).unwrap().into_parts();
    if let Some(offered) = offered {
        head.headers.extend(agreed(offered));
        head.extensions.insert(Upgrade::WebSocket);
    }
    Authenticated::assertion(identity, &head, ())
}

/// The far side: says what it is given, and takes anything.
#[derive(Debug)]
struct Far(Cursor<Vec<u8>>, Arc<Mutex<Vec<u8>>>);

impl futures_io::AsyncRead for Far {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl futures_io::AsyncWrite for Far {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = buf.len().min(5);
        self.1.lock().unwrap().extend(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Policy, which says this.
#[derive(Clone)]
struct Permit(SessionRecorder<Boxed<Permitted>>, Recording);

impl Service<Access<Recorded, ()>> for Permit {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, access: Access<Recorded, ()>) -> Self::Future {
        let (binding, role) = ("b".into(), "r".into());
        let grant = Grant { binding, role, policy: Revision::default(), recording: self.1, audit: None };
        let access = Permitted::assertion(access, |_, _, _| Decision::Allow(grant)).unwrap();
        Box::pin(self.0.clone().oneshot(access))
    }
}

type Boxed<S> = BoxCloneService<Access<S, ()>, Reply, Infallible>;

struct Bench {
    _dir: tempfile::TempDir,
    recordings: Recordings,
    journal: Arc<MemoryJournal>,
    reached: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<u8>>>,
}

fn bench(options: fn(RecordingOptions) -> RecordingOptions) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let options = options(RecordingOptions::new(dir.path().join("recordings")));
    let (recordings, _) = Recordings::open(options, Arc::new(SystemClock)).unwrap();
    Bench { _dir: dir, recordings, journal: Arc::default(), reached: Arc::default(), taken: Arc::default() }
}

impl Bench {
    /// The answer to `access` if policy says `recording`, and the cluster `says` this in the protocol `agreed_on`.
    async fn call(
        &self,
        access: Access<Authenticated, ()>,
        recording: Recording,
        agreed_on: &'static str,
        says: Vec<u8>,
    ) -> Reply {
        let (reached, taken) = (self.reached.clone(), self.taken.clone());
        let cluster: Boxed<Permitted> = BoxCloneService::new(service_fn(move |_: Access<Permitted, ()>| {
            reached.fetch_add(1, Relaxed);
            let far = Far(Cursor::new(says.clone()), taken.clone());
            async move {
                if agreed_on.is_empty() {
                    return Ok(Reply::from(ztka_core::Status::new(StatusCode::NOT_FOUND, "no such pod")));
                }
                let mut head = Response::builder().status(101).body(()).unwrap();
                head.headers_mut().extend(agreed(agreed_on));
                Ok::<_, Infallible>(Reply::Upgraded { head, io: Box::pin(far) })
            }
        }));
        let recorded = RecordingLayer::new(self.recordings.clone()).layer(cluster);
        let permitting = Permit(recorded, recording);
        let recorder = Recorder::new(self.journal.clone(), Arc::new(SystemClock));
        AuditLayer::new(recorder).layer(permitting).oneshot(access).await.unwrap()
    }

    fn last(&self) -> Event {
        let event = self.journal.events().pop().unwrap();
        assert_eq!(event.stage, Stage::ResponseComplete);
        event
    }

    fn chunks(&self) -> Vec<Chunk> {
        let [(id, _)] = self.recordings.kept()[..] else { panic!("{:?}", self.recordings.kept()) };
        self.recordings.chunks(id).unwrap()
    }

    fn settled(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.recordings.kept().iter().any(|(_, over)| !over) {
            assert!(std::time::Instant::now() < end, "not over");
            std::thread::yield_now();
        }
    }
}

fn io(reply: Reply) -> ztka_core::Io {
    match reply {
        Reply::Upgraded { io, .. } => io,
        Reply::Response(response) => panic!("{:?}", response.status()),
    }
}

const V5: &str = "v5.channel.k8s.io";

#[tokio::test]
async fn a_session_passes_byte_for_byte_and_its_record_names_the_recording() {
    for recording in [Recording::On, Recording::Required] {
        let bench = bench(|options| options);
        let says = [message(1, b"$ "), message(1, b"ls\r\nfile\r\n"), message(3, NON_ZERO)].concat();
        let mut io = io(bench.call(asked(EXEC, Some(V5)), recording, V5, says.clone()).await);
        let input = [typed(4, SIZE), typed(0, b"ls\r")].concat();
        io.write_all(&input).await.unwrap();
        io.flush().await.unwrap();
        let mut heard = Vec::new();
        io.read_to_end(&mut heard).await.unwrap();
        drop(io);
        assert_eq!((heard, bench.taken.lock().unwrap().clone()), (says, input));
        let events = bench.journal.events();
        let started = events.iter().find(|event| event.stage == Stage::ResponseStarted).unwrap();
        assert_eq!(started.fact("recording"), Some("running"));
        let event = bench.last();
        bench.settled();
        let chunks = bench.chunks();
        let last = chunks.last().unwrap();
        assert_eq!(last.recording, event.audit_id);
        assert_eq!((event.fact("end"), event.fact("recording")), (Some("complete"), Some("complete")));
        assert_eq!(event.fact("recording-chunks"), Some(chunks.len().to_string().as_str()));
        assert_eq!(event.fact("recording-hash"), Some(last.hash().to_string().as_str()));
        assert_eq!(last.last.as_ref().unwrap().exit, Some(3));
        let about = chunks[0].about.as_ref().unwrap();
        assert_eq!((about.user_name.as_str(), about.pod.as_str(), about.tty), ("alice", "web", true));
        let (header, events) = read(cast(&chunks).as_bytes());
        assert_eq!((&header["term"]["cols"], &header["title"]), (&json!(77), &json!("exec default/web")));
        assert_eq!(of_code(&events, "o"), "$ ls\r\nfile\r\n");
        assert_eq!(of_code(&events, "i"), "ls\r");
    }
}

#[tokio::test]
async fn what_has_to_be_recorded_and_cannot_be_never_reaches_the_cluster() {
    let full: fn(RecordingOptions) -> RecordingOptions = |options| options.total_limit(0);
    for (options, offered) in [(full, V5), (|options| options, "channel.k8s.io")] {
        let bench = bench(options);
        let reply = bench.call(asked(EXEC, Some(offered)), Recording::Required, V5, Vec::new()).await;
        let Reply::Response(response) = reply else { panic!("let in") };
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(bench.reached.load(Relaxed), 0, "reached the cluster");
        drop(response);
        let event = bench.last();
        assert_eq!(event.fact("recording"), Some("refused"));
        assert!(event.fact("recording-reason").unwrap().contains("has to be recorded"), "{event:?}");
        // Where it need not be it goes on, on record.
        drop(bench.call(asked(EXEC, Some(offered)), Recording::On, V5, Vec::new()).await);
        assert_eq!(bench.reached.load(Relaxed), 1);
        assert_eq!(bench.last().fact("recording"), Some("failed"));
        assert!(bench.recordings.kept().is_empty());
    }
}

#[tokio::test]
async fn a_cluster_that_agrees_on_something_else_is_not_listened_to() {
    let bench = bench(|options| options);
    let reply = bench.call(asked(EXEC, Some(V5)), Recording::Required, "channel.k8s.io", Vec::new()).await;
    assert!(matches!(reply, Reply::Response(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(bench.last().fact("recording"), Some("refused"));
}

#[tokio::test]
async fn what_cannot_be_recorded_any_more_ends_with_the_reason_or_goes_on() {
    for recording in [Recording::Required, Recording::On] {
        let bench = bench(|options| options);
        let mut io = io(bench.call(asked(EXEC, Some(V5)), recording, V5, message(1, b"$ ")).await);
        io.write_all(&typed(0, b"a")).await.unwrap();
        io.flush().await.unwrap();
        let before = bench.taken.lock().unwrap().len();
        let sent = io.write_all(b"these are no frames").await;
        drop(io);
        let event = bench.last();
        assert_eq!(event.fact("recording"), Some("failed"), "{recording:?}");
        if recording == Recording::Required {
            assert!(sent.unwrap_err().to_string().contains("has to be recorded"));
            assert_eq!(bench.taken.lock().unwrap().len(), before, "sent on what is not recorded");
            assert_eq!(event.fact("end"), Some("unrecorded"));
        } else {
            sent.unwrap();
            assert_eq!(event.fact("end"), Some("cancelled"));
        }
        bench.settled();
        let chunks = bench.chunks();
        assert_eq!(chunks.last().unwrap().last.as_ref().unwrap().end, RecordingEnd::Failed);
        assert!(cast(&chunks).contains("not recorded from here on"));
    }
}

#[tokio::test]
async fn of_what_is_not_to_be_recorded_nothing_is_there() {
    let bench = bench(|options| options);
    drop(bench.call(asked(EXEC, Some(V5)), Recording::Off, V5, Vec::new()).await);
    assert_eq!(bench.last().fact("recording"), None);
    let pods = "/api/v1/namespaces/default/pods";
    drop(bench.call(asked(pods, None), Recording::Required, "", Vec::new()).await);
    assert_eq!(bench.last().fact("recording"), None);
    assert!(bench.recordings.kept().is_empty());
    // A session of which nothing has come.
    drop(bench.call(asked(EXEC, Some(V5)), Recording::Required, "", Vec::new()).await);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !bench.recordings.kept().is_empty() {
        assert!(std::time::Instant::now() < end, "it stays");
        std::thread::yield_now();
    }
    assert_eq!(bench.reached.load(Relaxed), 3);
}
