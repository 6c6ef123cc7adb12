//! What is short to write and would be long to keep or to compare is kept short, or refused with what to do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use std::{fmt::Debug, sync::Arc};

use fixture::{allows, document, now, signed, target, user};
use jiff::Timestamp;
use serde_json::{Value, json};
use ztka_authz::{Action, Engine, InvalidPolicy, PolicyDocument, PolicySet};
use ztka_core::{Decision, ManualClock, Principal};

const MIB: u64 = 1 << 20;

/// What the work took from the allocator at its height.
fn measured<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let mut made = None;
    let used = allocation_counter::measure(|| made = Some(work()));
    (made.unwrap(), used.bytes_max)
}

fn groups(members: usize) -> Vec<Value> {
    let users = |group: usize| (0..members).map(move |n| json!({"user": format!("u{group}-{n}")})).collect::<Vec<_>>();
    let mut groups: Vec<_> = (0..20).map(|n| json!({"name": format!("g{n}"), "members": users(n)})).collect();
    let inner: Vec<_> = (0..20).map(|n| json!({"group": format!("g{n}")})).collect();
    groups.push(json!({"name": "hub", "members": inner}));
    groups
}

#[test]
fn members_are_not_multiplied_by_bindings() {
    let count = 20_000;
    let bindings: Vec<_> = (0..count)
        .map(|n| {
            json!({"name": format!("b{n}"), "subjects": [{"group": "hub"}], "role": "view", "clusters": {"ids": ["c1"]},
                   "scope": {"namespaces": [format!("n{n}")]}})
        })
        .collect();
    let denials: Vec<_> = (0..1_000)
        .map(|n| {
            json!({"name": format!("d{n}"), "subjects": [{"group": "hub"}], "except": [{"group": "g1"}, {"group": "hub-2"}],
                   "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": [format!("p{n}")]}],
                   "clusters": {"ids": ["c1"]}, "scope": "cluster"})
        })
        .collect();
    let mut groups = groups(1_000);
    groups.push(json!({"name": "hub-2", "members": [{"group": "g2"}]}));
    let rails =
        json!([{"namespaces": ["n8"], "clusters": {"all": true}, "access": "none", "except": [{"group": "hub-2"}]}]);
    let document = document(json!({
        "clusters": [{"id": "c1", "name": "prod"}], "groups": groups, "bindings": bindings, "denials": denials,
        "guardrails": {"protectedNamespaces": rails},
    }));
    document.validate().unwrap();
    let (policy, used) = measured(|| PolicySet::candidate("acme".parse().unwrap(), document.clone()).unwrap());
    assert!(used < 128 * MIB, "{used} bytes");
    let pod = |namespace, name| target("core/pods", Some(namespace), Some(name));
    for (name, groups, allowed) in [
        ("u0-7", &[][..], true),
        ("u19-999", &[], true),
        ("stranger", &["g3"], true),
        ("stranger", &["hub"], true),
        ("stranger", &["other"], false),
        ("u0-1000", &[], false),
    ] {
        let who = user(name, groups);
        assert_eq!(allows(&policy, &who, "get", pod("n19999", "web")), allowed, "{name} {groups:?}");
        assert_eq!(policy.clusters_of(&who).len(), usize::from(allowed), "{name} {groups:?}");
        // What they are denied, and what is protected from them, goes by the same groups.
        assert!(!allows(&policy, &who, "get", pod("n7", "p999")), "{name} {groups:?}");
        assert!(!allows(&policy, &who, "get", pod("n8", "web")), "{name} {groups:?}");
    }
    for (name, groups) in [("u1-1", &[][..]), ("u2-1", &[]), ("stranger", &["g1"]), ("stranger", &["g0", "g2"])] {
        assert!(allows(&policy, &user(name, groups), "get", pod("n7", "p999")), "{name} {groups:?} is excepted");
    }
    assert!(allows(&policy, &user("u2-1", &[]), "get", pod("n8", "web")), "whom it is not protected from");
    assert!(!allows(&policy, &user("u1-1", &[]), "get", pod("n8", "web")));
}

