//! Limits of a cluster's owner: they narrow, and say so.
#![allow(clippy::unwrap_used, reason = "a failed test is to panic")]

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use ztka_authz::{Action, Engine, Facts, LocalLimits, Target};
use ztka_core::{
    Clock as _, Decision, DocumentHeader, DocumentKind, KeyId, ManualClock, Principal, Revision, SeriesKey, Session,
    SignedDocument, Verified,
};

/// A Monday.
const NOON: &str = "2026-01-05T12:00:00Z";

fn user(name: &str) -> Principal {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: name.parse().unwrap(),
        groups: vec!["ops".parse().unwrap()],
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}

fn engine(limits: Value) -> Engine {
    let engine = Engine::new(Arc::new(ManualClock::at(NOON.parse().unwrap())));
    let policy = json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "bindings": [{"name": "all", "subjects": [{"group": "ops"}], "role": "cluster-admin",
                      "clusters": {"all": true}, "scope": "cluster"}],
    });
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse().unwrap()), subject: String::new() };
    let (revision, issued) = (Revision { epoch: 1, version: 1 }, Timestamp::UNIX_EPOCH);
    let header = DocumentHeader { series, revision, issued, expires: Timestamp::MAX };
    let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
    engine.apply(&Verified::assertion(SignedDocument::sign(header, &policy, sign).unwrap())).unwrap();
    let limits: LocalLimits = serde_json::from_value(limits).unwrap();
    engine.limit(vec![limits.compile().unwrap()]);
    engine
}

/// `verb group/resource[/subresource] [namespace]`, or `verb /path`: the refusal, if there is one.
fn refused(engine: &Engine, who: &str, question: &str) -> Option<String> {
    let mut words = question.split(' ');
    let (verb, what, namespace) = (words.next().unwrap(), words.next().unwrap(), words.next());
    let target = match what.starts_with('/') {
        true => Target::Path(what),
        false => {
            let mut parts = what.split('/');
            let group = parts.next().unwrap().trim_start_matches("core");
            let (resource, subresource) = (parts.next().unwrap(), parts.next());
            let name = (verb != "list" && verb != "watch").then_some("web");
            Target::Resource { group, resource, subresource, namespace, name }
        }
    };
    match engine.review(&user(who), &"c1".parse().unwrap(), &Action::new(verb, target)) {
        Decision::Allow(_) => None,
        Decision::Deny(reason) => Some(reason.to_string()),
    }
}

fn holds(limits: Value, name: &str, denied: &[&str], allowed: &[&str]) {
    let engine = engine(limits);
    for question in denied {
        let refusal = refused(&engine, "alice", question).unwrap_or_default();
        assert!(refusal.contains(&format!("local limit {name:?}")), "{question}: {refusal}");
    }
    for question in allowed {
        assert_eq!(refused(&engine, "alice", question), None, "{question}");
    }
}

#[test]
fn only_these_namespaces() {
    holds(
        json!({"namespaces": ["shop", "pay"]}),
        "namespaces",
        &[
            "list core/pods",
            "list core/pods other",
            "get core/nodes",
            "list core/namespaces",
            "create rbac.authorization.k8s.io/clusterroles",
            "get /metrics",
            "get /logs/kube-apiserver.log",
            "get /debug/pprof/heap",
            "post /version",
        ],
        &[
            "list core/pods shop",
            "delete apps/deployments pay",
            "get /version",
            "create authorization.k8s.io/selfsubjectaccessreviews",
        ],
    );
}

#[test]
fn nothing_is_run_in_containers() {
    holds(
        json!({"noExec": true}),
        "noExec",
        &[
            "create core/pods/exec shop",
            "get core/pods/attach shop",
            "patch core/pods/ephemeralcontainers shop",
            "create core/nodes/proxy",
        ],
        &["create core/pods/portforward shop", "get core/pods/log shop", "list core/pods"],
    );
}

#[test]
fn nobody_comes_in_at_other_hours() {
    let hours = |until: &str| json!({"hours": {"days": ["mon"], "from": "09:00", "until": until}});
    holds(hours("12:00"), "hours", &["get /version", "list core/pods shop"], &[]);
    holds(hours("12:01"), "hours", &[], &["get /version", "list core/pods shop"]);
}

#[test]
fn denials_are_about_rules_places_and_people() {
    let limits = json!({"deny": [{
        "name": "keep-secrets", "namespaces": ["pay"], "except": [{"user": "paula"}],
        "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"]}],
        "reason": "ask the payment team",
    }]});
    // Across namespaces, that one is among them.
    holds(
        limits.clone(),
        "keep-secrets",
        &["get core/secrets pay", "list core/secrets"],
        &["get core/secrets shop", "list core/pods pay"],
    );
    let engine = engine(limits);
    assert!(refused(&engine, "alice", "get core/secrets pay").unwrap().contains("ask the payment team"));
    assert_eq!(refused(&engine, "paula", "get core/secrets pay"), None);
}

#[test]
fn no_limit_gives_anything() {
    let engine = engine(json!({"namespaces": ["shop"]}));
    let nobody = Principal::new(
        "acme".parse().unwrap(),
        Session {
            user: "u2".parse().unwrap(),
            credential: "k2".parse().unwrap(),
            name: "mallory".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        },
    );
    let target =
        Target::Resource { group: "", resource: "pods", subresource: None, namespace: Some("shop"), name: None };
    let decision = engine.review(&nobody, &"c1".parse().unwrap(), &Action::new("list", target));
    assert!(matches!(&decision, Decision::Deny(reason) if reason.to_string().contains("has no role")), "{decision:?}");
    // And lifted, policy is as it was.
    engine.limit(Vec::new());
    assert_eq!(refused(&engine, "alice", "list core/pods"), None);
}

#[test]
fn what_means_nothing_definite_is_refused() {
    for (limits, problem) in [
        (json!({"namespaces": []}), "empty"),
        (json!({"namespaces": ["a*"]}), "patterns"),
        (json!({"hours": {"from": "17:00", "until": "09:00"}}), "hours"),
        (json!({"deny": [{"name": "x", "rules": []}]}), "without rules"),
        (
            json!({"deny": [{"name": "x", "rules": [{"verbs": ["*"], "nonResourceURLs": ["/"]}], "when": {"moon": "full"}}]}),
            "not understood",
        ),
    ] {
        let limits: LocalLimits = serde_json::from_value(limits.clone()).unwrap();
        let error = limits.compile().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    for limits in [json!({"namespace": ["a"]}), json!({"deny": [{"name": "x", "rule": []}]}), json!({"noExec": "yes"})]
    {
        assert!(serde_json::from_value::<LocalLimits>(limits.clone()).is_err(), "{limits}");
    }
}

#[test]
fn a_limit_holds_for_what_is_asked_with_all_its_facts() {
    let engine = engine(json!({"deny": [{
        "name": "office", "when": {"networks": ["192.0.2.0/24"]},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    }]}));
    let target =
        Target::Resource { group: "", resource: "pods", subresource: None, namespace: Some("shop"), name: None };
    let asks = |source: Option<&str>| {
        let facts = Facts::at(ManualClock::at(NOON.parse().unwrap()).now());
        let facts = facts.from_source(source.map(|source| source.parse().unwrap()));
        engine.review_with(&user("alice"), &"c1".parse().unwrap(), &Action::new("list", target), &facts)
    };
    assert!(matches!(asks(Some("192.0.2.1")), Decision::Deny(_)));
    assert!(matches!(asks(Some("198.51.100.1")), Decision::Allow(_)));
    assert!(matches!(asks(None), Decision::Deny(_)), "nobody knows from where");
}
