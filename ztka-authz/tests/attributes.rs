//! Attributes of users: whom bindings and denials that ask for them are about, in every way of asking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use std::collections::HashMap;

use fixture::{allows, asks, compiled, described, document, gives, now, refusal, signed, target, user};
use jiff::Timestamp;
use serde_json::json;
use ztka_authz::{
    Action, Engine, PolicyDocument, Subject,
    tools::{Recorded, recorded},
};
use ztka_core::{Attributes, Decision, ManualClock, Principal, RequestAttributes};

fn team(name: &str) -> Attributes {
    Attributes::from([("team".to_owned(), name.to_owned())])
}

/// Alice has a role if she is of these teams, and at one of these sites.
fn policy() -> PolicyDocument {
    let mut document = serde_json::to_value(gives("cluster-admin", json!("cluster"))).unwrap();
    document["bindings"][0]["when"] = json!({"user": {"team": ["shop", "web"], "site": ["a"]}});
    serde_json::from_value(document).unwrap()
}

#[test]
fn each_that_is_asked_for_has_to_be_one_of_its_values() {
    let policy = compiled(&policy());
    for (attributes, expected) in [
        (&[("team", "shop"), ("site", "a")][..], None),
        (&[("team", "web"), ("site", "a"), ("more", "b")], None),
        (&[], Some("another site")),
        (&[("team", "shop")], Some("another site")),
        (&[("team", "shop"), ("site", "b")], Some("another site")),
        (&[("team", "SHOP"), ("site", "a")], Some("another team")),
        (&[("team", "shop,web"), ("site", "a")], Some("another team")),
        (&[("team", ""), ("site", "a")], Some("another team")),
    ] {
        let alice = described("alice", &[], attributes);
        match (asks(&policy, &alice, "list", target("core/pods", None, None)), expected) {
            (Decision::Allow(_), None) => {}
            (denied @ Decision::Deny(_), Some(said)) => {
                let refusal = refusal(denied);
                assert!(refusal.contains(said), "{attributes:?}: {refusal}");
            }
            (decision, _) => panic!("{attributes:?}: {decision:?}"),
        }
    }
    let bob = described("bob", &[], &[("team", "shop"), ("site", "a")]);
    assert!(!allows(&policy, &bob, "list", target("core/pods", None, None)), "they are no subjects");
}

#[test]
fn a_denial_is_about_who_has_them_and_nobody_else() {
    let mut document = serde_json::to_value(gives("cluster-admin", json!("cluster"))).unwrap();
    document["denials"] = json!([{"name": "d", "clusters": {"all": true}, "scope": "cluster",
        "when": {"user": {"kind": ["contractor"]}},
        "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"]}]}]);
    let policy = compiled(&serde_json::from_value(document).unwrap());
    let secrets = target("core/secrets", Some("shop"), Some("key"));
    for (attributes, expected) in [(&[][..], true), (&[("kind", "employee")], true), (&[("kind", "contractor")], false)]
    {
        let alice = described("alice", &[], attributes);
        assert_eq!(allows(&policy, &alice, "get", secrets), expected, "{attributes:?}");
        assert!(allows(&policy, &alice, "get", target("core/pods", Some("shop"), Some("web"))));
    }
}

/// Requests, questions about oneself and explanations are decided alike, by the attributes of the session.
#[test]
fn every_way_of_asking_knows_them() {
    let engine = Engine::new(std::sync::Arc::new(ManualClock::at("2026-01-05T12:00:00Z".parse().unwrap())));
    engine.apply(&signed(&policy(), 1, Timestamp::MAX)).unwrap();
    let (head, _) = http::Request::get("/api/v1/pods").body(()).unwrap().into_parts();
    let asked = RequestAttributes::parse(&head.method, &head.uri, None).unwrap();
    let (cluster, action) = ("c1".parse().unwrap(), Action::new("list", target("core/pods", None, None)));
    for (attributes, expected) in [(&[("team", "shop"), ("site", "a")][..], true), (&[("team", "shop")], false)] {
        let alice: Principal = described("alice", &[], attributes);
        let is = |decision: Decision| matches!(decision, Decision::Allow(_));
        assert_eq!(is(engine.decide(&alice, &cluster, &asked)), expected);
        assert_eq!(is(engine.review(&alice, &cluster, &action)), expected);
        assert_eq!(is(engine.review_from(&alice, &cluster, &action, None)), expected);
        let policy = engine.policy(&"acme".parse().unwrap()).unwrap();
        assert_eq!(policy.explain(&alice, &cluster, &action, &now()).allowed, expected);
    }
}

