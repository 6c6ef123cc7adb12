//! Attributes of a user count for the next request, and for what is open.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use serde_json::json;
use support::*;
use ztka_core::{Attributes, BoxError, Clock as _, DocumentKind, Reply, Session};
use ztka_proxy::{Connection, Drain, Limits};

const WATCH: &str = "https://c1.kube.example.com/api/v1/pods?watch=true";
const LIST: &str = "https://c1.kube.example.com/api/v1/pods";

/// Alice's session, in which she is of this team, or of none.
async fn say(made: &Installation, team: Option<&str>) {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: team.map(|team| ("team".to_owned(), team.to_owned())).into_iter().collect::<Attributes>(),
        active_until: made.clock.now() + SignedDuration::from_hours(12),
    };
    made.document(DocumentKind::Session, Some("acme"), "k1", &session).await;
}

#[tokio::test]
async fn an_attribute_lets_in_and_its_end_ends_what_is_open() {
    let made = installation().await;
    made.enforce();
    let policy = json!({
        "clusters": [{"id": "c1", "name": "c1"}],
        "bindings": [{"name": "team", "subjects": [{"user": "alice"}], "role": "cluster-admin", "clusters": {"all": true},
                      "scope": "cluster", "when": {"user": {"team": ["shop"]}}}],
    });
    made.document(DocumentKind::Policy, Some("acme"), "", &policy).await;
    let users = made.users(&Limits::default(), |_| {
        let frames = futures_util::stream::pending::<Result<hyper::body::Frame<Bytes>, BoxError>>();
        Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync()))
    });
    let (name, cluster) = (Some("c1.kube.example.com".into()), Some("c1".parse().unwrap()));
    let connection = Connection::new("192.0.2.1:4711".parse().unwrap(), name, cluster, Some(made.certificate().await));
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    let mut ask = async |target: &str| {
        sender.send_request(Request::get(target).body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    };

    assert_eq!(ask(LIST).await.status(), StatusCode::FORBIDDEN, "the session says nothing");
    for other in [None, Some("pay")] {
        say(&made, Some("shop")).await;
        let open = ask(WATCH).await;
        assert_eq!(open.status(), StatusCode::OK);
        made.until("the watch is open", |made| made.open.streams() == 1).await;
        say(&made, other).await;
        assert!(open.into_body().frame().await.unwrap().is_err(), "ended, and not as if it were whole");
        made.until("the watch is forgotten", |made| made.open.streams() == 0).await;
        assert_eq!(ask(LIST).await.status(), StatusCode::FORBIDDEN, "{other:?}");
    }
    assert!(made.denials().iter().any(|reason| reason.contains("users with another team")), "{:?}", made.denials());
    let let_in = made.journal.events().into_iter().find(|event| event.fact("decision") == Some("allow")).unwrap();
    assert_eq!(let_in.user.extra["team"], ["shop"], "on record with the request");
}
