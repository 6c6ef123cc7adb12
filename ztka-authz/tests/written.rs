//! A policy that is written as YAML is read as the same.

use proptest::prelude::*;
use serde_json::{Value, json};
use ztka_authz::tools::{document_to_yaml, line_at, policy_from_yaml};

fn policy() -> Value {
    json!({
        "clusters": [{"id": "c1", "name": "prod", "labels": {"stage": "prod", "on": "yes"}, "project": "shop",
                      "namespaces": {"pay": {"team": "1"}, "other": {}}}],
        "projects": [{"name": "shop"}],
        "groups": [{"name": "dev", "members": [{"user": "alice@example.com"}, {"group": "ops"}]}],
        "roles": [{"name": "r", "rules": [
            {"verbs": ["get", "*"], "apiGroups": [""], "resources": ["pods", "*/scale"], "resourceNames": ["true", "007"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/healthz/*"]}]}],
        "bindings": [{"name": "b", "subjects": [{"group": "dev"}], "role": "r", "clusters": {"all": true},
                      "scope": {"namespaces": ["pay"]}, "validUntil": "2026-01-01T00:00:00Z",
                      "when": {"hours": {"days": ["mon"], "from": "09:00:00", "until": "17:00:00", "utcOffset": "+01:00"},
                               "commands": ["ls *"]}}],
        "denials": [{"name": "d", "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                     "clusters": {"matchLabels": {"stage": "prod"}}, "scope": "cluster",
                     "reason": "\"no\": # not a comment, nor - a list"}],
        "guardrails": {"gates": {"token": "closed"}},
        "settings": {"viewSecrets": true, "viewExec": false}
    })
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let yaml = document_to_yaml(&policy());
    let read = policy_from_yaml(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let expected: ztka_authz::PolicyDocument = serde_json::from_value(policy()).unwrap();
    assert_eq!(read, expected, "{yaml}");
    assert!(yaml.contains("\n- id: c1\n  name: prod\n"), "{yaml}");
    assert!(yaml.contains("  clusters: {all: true}\n  scope: {namespaces: [pay]}\n"), "{yaml}");
    assert_eq!(policy_from_yaml(&document_to_yaml(&json!({}))).unwrap(), Default::default());
}

#[test]
fn a_place_has_a_line() {
    let yaml = document_to_yaml(&policy());
    let line = |pointer| yaml.lines().nth(line_at(&yaml, pointer) - 1).unwrap().trim().to_owned();
    assert_eq!(line("/bindings/0/role"), "role: r");
    assert_eq!(line("/bindings/0/absent"), "- name: b", "what is around it");
    assert_eq!(line_at("a: [", "/a"), 1, "what is no YAML begins somewhere");
}

proptest! {
    #[test]
    fn any_text_comes_back(reason in "\\PC{0,40}|[ -~\\n\\t]{0,40}", label in "[a-zA-Z0-9._-]{1,20}") {
        let mut policy = policy();
        *policy.pointer_mut("/denials/0/reason").unwrap() = json!(reason);
        *policy.pointer_mut("/clusters/0/labels/stage").unwrap() = json!(label);
        let yaml = document_to_yaml(&policy);
        let read = policy_from_yaml(&yaml).map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
        prop_assert_eq!(&read.denials.first().unwrap().reason, &reason);
        prop_assert_eq!(&read.clusters.first().unwrap().labels["stage"], &label);
    }
}
