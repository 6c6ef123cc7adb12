//! Policies that come, expire, fail and are waited for; the layer in front of a service.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use std::{convert::Infallible, sync::Arc, time::Duration};

use fixture::{document, gives, refusal, signed, target, user};
use http::{Request, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tower::{Layer as _, Service as _, service_fn};
use ztka_authz::{Action, AuthorizeLayer, Engine, PolicyError};
use ztka_core::{
    Access, AuditId, Authenticated, Decision, DecisionSlot, Evidence, Identity, ManualClock, Permitted, Recorded,
    Reply, Revision, Verified, empty,
};

fn expiry() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24)
}

fn engine() -> (Engine, ManualClock) {
    let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
    (Engine::new(Arc::new(clock.clone())), clock)
}

fn revision(version: u64) -> Revision {
    Revision { epoch: 1, version }
}

#[test]
fn without_a_current_policy_everything_is_denied() {
    let (engine, clock) = engine();
    let (alice, cluster) = (user("alice", &[]), "c1".parse().unwrap());
    let asks = || engine.review(&alice, &cluster, &Action::new("get", target("core/pods", Some("dev"), Some("a"))));
    assert!(refusal(asks()).contains("no policy"));
    assert!(!engine.owns(alice.org(), &cluster));
    assert!(engine.apply(&signed(&gives("view", json!("cluster")), 2, expiry())).unwrap());
    assert!(matches!(asks(), Decision::Allow(grant) if grant.policy == revision(2)));
    assert!(engine.owns(alice.org(), &cluster));
    assert!(!engine.owns(&"other".parse().unwrap(), &cluster));
    assert_eq!(engine.clusters_of(&alice).len(), 1);
    clock.advance(SignedDuration::from_hours(24));
    assert!(refusal(asks()).contains("expired"));
    assert!(!engine.owns(alice.org(), &cluster));
    assert!(engine.clusters_of(&alice).is_empty());
}

#[test]
fn an_older_policy_never_replaces_a_newer_one() {
    let (engine, _) = engine();
    assert!(engine.apply(&signed(&gives("view", json!("cluster")), 2, expiry())).unwrap());
    assert!(!engine.apply(&signed(&gives("cluster-admin", json!("cluster")), 1, expiry())).unwrap());
    assert_eq!(engine.revision(&"acme".parse().unwrap()), Some(revision(2)));
    assert!(engine.apply(&signed(&document(json!({})), 2, Timestamp::MAX)).unwrap(), "signed again");
}

#[test]
fn a_policy_that_is_not_understood_denies_instead_of_keeping_the_one_before() {
    let (engine, _) = engine();
    let (alice, cluster) = (user("alice", &[]), "c1".parse().unwrap());
    let asks = || engine.review(&alice, &cluster, &Action::new("get", target("core/pods", Some("dev"), Some("a"))));
    engine.apply(&signed(&gives("view", json!("cluster")), 1, expiry())).unwrap();
    let error = engine.apply(&signed(&json!({"guardrails": ["no pods"]}), 2, expiry())).unwrap_err();
    assert!(matches!(error, PolicyError::Unreadable(_)));
    assert!(refusal(asks()).contains("cannot be used"));
    assert!(engine.apply(&signed(&gives("view", json!("cluster")), 3, expiry())).unwrap());
    assert!(matches!(asks(), Decision::Allow(_)));
}

fn recorded(path: &str, named: Option<Revision>) -> (Access<Recorded, ()>, DecisionSlot) {
    asked(Request::get(path), named)
}

fn asked(request: http::request::Builder, named: Option<Revision>) -> (Access<Recorded, ()>, DecisionSlot) {
    let (head, ()) = request.body(()).unwrap().into_parts();
    let who = Verified::assertion(user("alice", &[]));
    let mut identity = Identity::new(who, "c1".parse().unwrap(), Evidence::new("e"));
    if let Some(named) = named {
        identity = identity.allowed_by(named);
    }
    let access = Authenticated::assertion(identity, &head, ());
    let decision = DecisionSlot::default();
    (Recorded::assertion(access, AuditId::generate(), decision.clone()), decision)
}

async fn inner(access: Access<Permitted, ()>) -> Result<Reply, Infallible> {
    let mut response = Response::new(empty());
    response.headers_mut().insert("role", access.stage().grant().role.parse().unwrap());
    Ok(Reply::Response(response))
}

fn status(reply: Reply) -> StatusCode {
    match reply {
        Reply::Response(response) => response.status(),
        Reply::Upgraded { .. } => panic!("upgraded"),
    }
}

const PODS: &str = "/api/v1/namespaces/dev/pods/a";

#[tokio::test(start_paused = true)]
async fn what_is_denied_does_not_reach_the_inner_service() {
    let (engine, _) = engine();
    engine.apply(&signed(&gives("view", json!({"namespaces": ["dev"]})), 1, expiry())).unwrap();
    let mut stack = AuthorizeLayer::new(engine).layer(service_fn(inner));
    let (access, decision) = recorded(PODS, None);
    assert_eq!(status(stack.call(access).await.unwrap()), StatusCode::OK);
    assert!(matches!(decision.get(), Some(Decision::Allow(_))));
    let (access, decision) = recorded("/api/v1/namespaces/web/pods/a", None);
    assert_eq!(status(stack.call(access).await.unwrap()), StatusCode::FORBIDDEN);
    assert!(matches!(decision.get(), Some(Decision::Deny(_))));
    let (access, _) = recorded("/api/v1/namespaces/dev/pods/a%2fb", None);
    assert_eq!(status(stack.call(access).await.unwrap()), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn asking_to_be_somebody_else_is_denied_to_every_role_and_said_so() {
    let (engine, _) = engine();
    engine.apply(&signed(&gives("cluster-admin", json!("cluster")), 1, expiry())).unwrap();
    let mut stack = AuthorizeLayer::new(engine).layer(service_fn(inner));
    for (name, value) in [("Impersonate-User", "bob"), ("Impersonate-User", ""), ("impersonate-group", "dev")] {
        let (access, decision) = asked(Request::get(PODS).header(name, value), None);
        assert_eq!(status(stack.call(access).await.unwrap()), StatusCode::FORBIDDEN);
        assert!(refusal(decision.get().unwrap().clone()).contains("impersonat"), "{name}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_behind_waits_for_the_policy_that_the_request_names() {
    let (engine, _) = engine();
    engine.apply(&signed(&gives("view", json!("cluster")), 1, expiry())).unwrap();
    let mut stack = AuthorizeLayer::new(engine.clone()).waiting(Duration::from_millis(500)).layer(service_fn(inner));

    let began = tokio::time::Instant::now();
    assert_eq!(status(stack.call(recorded(PODS, Some(revision(1))).0).await.unwrap()), StatusCode::OK);
    assert_eq!(began.elapsed(), Duration::ZERO);

    let (access, decision) = recorded(PODS, Some(revision(2)));
    assert_eq!(status(stack.call(access).await.unwrap()), StatusCode::SERVICE_UNAVAILABLE);
    assert!(matches!(decision.get(), Some(Decision::Deny(_))));
    assert!(began.elapsed() >= Duration::from_millis(500));

    let waiting = tokio::spawn(stack.call(recorded(PODS, Some(revision(2))).0));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    engine.apply(&signed(&gives("edit", json!("cluster")), 2, expiry())).unwrap();
    let Reply::Response(response) = waiting.await.unwrap().unwrap() else { panic!("upgraded") };
    assert_eq!(response.headers()["role"], "edit");
}
