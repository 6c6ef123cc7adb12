//! What nobody may write down, with where it is wrong.

use serde_json::{Value, json};

use super::*;

fn whole() -> Value {
    json!({
        "clusters": [{"id": "c1", "name": "prod", "labels": {"stage": "prod"}, "project": "shop",
                      "namespaces": {"pay": {"team": "pay"}}}],
        "projects": [{"name": "shop"}],
        "groups": [{"name": "dev", "members": [{"user": "alice"}, {"group": "ops"}]},
                   {"name": "ops", "members": []}],
        "roles": [{"name": "reader", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}],
        "bindings": [{"name": "b", "subjects": [{"group": "dev"}], "role": "view",
                      "clusters": {"projects": ["shop"]}, "scope": {"namespaceLabels": {"team": "pay"}}}],
        "denials": [{"name": "d", "rules": [{"verbs": ["delete"], "apiGroups": ["*"], "resources": ["*"]}],
                     "clusters": {"all": true}, "scope": "cluster", "except": [{"user": "alice"}]}],
        "guardrails": {"protectedNamespaces": [{"namespaces": ["kube-system"], "clusters": {"all": true}}]},
        "settings": {"viewSecrets": true}
    })
}

fn checked(policy: Value) -> Checked {
    check(&serde_json::from_value(policy).unwrap(), &|_, _| true)
}

/// The whole policy with one part in place of another.
fn with(pointer: &str, part: Value) -> Value {
    let mut policy = whole();
    match policy.pointer_mut(pointer) {
        Some(place) => *place = part,
        None => {
            let (around, field) = pointer.rsplit_once('/').unwrap();
            policy.pointer_mut(around).unwrap().as_object_mut().unwrap().insert(field.into(), part);
        }
    }
    policy
}

#[test]
fn what_is_right_is_taken() {
    checked(whole()).unwrap();
    checked(json!({})).unwrap();
}

#[test]
fn each_mistake_is_refused_where_it_is() {
    let names: Vec<String> = (0..10_000).map(|number| format!("n{number}")).collect();
    let rule = |rule: Value| json!([rule]);
    for (place, part, pointer, said) in [
        ("/roles/0/name", json!("Reader"), "/roles/0/name", "lower-case"),
        ("/roles/0/name", json!("re\u{301}ader"), "/roles/0/name", "role name"),
        ("/roles/0/name", json!("ｒeader"), "/roles/0/name", "role name"),
        ("/roles/0/name", json!("system:reader"), "/roles/0/name", "system:"),
        ("/bindings/0/name", json!("b\n"), "/bindings/0/name", "binding name"),
        ("/denials/0/name", json!("D"), "/denials/0/name", "denial"),
        ("/roles/0/rules", json!([]), "/roles/0/rules", "without rules"),
        (
            "/roles/0/rules",
            rule(json!({"verbs": ["gett"], "apiGroups": [""], "resources": ["pods"]})),
            "/roles/0/rules/0/verbs/0",
            "no verb",
        ),
        (
            "/roles/0/rules",
            rule(json!({"verbs": ["list"], "nonResourceURLs": ["/metrics"]})),
            "/roles/0/rules/0/verbs/0",
            "no verb",
        ),
        (
            "/roles/0/rules",
            rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["Pods"]})),
            "/roles/0/rules/0/resources/0",
            "lower case",
        ),
        (
            "/roles/0/rules",
            rule(json!({"verbs": ["get"], "apiGroups": ["apps/v1\n"], "resources": ["pods"]})),
            "/roles/0/rules/0/apiGroups/0",
            "apiGroups",
        ),
        (
            "/roles/0/rules",
            rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names})),
            "/roles/0/rules/0/resourceNames",
            "10000 resourceNames",
        ),
        ("/bindings/0/role", json!("absent"), "/bindings/0/role", "there is no role"),
        ("/bindings/0/subjects", json!([]), "/bindings/0/subjects", "without subjects"),
        ("/bindings/0/clusters", json!({}), "/bindings/0/clusters", "selects no cluster"),
        ("/bindings/0/clusters", json!({"names": ["Prod*"]}), "/bindings/0/clusters/names/0", "patterns"),
        ("/bindings/0/clusters", json!({"projects": ["absent"]}), "/bindings/0/clusters/projects/0", "no project"),
        ("/bindings/0/clusters", json!({"matchLabels": {"a b": ""}}), "/bindings/0/clusters/matchLabels", "label"),
        ("/bindings/0/scope", json!({"namespaces": ["Shop"]}), "/bindings/0/scope/namespaces", "namespace"),
        ("/bindings/0/when", json!({"phase": "full"}), "/bindings/0/when", "not understood"),
        ("/bindings/0/obligations", json!({"blessing": true}), "/bindings/0/obligations", "not understood"),
        ("/bindings/0/validUntil", json!("2020-01-01T00:00:00Z"), "", ""),
        ("/clusters/0/project", json!("absent"), "/clusters/0/project", "no project"),
        ("/clusters/0/labels", json!({"a": "b c"}), "/clusters/0/labels", "label"),
        ("/clusters/0/namespaces", json!({"Pay": {}}), "/clusters/0/namespaces/Pay", "namespace"),
        ("/denials/0/subjects", json!([{"user": "alice"}]), "/denials/0/except/0", "meant and excepted"),
        ("/denials/0/reason", json!("a\nb"), "/denials/0/reason", "line"),
        ("/groups/1/members", json!([{"group": "dev"}]), "/groups", "in itself"),
        ("/projects", json!([{"name": "shop"}, {"name": "shop"}]), "/projects/1", "exists already"),
    ] {
        match checked(with(place, part.clone())) {
            Ok(()) => assert_eq!(said, "", "{place}: {part} is taken"),
            Err(fault) => {
                assert!(fault.pointer.starts_with(pointer) && !pointer.is_empty(), "{fault:?} is to be at {pointer}");
                assert!(fault.text.contains(said), "{fault:?} is to say {said:?}");
                assert!(fault.text.len() < 600, "{fault:?}");
            }
        }
    }
}

#[test]
fn terms_that_never_count_are_refused() {
    let mut policy = whole();
    let binding = policy.pointer_mut("/bindings/0").unwrap().as_object_mut().unwrap();
    binding.insert("validFrom".into(), json!("2026-01-02T00:00:00Z"));
    binding.insert("validUntil".into(), json!("2026-01-01T00:00:00Z"));
    assert_eq!(checked(policy).unwrap_err().pointer, "/bindings/0/validFrom");
}

#[test]
fn groups_are_not_within_each_other_without_end() {
    let chain = |length: usize| {
        let group = |number: usize| match number + 1 < length {
            true => json!({"name": format!("g{number}"), "members": [{"group": format!("g{}", number + 1)}]}),
            false => json!({"name": format!("g{number}"), "members": []}),
        };
        json!({ "groups": (0..length).map(group).collect::<Vec<_>>() })
    };
    checked(chain(16)).unwrap();
    for length in [17, 2000] {
        assert!(checked(chain(length)).unwrap_err().text.contains("more than 16 times"));
    }
}
