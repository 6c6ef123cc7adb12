//! Whether a session is recorded: what policy says, where it can be seen to, and what reaches whoever records.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test is to panic")]

mod fixture;

use fixture::{compiled, document, now, target, user};
use serde_json::{Value, json};
use ztka_authz::{Action, PolicyDocument, Supported, Verdict};
use ztka_core::{Decision, Recording};

fn policy(record: Value) -> PolicyDocument {
    document(json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "bindings": [{
            "name": "b", "subjects": [{"user": "alice"}], "role": "edit", "clusters": {"all": true}, "scope": "cluster",
            "obligations": {"record": record},
        }]
    }))
}

/// What is granted; none if it is refused.
fn granted(record: Value, what: &str, supported: Supported) -> Option<Recording> {
    let action = Action::new("create", target(what, Some("dev"), Some("web")));
    let facts = now().supporting(supported);
    match compiled(&policy(record)).decide(&user("alice", &[]), &"c1".parse().unwrap(), &action, &facts) {
        Decision::Allow(grant) => Some(grant.recording),
        Decision::Deny(_) => None,
    }
}

#[test]
fn what_is_required_is_refused_where_nobody_sees_to_it() {
    for session in ["core/pods/exec", "core/pods/attach"] {
        for (record, alone, recorded) in [
            (json!(false), Some(Recording::Off), Recording::Off),
            (json!("off"), Some(Recording::Off), Recording::Off),
            (json!("on"), Some(Recording::On), Recording::On),
            (json!("required"), None, Recording::Required),
            (json!(true), None, Recording::Required),
        ] {
            assert_eq!(granted(record.clone(), session, Supported::WATCHED), alone, "{session} {record}");
            assert_eq!(granted(record.clone(), session, Supported::RECORDED), Some(recorded), "{session} {record}");
        }
    }
    // It is about sessions alone.
    for other in ["core/pods", "core/pods/portforward"] {
        assert_eq!(granted(json!("required"), other, Supported::WATCHED), Some(Recording::Off), "{other}");
    }
}

#[test]
fn it_is_written_so_that_older_servers_are_not_laxer() {
    for (record, written) in [(json!("required"), json!(true)), (json!(true), json!(true)), (json!("on"), json!("on"))]
    {
        let text = serde_json::to_value(policy(record.clone())).unwrap();
        assert_eq!(text["bindings"][0]["obligations"]["record"], written, "{record}");
    }
    let text = serde_json::to_value(policy(json!("off"))).unwrap();
    assert_eq!(text["bindings"][0]["obligations"].get("record"), None);
    // What is not understood gives nothing, as any obligation.
    for unknown in [json!("always"), json!(1)] {
        let document = policy(unknown);
        assert!(document.validate().is_err());
        let action = Action::new("list", target("core/pods", Some("dev"), None));
        let facts = now().supporting(Supported::ALL);
        let verdict = compiled(&document);
        let verdict = verdict.weigh(&user("alice", &[]), &"c1".parse().unwrap(), &action, &facts);
        assert!(matches!(verdict, Verdict::Deny { .. }));
    }
}
