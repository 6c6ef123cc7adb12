//! What is open through the agent ends as soon as the agent itself would not let it in again, whatever the proxy does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::SignedDuration;
use tokio::{
    io::AsyncReadExt as _,
    sync::{mpsc, oneshot},
};
use tokio_util::compat::{FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use ztka_core::{Body, BoxError, Reply};
use ztka_pki::Revocations;

use crate::support::{EXEC, LIST, Stage, WATCH, response, text};

/// An answer whose body goes on until the returned sender is dropped.
fn endless() -> (mpsc::UnboundedSender<&'static str>, Reply) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::unfold(receiver, |mut receiver: mpsc::UnboundedReceiver<&'static str>| async {
        let text = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes()))), receiver))
    });
    (sender, Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync())))
}

pub(crate) struct Stream {
    body: Body,
    feed: mpsc::UnboundedSender<&'static str>,
}

impl Stream {
    pub(crate) async fn open(stage: &Stage, target: &str, evidence: &str) -> Self {
        let (feed, reply) = endless();
        let reply = Arc::new(Mutex::new(Some(reply)));
        let stack = stage.stack(move || reply.lock().unwrap().take().unwrap());
        let answer = response(stage.ask(&stack, target, evidence).await);
        assert_eq!(answer.status(), StatusCode::OK);
        let mut stream = Self { body: answer.into_body(), feed };
        stream.goes_on().await;
        stream
    }

    pub(crate) async fn goes_on(&mut self) {
        self.feed.send("more").unwrap();
        assert_eq!(self.body.frame().await.unwrap().unwrap().into_data().unwrap(), "more");
    }

    /// With an error, so that nobody takes it for complete; its far side is let go.
    async fn ends(self, stage: &Stage) {
        self.ends_because(stage, "").await;
    }

    pub(crate) async fn ends_because(mut self, stage: &Stage, why: &str) {
        let end = tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("ended");
        let error = end.unwrap().unwrap_err().to_string();
        assert!(error.contains("the cluster's agent ended the stream") && error.contains(why), "{error}");
        self.feed.closed().await;
        assert_eq!(stage.open.streams(), 0);
    }
}

pub(crate) async fn watched() -> (Stage, String) {
    let stage = Stage::set().await;
    tokio::spawn(stage.open.clone().enforce());
    let alice = stage.alice().await;
    (stage, alice)
}

#[tokio::test]
async fn a_revoked_credential_or_a_disabled_user_ends_streams() {
    for revocations in [
        Revocations { credentials: BTreeSet::from(["k1".parse().unwrap()]), ..Revocations::default() },
        Revocations { users: BTreeSet::from(["u1".parse().unwrap()]), ..Revocations::default() },
    ] {
        for target in [WATCH, LIST] {
            let (stage, alice) = watched().await;
            let stream = Stream::open(&stage, target, &alice).await;
            stage.revoke(revocations.clone()).await;
            stream.ends(&stage).await;
        }
    }
}

#[tokio::test]
async fn a_role_taken_away_or_a_cluster_removed_ends_what_it_allowed() {
    let (stage, alice) = watched().await;
    let mut stream = Stream::open(&stage, WATCH, &alice).await;
    stage.policy(&["c1"], "view").await; // may still watch pods
    tokio::task::yield_now().await;
    stream.goes_on().await;
    stage.policy(&["c2"], "view").await;
    stream.ends(&stage).await;

    stage.policy(&["c1"], "view").await;
    let stream = Stream::open(&stage, WATCH, &alice).await;
    // The group that the role came by.
    stage.documents.accept(stage.session(12, &[]).await).unwrap();
    stream.ends(&stage).await;
}

#[tokio::test]
async fn a_session_that_was_ended_ends_streams() {
    for target in [WATCH, LIST] {
        let (stage, alice) = watched().await;
        let stream = Stream::open(&stage, target, &alice).await;
        stage.documents.accept(stage.session(-1, &["ops"]).await).unwrap();
        stream.ends(&stage).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_ends_a_session_that_is_not_renewed() {
    let (stage, alice) = watched().await;
    let mut stream = Stream::open(&stage, WATCH, &alice).await;
    stage.clock.advance(SignedDuration::from_hours(11));
    // Evidence of another request is news for the stream as well.
    stage.admit(&stage.chain(24).await, &stage.session(12, &["ops"]).await);
    stage.clock.advance(SignedDuration::from_hours(11));
    stage.policy(&["c1"], "view").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stream.goes_on().await;
    stage.clock.advance(SignedDuration::from_hours(2));
    stream.ends(&stage).await;
}

#[tokio::test]
async fn an_upgraded_connection_ends_too() {
    let (stage, alice) = watched().await;
    let (mut cluster, far) = tokio::io::duplex(1024);
    let far = Arc::new(Mutex::new(Some(far)));
    let stack = stage.stack(move || {
        let io = Box::pin(far.lock().unwrap().take().unwrap().compat());
        Reply::Upgraded { head: Response::new(()), io }
    });
    let Reply::Upgraded { io, .. } = stage.ask(&stack, EXEC, &alice).await else { panic!("not upgraded") };
    let mut io = io.compat();
    let reading = tokio::spawn(async move { io.read(&mut [0; 5]).await });
    stage.until("open", |stage| stage.open.streams() == 1).await;
    stage.revoke_credential().await;
    assert!(reading.await.unwrap().is_err());
    assert_eq!(cluster.read(&mut [0; 5]).await.unwrap(), 0, "the far side is let go");
    assert_eq!(stage.open.streams(), 0);
}

#[tokio::test]
async fn what_changes_while_a_record_is_written_counts() {
    let (stage, alice) = watched().await;
    let stack = stage.stack(|| panic!("the apiserver was asked"));
    let (written, wait) = oneshot::channel::<()>();
    stage.gate(Some(wait.map(drop).boxed().shared()));
    let stage = Arc::new(stage);
    let asked = tokio::spawn({
        let (stage, alice) = (stage.clone(), alice.clone());
        async move { stage.ask(&stack, WATCH, &alice).await }
    });
    stage.until("a record", |stage| !stage.events().is_empty()).await;
    stage.documents.accept(stage.session(-1, &["ops"]).await).unwrap();
    written.send(()).unwrap();
    let answer = asked.await.unwrap();
    assert!(text(answer).await.contains("has ended"));
    assert_eq!(stage.open.streams(), 0);
}