#[test]
fn who_can_knows_those_of_users_that_it_is_told() {
    let mut document = serde_json::to_value(policy()).unwrap();
    document["bindings"][0]["subjects"] = json!([{"user": "alice"}, {"user": "bob"}, {"group": "dev"}]);
    document["bindings"][0]["when"] = json!({"user": {"team": ["shop"]}});
    let policy = compiled(&serde_json::from_value(document).unwrap());
    let (cluster, action) = ("c1".parse().unwrap(), Action::new("list", target("core/pods", None, None)));
    assert_eq!(policy.who_can(&cluster, &action, &now()), []);
    let known = HashMap::from([("alice".parse().unwrap(), team("shop")), ("bob".parse().unwrap(), team("pay"))]);
    let found = policy.who_can_of(&known, &cluster, &action, &now());
    let subjects: Vec<_> = found.into_iter().map(|one| one.subject).collect();
    assert_eq!(subjects, [Subject::User("alice".parse().unwrap())]);
}

#[test]
fn what_was_recorded_is_decided_again_by_those_of_then() {
    let with = r#""team":["shop"],"site":["a"]"#;
    let events: Vec<Recorded> = recorded(one_event("1", with).as_bytes()).unwrap();
    assert_eq!(events[0].attributes["team"], "shop");
    let without = recorded(one_event("2", "").as_bytes()).unwrap();
    let policy = compiled(&policy());
    assert_eq!(policy.simulate(&events).same, 1);
    let denied = policy.simulate(&without).newly_denied;
    assert_eq!(denied.len(), 1, "{denied:?}");
}

/// An event of alice with these attributes, who was let in.
fn one_event(id: &str, attributes: &str) -> String {
    json!({
        "auditID": id, "requestURI": "/api/v1/pods", "verb": "list",
        "user": {"username": "alice", "extra": serde_json::from_str::<serde_json::Value>(&format!("{{{attributes}}}")).unwrap()},
        "objectRef": {"resource": "pods"}, "requestReceivedTimestamp": "2026-01-05T12:00:00Z",
        "annotations": {"ztka.dev/cluster": "c1", "ztka.dev/decision": "allow"},
    })
    .to_string()
}

#[test]
fn who_lacks_them_has_nothing_to_give_on() {
    let when = json!({"user": {"team": ["shop"]}});
    let policy = document(json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "bindings": [{"name": "own", "subjects": [{"group": "dev"}], "role": "edit", "clusters": {"all": true},
                      "scope": "cluster", "when": when}],
    }));
    let now: Timestamp = "2026-01-05T00:00:00Z".parse().unwrap();
    let may = |who: &Principal, when: serde_json::Value| {
        let binding = json!({"name": "new", "subjects": [{"user": "bob"}], "role": "view", "clusters": {"all": true},
                             "scope": "cluster", "when": when});
        policy.may_grant(who, &serde_json::from_value(binding).unwrap(), now).is_ok()
    };
    let (has, lacks) = (described("alice", &["dev"], &[("team", "shop")]), user("alice", &["dev"]));
    assert!(may(&has, when.clone()), "under the same condition");
    assert!(!may(&has, json!({})), "under no other");
    assert!(!may(&lacks, when) && !may(&lacks, json!({})));
}