#[test]
fn who_is_in_several_groups_is_told_of_a_binding_once() {
    let policy = fixture::compiled(&document(json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "groups": [{"name": "a", "members": [{"user": "alice"}]}, {"name": "b", "members": [{"group": "a"}, {"user": "alice"}]}],
        "bindings": [{"name": "one", "subjects": [{"group": "a"}, {"group": "b"}, {"user": "alice"}], "role": "view",
                      "clusters": {"all": true}, "scope": "cluster"}],
        "denials": [{"name": "none", "subjects": [{"group": "a"}, {"group": "b"}], "clusters": {"all": true},
                     "scope": "cluster", "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}]}],
    })));
    let action = Action::new("get", target("core/pods", Some("dev"), Some("web")));
    let why = policy.explain(&user("alice", &["a", "b"]), &"c1".parse().unwrap(), &action, &now());
    let steps: Vec<_> = why.steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(steps, ["denial \"none\"", "binding \"one\", role \"view\""]);
}

fn refused(policy: &PolicyDocument, pointer: &str, says: &str) -> InvalidPolicy {
    let (refused, used) = measured(|| policy.validate().unwrap_err());
    assert!(refused.pointer().starts_with(pointer), "{}: {refused}", refused.pointer());
    assert!(refused.to_string().contains(says) && refused.to_string().contains("; "), "{refused}");
    assert!(used < 64 * MIB, "{refused}: {used} bytes");
    let (received, used) = measured(|| PolicySet::candidate("acme".parse().unwrap(), policy.clone()).unwrap_err());
    assert_eq!(received, refused);
    // The copy is of what was written down.
    assert!(used < 128 * MIB, "{refused}: {used} bytes");
    refused
}

fn selector(number: usize) -> Value {
    json!({"matchExpressions": [{"key": "stage", "operator": "NotIn", "values": [format!("v{number}")]}]})
}

#[test]
fn groups_within_each_other_without_end_are_refused_in_their_organisation_alone() {
    // Each is in all that come before it.
    let inner = |n: usize| json!({"name": format!("g{n}"), "members": [{"group": format!("g{}", n + 1)}]});
    let groups: Vec<_> = (0..3_000).map(inner).collect();
    let chain = document(json!({"clusters": [{"id": "c1", "name": "prod"}], "groups": groups}));
    refused(&chain, "/groups/", "fewer groups within each other");
    // Few groups, and everybody in each of them by way of a long chain.
    let mut groups: Vec<_> = (0..300).map(inner).collect();
    let users: Vec<_> = (0..10_000).map(|n| json!({"user": format!("u{n}")})).collect();
    groups.push(json!({"name": "g300", "members": users}));
    let many = document(json!({"clusters": [{"id": "c1", "name": "prod"}], "groups": groups}));
    refused(&many, "/groups/300/members", "group \"g300\"");

    let engine = Engine::new(Arc::new(ManualClock::at("2026-01-05T12:00:00Z".parse().unwrap())));
    let usable = fixture::gives("view", json!("cluster"));
    engine.apply(&signed(&usable, 1, Timestamp::MAX)).unwrap();
    let asks = |who: &Principal| {
        let action = Action::new("get", target("core/pods", Some("dev"), Some("web")));
        matches!(engine.review(who, &"c1".parse().unwrap(), &action), Decision::Allow(_))
    };
    let alice = user("alice", &[]);
    assert!(asks(&alice));
    assert!(engine.apply(&signed(&chain, 2, Timestamp::MAX)).is_err());
    assert!(!asks(&alice), "the one before may allow what this one takes away");
    engine.apply(&signed(&usable, 3, Timestamp::MAX)).unwrap();
    assert!(asks(&alice));
}

#[test]
fn subjects_times_clusters_times_namespaces_are_bounded() {
    let clusters: Vec<_> = (0..16).map(|n| json!({"id": format!("c{n}"), "name": format!("n{n}")})).collect();
    let names: Vec<_> = (0..16).map(|n| format!("n{n}")).collect();
    let users: Vec<_> = (0..1_000).map(|n| json!({"user": format!("u{n}")})).collect();
    let bindings = |count: usize| {
        let one = |n| {
            json!({"name": format!("b{n}"), "subjects": users, "role": "view", "clusters": {"names": names},
                   "scope": {"namespaces": names}})
        };
        document(json!({"clusters": clusters, "bindings": (0..count).map(one).collect::<Vec<_>>()}))
    };
    bindings(15).validate().unwrap();
    refused(&bindings(20), "/bindings/15", "binding \"b15\"");
}

