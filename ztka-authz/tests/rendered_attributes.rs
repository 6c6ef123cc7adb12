//! What is rendered for somebody goes by their attributes: never more than policy gives somebody who has these.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;
mod generated;

use fixture::{compiled, described, document, now};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use ztka_authz::{Clause, PolicyDocument, PolicySet};
use ztka_core::{ClusterId, Principal};

const DEV: &str = "dev";

fn policy(when: Value) -> PolicyDocument {
    let binding = |name: &str, role: &str, scope: &str, when: Value| {
        json!({"name": name, "subjects": [{"user": "alice"}], "role": role, "clusters": {"all": true},
               "scope": {"namespaces": [scope]}, "when": when})
    };
    document(json!({
        "clusters": [{"id": "c1", "name": "prod"}],
        "bindings": [binding("always", "view", "web", json!({})), binding("some", "edit", DEV, when)],
    }))
}

/// Where alice has a role, in the words of rules and in the names of roles.
fn namespaces(policy: &PolicySet, alice: &Principal) -> (Vec<String>, Vec<String>) {
    let (cluster, now) = ("c1".parse().unwrap(), now().now());
    let (rendered, named) =
        (policy.render_at(alice, &cluster, now).unwrap(), policy.named_at(alice, &cluster, now).unwrap());
    (rendered.namespaces.into_keys().collect(), named.namespaces.into_keys().collect())
}

#[test]
fn whoever_lacks_an_attribute_has_no_role_by_it() {
    for (when, attributes, expected) in [
        (json!({"user": {"team": ["shop"]}}), &[("team", "shop")][..], true),
        (json!({"user": {"team": ["shop", "pay"]}}), &[("team", "pay")], true),
        (json!({"user": {"team": ["shop"]}}), &[("team", "pay")], false),
        (json!({"user": {"team": ["shop"]}}), &[], false),
        (json!({"user": {"team": ["shop"], "site": ["a"]}}), &[("team", "shop")], false),
        (json!({"user": {"team": ["shop"]}, "hours": {"from": "00:00", "until": "23:59"}}), &[("team", "shop")], true),
        // For the agent nobody is told what an expression makes of them before they ask.
        (json!({"cedar": "false"}), &[], true),
    ] {
        let policy = compiled(&policy(when.clone()));
        let (rules, names) = namespaces(&policy, &described("alice", &[], attributes));
        let expected: &[&str] = if expected { &[DEV, "web"] } else { &["web"] };
        assert_eq!(rules, expected, "{when} {attributes:?}");
        assert_eq!(names, expected, "{when} {attributes:?}");
    }
}

#[test]
fn a_list_is_whole_where_nothing_but_attributes_was_asked_for() {
    let shop = described("alice", &[], &[("team", "shop")]);
    let (cluster, now): (ClusterId, _) = ("c1".parse().unwrap(), now().now());
    let narrows = |when: Value, who: &Principal| compiled(&policy(when)).narrows(who, &cluster, now);
    assert!(!narrows(json!({"user": {"team": ["shop"]}}), &shop));
    assert!(!narrows(json!({"user": {"team": ["pay"]}, "networks": ["192.0.2.0/24"]}), &shop), "it is not listed");
    assert!(narrows(json!({"user": {"team": ["shop"]}, "networks": ["192.0.2.0/24"]}), &shop));
    assert!(narrows(json!({"somethingNew": 1}), &shop));
}

/// As if whoever wrote the policy had known who asks.
fn without_attributes(document: &PolicyDocument, who: &Principal) -> PolicyDocument {
    let mut plain = document.clone();
    plain.bindings.retain_mut(|binding| {
        let is_for = binding.when.known().is_some_and(|when| when.is_for(who.attributes()));
        binding.when = Clause::default();
        is_for
    });
    plain
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_the_bindings_for_such_users_give_and_no_more(
        mut document in generated::policy(),
        asks in prop::collection::vec(prop::option::of(select(vec!["a", "b"])), 6),
        has in prop::option::of(select(vec!["a", "b"])),
    ) {
        for (binding, wanted) in document.bindings.iter_mut().zip(&asks) {
            let when = wanted.map_or(json!({}), |team| json!({"user": {"team": [team]}}));
            (binding.when, binding.valid_until) = (serde_json::from_value(when).unwrap(), None);
        }
        let attributes: Vec<_> = has.iter().map(|team| ("team", *team)).collect();
        let alice = described("alice", &["dev"], &attributes);
        let (asking, plain) = (compiled(&document), compiled(&without_attributes(&document, &alice)));
        let now = now().now();
        for cluster in generated::CLUSTERS {
            let cluster: ClusterId = cluster.parse().unwrap();
            match plain.render_at(&alice, &cluster, now) {
                Some(rendered) => {
                    prop_assert_eq!(asking.render_at(&alice, &cluster, now), Some(rendered.clone()));
                    prop_assert_eq!(asking.render(&alice, &cluster), Some(rendered));
                    prop_assert_eq!(asking.named_at(&alice, &cluster, now), plain.named_at(&alice, &cluster, now));
                }
                // Whoever is bound may ask what there is, also by what is for others.
                None => {
                    let rendered = asking.render_at(&alice, &cluster, now).unwrap_or_default();
                    prop_assert!(rendered.namespaces.is_empty());
                    let basic = ztka_authz::builtin_roles(&document.settings);
                    let basic = basic.iter().find(|role| role.name == "basic-user").unwrap();
                    prop_assert!(rendered.cluster.iter().all(|rule| basic.rules.contains(rule)));
                    prop_assert!(asking.named_at(&alice, &cluster, now).unwrap_or_default().cluster.is_empty());
                }
            }
        }
    }
}
