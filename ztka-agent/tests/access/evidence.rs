//! Evidence that is held, and refusals of those whom it proves.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::SignedDuration;
use ztka_core::{DocumentKind, Evidence, Reply, body};

use crate::support::{LIST, Stage, evidence, response, text};

fn served() -> Reply {
    Reply::Response(http::Response::new(body("served")))
}

#[tokio::test]
async fn newer_evidence_of_a_certificate_takes_the_place_of_the_older() {
    let stage = Stage::set().await;
    let stack = stage.stack(served);
    let (chain, session) = (stage.chain(24 * 30).await, stage.session(12, &["ops"]).await);
    let first = stage.admit(&chain, &session);
    let other_certificate = stage.admit(&stage.chain(24).await, &session);
    stage.clock.advance(SignedDuration::from_hours(1));
    let renewed = stage.again(&session).await;
    let second = stage.admit(&chain, &renewed);

    let asked = response(stage.ask(&stack, LIST, &first).await);
    assert_eq!(
        (asked.status(), &asked.headers()["ztka-evidence"]),
        (StatusCode::UNAUTHORIZED, &"unknown".parse().unwrap())
    );
    // A proxy that has not heard of the newer one shows the older again, and neither stands in the other's way.
    stage.admit(&chain, &session);
    let whose = |evidence: &str| {
        let named = [(ztka_core::EVIDENCE.clone(), HeaderValue::try_from(evidence).unwrap())];
        stage.witness.user_of(&HeaderMap::from_iter(named)).map(|user| user.to_string())
    };
    for evidence in [&first, &second, &other_certificate] {
        assert_eq!(text(stage.ask(&stack, LIST, evidence).await).await, "served");
        assert_eq!(whose(evidence).as_deref(), Some("u1"), "one user, whatever the evidence");
    }
    assert_eq!(whose(&"0".repeat(64)), None);
}

#[tokio::test]
async fn refusals_of_somebody_proven_are_recorded_as_theirs_and_others_as_nobodys() {
    let stage = Stage::set().await;
    let stack = stage.stack(served);
    let alice = stage.alice().await;
    stage.revoke_credential().await;
    assert_eq!(response(stage.ask(&stack, LIST, &alice).await).status(), StatusCode::UNAUTHORIZED);
    let event = stage.events().pop().unwrap();
    assert_eq!((event.user.username.as_str(), event.user.uid.as_str()), ("alice", "u1"));
    assert_eq!((event.fact("org"), event.fact("credential")), (Some("acme"), Some("k1")));
    assert_eq!(event.fact("decision"), Some("deny"));

    // A name for evidence that nobody has shown proves nothing.
    let unknown = "0".repeat(64);
    assert_eq!(response(stage.ask(&stack, LIST, &unknown).await).status(), StatusCode::UNAUTHORIZED);
    let event = stage.events().pop().unwrap();
    assert_eq!((event.user.username.as_str(), event.fact("org")), ("system:anonymous", None));
}

#[tokio::test]
async fn a_proxy_cannot_fill_the_agents_memory_with_one_users_evidence() {
    let stage = Stage::set().await;
    let stack = stage.stack(served);
    let (chain, session) = (stage.chain(24).await, stage.session(12, &["ops"]).await);
    let alice = stage.admit(&chain, &session);
    let plain = evidence(&chain, &session);
    // The same once more, and once more, with spaces that make it another one: 60 MB.
    let mut padded = Vec::new();
    for spaces in 60_000..61_000 {
        let evidence = Evidence::new([&b" ".repeat(spaces)[..], &plain.bytes()[..]].concat());
        let id = evidence.id().to_string();
        let headers = HeaderMap::from_iter([(ztka_core::EVIDENCE.clone(), HeaderValue::try_from(&id).unwrap())]);
        stage.witness.admit(&headers, Bytes::copy_from_slice(evidence.bytes())).unwrap();
        padded.push(id);
    }
    let mut held = 0;
    for id in padded.iter().step_by(5) {
        held += usize::from(response(stage.ask(&stack, LIST, id).await).status() == StatusCode::OK);
    }
    assert!((20..190).contains(&held), "of every fifth, of 60 KB each: {held}");
    assert_eq!(text(stage.ask(&stack, LIST, padded.last().unwrap()).await).await, "served", "what was shown last");
    assert_eq!(text(stage.ask(&stack, LIST, &alice).await).await, "served", "and what is no larger than it has to be");
}

#[tokio::test]
async fn documents_of_other_organisations_are_none_of_an_agents_business() {
    let stage = Stage::set().await;
    let stack = stage.stack(served);
    let held = stage.documents.all().len();
    let policy = serde_json::json!({"clusters": []});
    for kind in [DocumentKind::Policy, DocumentKind::Revocations] {
        let document = stage.document_of("other", kind, &policy).await;
        assert_eq!(stage.bring(&stack, &document).await, StatusCode::FORBIDDEN, "{kind}");
    }
    assert_eq!(stage.documents.all().len(), held);
    let own = stage.document_of("acme", DocumentKind::Revocations, &serde_json::json!({})).await;
    assert_eq!(stage.bring(&stack, &own).await, StatusCode::NO_CONTENT);
    assert_eq!(stage.documents.all().len(), held + 1);
}