#[test]
fn what_selectors_and_labels_reach_is_bounded() {
    let namespaces: serde_json::Map<_, _> = (0..100).map(|n| (format!("n{n}"), json!({"team": "shop"}))).collect();
    let bindings = |count: usize, scope: Value| -> Vec<Value> {
        let one = |n| {
            json!({"name": format!("b{n}"), "subjects": [{"user": "alice"}], "role": "view", "clusters": selector(n),
                   "scope": scope})
        };
        (0..count).map(one).collect()
    };
    let clusters = |count: usize, namespaces: &Value| -> Vec<Value> {
        let one = |n| json!({"id": format!("c{n}"), "name": format!("n{n}"), "namespaces": namespaces});
        (0..count).map(one).collect()
    };
    let labelled = |count: usize| {
        let scope = json!({"namespaceLabels": {"team": "shop"}});
        document(
            json!({"clusters": clusters(100, &Value::from(namespaces.clone())), "bindings": bindings(count, scope)}),
        )
    };
    refused(&labelled(430), "/bindings/419", "fewer different scopes by label");
    let reached =
        document(json!({"clusters": clusters(2_000, &json!({})), "bindings": bindings(2_200, json!("cluster"))}));
    refused(&reached, "/bindings/2097", "fewer different selectors");
    // The same over and over is one.
    let same = bindings(1, json!({"namespaceLabels": {"team": "shop"}})).remove(0);
    let again = (0..5_000).map(|n| {
        let mut binding = same.clone();
        binding["name"] = json!(format!("b{n}"));
        binding
    });
    let again = again.collect::<Vec<_>>();
    let again = document(json!({"clusters": clusters(100, &Value::from(namespaces.clone())), "bindings": again}));
    let (policy, used) = measured(|| PolicySet::candidate("acme".parse().unwrap(), again.clone()).unwrap());
    assert!(used < 64 * MIB, "{used} bytes");
    assert!(allows(&policy, &user("alice", &[]), "get", target("core/pods", Some("n99"), Some("web"))));
}

fn repeated(word: &str) -> Vec<String> {
    (0..1_000).map(|n| format!("{word}-{n}")).collect()
}

fn is_refused<T: Debug>(what: impl FnOnce() -> Result<T, ztka_authz::Excess>, says: &str) {
    let (refused, used) = measured(|| what().unwrap_err());
    assert!(refused.to_string().contains(says), "{refused}");
    assert!(used < 4 * MIB, "{used} bytes");
}

#[test]
fn a_role_is_not_multiplied_out_to_be_compared() {
    let rule = |verbs: Value| json!([{"verbs": verbs, "apiGroups": repeated("group"), "resources": repeated("kind"), "resourceNames": repeated("name")}]);
    let binding = |name: &str, who: &str, role: &str| json!({"name": name, "subjects": [{"user": who}], "role": role, "clusters": {"all": true}, "scope": "cluster"});
    let policy = document(json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "roles": [{"name": "huge", "rules": rule(json!(["get", "list"]))}, {"name": "wide", "rules": rule(json!(["*"]))}],
        "bindings": [binding("v", "vera", "view"), binding("w", "wanda", "wide"), binding("a", "admin", "cluster-admin")],
    }));
    let given = serde_json::from_value(binding("new", "bob", "huge")).unwrap();
    let may = |who: &str| policy.may_grant(&user(who, &[]), &given, Timestamp::UNIX_EPOCH);
    is_refused(|| may("vera"), "which you do not have yourself");
    is_refused(|| may("wanda"), "too much to compare");
    assert_eq!(may("admin"), Ok(()), "who has everything is compared with nothing");
}

#[test]
fn places_are_not_multiplied_out_either() {
    let names = repeated("n");
    let own: Vec<_> = (0..200)
        .map(|n| {
            json!({"name": format!("b{n}"), "subjects": [{"user": "alice"}], "role": "view", "clusters": {"names": names},
                   "scope": {"namespaces": names}})
        })
        .collect();
    let policy = document(json!({"clusters": [{"id": "c1", "name": "prod"}], "bindings": own}));
    let mut given = policy.bindings[0].clone();
    given.name = "new".into();
    is_refused(|| policy.may_grant(&user("alice", &[]), &given, Timestamp::UNIX_EPOCH), "too much to compare");
}

#[test]
fn somebody_s_groups_are_looked_up_once() {
    let policy = document(json!({"clusters": [], "groups": groups(10)}));
    let who = user("u3-3", &["dev"]);
    let membership = policy.membership(&who);
    let is_among = |group: &str| membership.is_among(&[serde_json::from_value(json!({"group": group})).unwrap()]);
    assert_eq!(["g3", "hub", "dev", "g4"].map(is_among), [true, true, true, false]);
    let g3 = ["g3".parse().unwrap()];
    let around: std::collections::BTreeSet<_> =
        policy.groups_around(&g3).into_iter().map(|name| name.as_str()).collect();
    assert_eq!(Vec::from_iter(around), ["g3", "hub"]);
}
