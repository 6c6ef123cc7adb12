//! What is rendered at a moment, and when that changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test is to panic")]

use jiff::Timestamp;
use serde_json::json;
use ztka_authz::{PolicyDocument, PolicySet};
use ztka_core::{ClusterId, OrgId, Principal, Session};

fn policy(binding: serde_json::Value) -> PolicySet {
    let mut whole = json!({
        "name": "b", "subjects": [{"user": "alice"}], "role": "view", "clusters": {"all": true},
        "scope": {"namespaces": ["dev"]},
    });
    whole.as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    let document =
        json!({"clusters": [{"id": "c1", "name": "prod", "labels": {"stage": "prod"}}], "bindings": [whole]});
    let document: PolicyDocument = serde_json::from_value(document).unwrap();
    PolicySet::candidate("acme".parse().unwrap(), document).unwrap()
}

fn alice() -> (Principal, ClusterId) {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: Vec::new(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    (Principal::new("acme".parse::<OrgId>().unwrap(), session), "c1".parse().unwrap())
}

/// What `alice` has at a time: nothing, only what everybody has, or the role.
fn at(policy: &PolicySet, time: &str) -> Option<bool> {
    let (alice, cluster) = alice();
    let rendered = policy.render_at(&alice, &cluster, time.parse().unwrap())?;
    Some(rendered.namespaces.contains_key("dev"))
}

fn next(policy: &PolicySet, time: &str) -> Option<String> {
    let (alice, cluster) = alice();
    let changes = policy.rendering_changes_after(&alice, &cluster, time.parse().unwrap());
    changes.map(|moment| moment.to_string())
}

#[test]
fn terms_begin_and_end() {
    let policy = policy(json!({"validFrom": "2026-01-05T10:00:00Z", "validUntil": "2026-01-05T11:00:00Z"}));
    for (time, role, change) in [
        ("2026-01-05T09:59:59Z", None, Some("2026-01-05T10:00:00Z")),
        ("2026-01-05T10:00:00Z", Some(true), Some("2026-01-05T11:00:00Z")),
        ("2026-01-05T11:00:00Z", None, None),
    ] {
        assert_eq!(at(&policy, time), role, "{time}");
        assert_eq!(next(&policy, time).as_deref(), change, "{time}");
    }
}

#[test]
fn outside_of_its_hours_a_binding_leaves_what_everybody_has() {
    let hours = json!({"days": ["mon", "tue"], "from": "09:00", "until": "17:00", "utcOffset": "+02:00"});
    let policy = policy(json!({"when": {"hours": hours}}));
    // 2026-01-05 is a Monday.
    for (time, role, change) in [
        ("2026-01-05T06:59:59Z", false, "2026-01-05T07:00:00Z"),
        ("2026-01-05T07:00:00Z", true, "2026-01-05T15:00:00Z"),
        ("2026-01-05T15:00:00Z", false, "2026-01-06T07:00:00Z"),
        ("2026-01-06T15:00:00Z", false, "2026-01-12T07:00:00Z"),
        // Sunday in UTC, Monday where it counts.
        ("2026-01-11T23:00:00Z", false, "2026-01-12T07:00:00Z"),
    ] {
        assert_eq!(at(&policy, time), Some(role), "{time}");
        assert_eq!(next(&policy, time).as_deref(), Some(change), "{time}");
    }
}

#[test]
fn what_no_request_can_fulfil_is_not_rendered_and_what_one_may_is() {
    let time = "2026-01-05T12:00:00Z";
    for (when, role) in [
        (json!({"clusterLabels": {"stage": "test"}}), false),
        (json!({"clusterLabels": {"stage": "prod"}}), true),
        (json!({"somethingNew": 1}), false),
        (json!({"networks": ["192.0.2.0/24"]}), true),
        (json!({"mfa": {"maxAge": "15m"}}), true),
    ] {
        let policy = policy(json!({"when": when}));
        assert_eq!(at(&policy, time), Some(role), "{when}");
        assert_eq!(next(&policy, time), None, "{when}");
    }
}
