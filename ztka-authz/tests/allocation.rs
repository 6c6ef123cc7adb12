//! A decision that allows takes nothing from the allocator: it is made twice for each request.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use fixture::{compiled, gives, target, user};
use serde_json::json;
use ztka_authz::{Action, Facts, PolicyDocument, Verdict};

#[test]
fn nothing_is_allocated_where_something_is_allowed() {
    let when = json!({
        "hours": {"days": ["mon"], "from": "09:00", "until": "17:00", "utcOffset": "+01:00"},
        "networks": ["192.0.2.0/24"],
        "request": [{"verbs": ["get", "create"], "apiGroups": [""], "resources": ["pods", "pods/exec"]}],
    });
    let document = gives("edit", json!({"namespaces": ["dev", "web"]}));
    let mut binding = serde_json::to_value(&document.bindings[0]).unwrap();
    binding["when"] = when;
    let conditional = PolicyDocument { bindings: vec![serde_json::from_value(binding).unwrap()], ..document.clone() };
    let (alice, cluster) = (user("alice", &["dev", "ops"]), "c1".parse().unwrap());
    let facts = Facts::at("2026-01-05T12:00:00Z".parse().unwrap()).from_source(Some("192.0.2.1".parse().unwrap()));
    // By way of groups of the policy, and of the session.
    let mut grouped = serde_json::to_value(&document).unwrap();
    grouped["groups"] = json!([{"name": "crew", "members": [{"user": "alice"}, {"group": "ops"}]},
                               {"name": "all", "members": [{"group": "crew"}]}]);
    grouped["bindings"][0]["subjects"] = json!([{"group": "all"}]);
    let grouped = serde_json::from_value(grouped).unwrap();
    for document in [document, conditional, grouped] {
        let policy = compiled(&document);
        for what in ["core/pods", "core/pods/exec"] {
            let action = Action::new("get", target(what, Some("dev"), Some("a")));
            let mut grant = None;
            let used = allocation_counter::measure(|| {
                if let Verdict::Allow { grant: granted, obligations } = policy.weigh(&alice, &cluster, &action, &facts)
                {
                    grant = Some(granted.grant(&obligations));
                }
            });
            assert!(grant.is_some(), "{what}");
            assert_eq!(used.count_total, 0, "{what}");
        }
    }
}
