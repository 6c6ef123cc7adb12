//! A client that hangs up, over HTTP/1.1 and HTTP/2, leaves a closed record.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml does not reach the helpers of a test")]

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::{body::Incoming, client::conn, server, service::service_fn as hyper_service};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use tokio::{io::duplex, sync::watch, task::JoinHandle, time::timeout};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use ztka_audit::{AuditLayer, Durability, Event, Journal, Opening, Recorder, Stage};
use ztka_core::{
    Access, Authenticated, BoxError, Evidence, Identity, Principal, Recorded, Reply, Session, SystemClock, Verified,
};

const PODS: &str = "/api/v1/namespaces/default/pods?watch=true";

/// Keeps events and wakes whoever waits for one.
#[derive(Debug)]
struct Watched(watch::Sender<Vec<Event>>);

impl Journal for Watched {
    fn open(&self, event: &Event, _: Durability) -> Opening {
        self.note(event);
        Opening::now(Ok(()))
    }

    fn note(&self, event: &Event) {
        self.0.send_modify(|events| events.push(event.clone()));
    }
}

impl Watched {
    async fn reached(&self, stage: Stage) -> Event {
        let mut events = self.0.subscribe();
        let there = events.wait_for(|events| events.iter().any(|event| event.stage == stage));
        let events = timeout(Duration::from_secs(30), there).await.expect("in time").unwrap();
        events.iter().find(|event| event.stage == stage).cloned().unwrap()
    }
}

fn identity() -> Identity {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    Identity::new(alice, "c1".parse().unwrap(), Evidence::new("evidence"))
}

/// Answers with one event and then nothing, or not at all.
async fn watch_pods(answers: bool) -> Result<Reply, Infallible> {
    if !answers {
        pending::<()>().await;
    }
    let first = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from("event\n")))]);
    let body = StreamBody::new(first.chain(stream::pending()));
    Ok(Reply::Response(Response::new(body.boxed_unsync())))
}

enum Client {
    One(conn::http1::SendRequest<Empty<Bytes>>),
    Two(conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn ask(&mut self) -> hyper::Result<Response<Incoming>> {
        let request = Request::get(PODS).header("host", "c1.kube.example.com").body(Empty::new()).unwrap();
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

/// A connection to a server whose stack is an [`AuditLayer`]; the task is the client's side of it.
async fn connect(version: Version, journal: Arc<Watched>, answers: bool) -> (Client, JoinHandle<()>) {
    let recorder = Recorder::new(journal, Arc::new(SystemClock));
    let stack = ServiceBuilder::new()
        .layer(AuditLayer::new(recorder))
        .service(service_fn(move |_: Access<Recorded, Incoming>| watch_pods(answers)));
    let service = hyper_service(move |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let access = Authenticated::assertion(identity(), &head, body);
        let reply = stack.clone().oneshot(access);
        async move {
            match reply.await {
                Ok(Reply::Response(response)) => Ok::<_, Infallible>(response),
                Ok(Reply::Upgraded { .. }) => unreachable!("nothing upgrades"),
                Err(never) => match never {},
            }
        }
    });
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(async move {
        let _ = match version {
            Version::HTTP_2 => {
                server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(far), service)
                    .await
            }
            _ => server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await,
        };
    });
    let near = TokioIo::new(near);
    if version == Version::HTTP_2 {
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), near).await.unwrap();
        (Client::Two(sender), tokio::spawn(async move { drop(connection.await) }))
    } else {
        let (sender, connection) = conn::http1::handshake(near).await.unwrap();
        (Client::One(sender), tokio::spawn(async move { drop(connection.await) }))
    }
}

fn journal() -> Arc<Watched> {
    Arc::new(Watched(watch::channel(Vec::new()).0))
}

#[tokio::test]
async fn in_the_middle_of_an_answer() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let journal = journal();
        let (mut client, connection) = connect(version, journal.clone(), true).await;
        let mut response = client.ask().await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "event\n");
        journal.reached(Stage::ResponseStarted).await;
        connection.abort();
        drop((response, client));
        let event = journal.reached(Stage::ResponseComplete).await;
        assert_eq!((event.fact("end"), event.fact("bytes-sent")), (Some("cancelled"), Some("6")), "{version:?}");
    }
}

#[tokio::test]
async fn before_there_is_an_answer() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let journal = journal();
        let (mut client, connection) = connect(version, journal.clone(), false).await;
        let asking = tokio::spawn(async move { drop(client.ask().await) });
        journal.reached(Stage::RequestReceived).await;
        connection.abort();
        asking.abort();
        let event = journal.reached(Stage::ResponseComplete).await;
        assert_eq!((event.fact("end"), &event.response_status), (Some("cancelled"), &None), "{version:?}");
    }
}
