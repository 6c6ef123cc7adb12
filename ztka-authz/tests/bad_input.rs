//! Policies that are wrong, absurd or hostile: refused with the line, or of no use to anybody.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use fixture::{allows, compiled, document, gives, target, user};
use serde_json::{Value, json};
use ztka_authz::{
    Action, Facts, PolicyDocument, PolicySet, Supported, Verdict,
    tools::{Expectations, policy_from_yaml},
};

fn binding(change: Value) -> PolicyDocument {
    let document = gives("cluster-admin", json!("cluster"));
    let mut binding = serde_json::to_value(&document.bindings[0]).unwrap();
    binding.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    PolicyDocument { bindings: vec![serde_json::from_value(binding).unwrap()], ..document }
}

#[test]
fn what_is_not_understood_gives_nothing_and_cannot_be_written() {
    let alice = user("alice", &[]);
    let pods = target("core/pods", Some("dev"), Some("a"));
    for change in [
        json!({"when": {"moon": "full"}}),
        json!({"when": {"networks": ["not one"]}}),
        json!({"when": ["hours"]}),
        json!({"when": {"hours": {"from": "25:00", "until": "26:00"}}}),
        json!({"obligations": {"sing": true}}),
        json!({"obligations": {"maxDuration": "soon"}}),
        json!({"obligations": "none"}),
    ] {
        let document = binding(change.clone());
        let error = document.validate().unwrap_err().to_string();
        assert!(error.contains("not understood"), "{change}: {error}");
        let policy = compiled(&document);
        assert!(!allows(&policy, &alice, "get", pods), "{change}");
        // It is kept as it was: an older controller in between does not make a policy wider.
        let projected = PolicySet::project(&document, &"c1".parse().unwrap());
        assert_eq!(projected.bindings[0].when, document.bindings[0].when);
        assert_eq!(projected.bindings[0].obligations, document.bindings[0].obligations);
    }
    let denial = json!({
        "name": "d", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        "clusters": {"all": true}, "scope": "cluster", "when": {"moon": "full"},
    });
    let denied = PolicyDocument { denials: vec![serde_json::from_value(denial).unwrap()], ..binding(json!({})) };
    assert!(denied.validate().is_err());
    assert!(!allows(&compiled(&denied), &alice, "get", pods), "a denial that is not understood denies");
    assert!(allows(&compiled(&denied), &alice, "get", target("core/services", Some("dev"), None)));
}

#[test]
fn an_obligation_that_nothing_supports_denies_and_says_so() {
    let (alice, cluster) = (user("alice", &[]), "c1".parse().unwrap());
    let exec = Action::new("create", target("core/pods/exec", Some("dev"), Some("a")));
    let list = Action::new("list", target("core/pods", Some("dev"), None));
    for (duty, on_list) in [
        (json!({"record": true}), true),
        (json!({"maxDuration": "1h"}), true),
        (json!({"audit": "Request"}), false),
        (json!({"stepUp": true}), false),
    ] {
        let policy = compiled(&binding(json!({"obligations": duty})));
        let asks =
            |action, facts: &Facts<'_>| matches!(policy.weigh(&alice, &cluster, action, facts), Verdict::Allow { .. });
        assert!(!asks(&exec, &fixture::now()), "{duty}");
        assert_eq!(asks(&list, &fixture::now()), on_list, "{duty}");
        assert!(asks(&exec, &fixture::now().supporting(Supported::ALL)), "{duty}");
        let said = fixture::refusal(policy.decide(&alice, &cluster, &exec, &fixture::now()));
        assert!(said.contains("not possible here"), "{said}");
    }
}

#[test]
fn an_error_in_a_file_names_the_line() {
    let table = [
        ("bindings:\n- name: b\n  subject: []\n", 3, "subject"),
        ("roles:\n- name: r\n  rules:\n  - verbs: [get]\n", 4, "needs apiGroups"),
        ("clusters:\n- {id: c1, name: a}\n- {id: C2, name: b}\n", 3, "cluster id"),
        ("clusters:\n- {id: c1, name: a}\n- {id: c1, name: b}\n", 3, "exists already"),
        ("roles: []\nroles: []\n", 2, "twice"),
        ("roles: &a []\n", 1, "anchors"),
        ("roles: !!set {}\n", 1, "tags"),
        ("roles: []\n---\nroles: []\n", 3, "second document"),
        ("roles: [\n", 2, "not YAML"),
        ("- 1\n", 1, "invalid type"),
        ("denials:\n- name: d\n  rules: []\n  clusters: {}\n  scope: cluster\n", 2, "without rules"),
        (
            "bindings:\n- name: b\n  subjects: [{user: alice}]\n  role: viewer\n  clusters: {}\n  scope: cluster\n",
            4,
            "no role \"viewer\"",
        ),
        (
            "bindings:\n- name: b\n  subjects:\n  - user: system:masters\n  role: view\n  clusters: {}\n  scope: cluster\n",
            4,
            "user name",
        ),
        (
            "bindings:\n- name: b\n  subjects: []\n  role: view\n  clusters: {}\n  scope: cluster\n  when:\n    hours: {from: \
             \"09:00\", until: \"17:00\"}\n    moon: full\n",
            9,
            "not understood: unknown field `moon`",
        ),
        ("groups:\n- {name: a, members: [{group: b}]}\n- name: b\n  members:\n  - {group: a}\n", 5, "is in itself"),
        ("groups:\n- {name: a, members: [{group: a}]}\n", 2, "is in itself"),
        ("clusters:\n- {id: c1, name: a, project: p}\n", 2, "no project"),
        (
            "guardrails:\n  protectedNamespaces:\n  - namespaces: [Kube_System]\n    clusters: {all: true}\n",
            3,
            "not the name of a namespace",
        ),
    ];
    for (text, line, problem) in table {
        let error = policy_from_yaml(text).expect_err(text);
        assert_eq!(error.line(), line, "{text}\n{error}");
        assert!(error.to_string().contains(problem), "{text}\n{error}");
    }
    let error = Expectations::from_yaml("tests:\n- name: t\n  user: a\n  cluster: c\n  can:\n  - get\n").unwrap_err();
    assert_eq!(error.line(), 6, "{error}");
    assert!(policy_from_yaml("").is_ok(), "no policy is one that allows nothing");
    assert!(policy_from_yaml(&"[".repeat(100_000)).is_err());
    assert!(policy_from_yaml(&format!("a: {}1", "{a: ".repeat(1000))).is_err());
}

#[test]
fn contradictions_are_refused() {
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    for (change, problem) in [
        (json!({"validFrom": "2026-02-01T00:00:00Z", "validUntil": "2026-01-01T00:00:00Z"}), "never count"),
        (json!({"clusters": {"matchExpressions": [{"key": "a", "operator": "In"}]}}), "need values"),
        (json!({"clusters": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}), "no values"),
        (json!({"scope": {"namespaceLabels": {}}}), "allNamespaces"),
        (json!({"when": {"hours": {"from": "17:00", "until": "09:00"}}}), "two bindings"),
        (json!({"when": {"mfa": {"maxAge": "-1h"}}}), "above zero"),
        (json!({"when": {"user": {"team": []}}}), "no values"),
        (json!({"when": {"request": [{"verbs": ["get"]}]}}), "needs apiGroups"),
        (json!({"when": {"cedar": "moon ("}}), "Cedar"),
        (json!({"obligations": {"maxDuration": "0s"}}), "above zero"),
    ] {
        let error = binding(change.clone()).validate().expect_err(&change.to_string()).to_string();
        assert!(error.contains(problem), "{error}");
    }
    // Kinds of selectors, verbs and operators that nobody knows.
    for unreadable in [
        json!({"bindings": [{"name": "b", "subjects": [], "role": "view", "clusters": {"regex": ".*"}, "scope": "cluster"}]}),
        json!({"bindings": [{"name": "b", "subjects": [], "role": "view", "clusters": {}, "scope": "galaxy"}]}),
        json!({"bindings": [{"name": "b", "subjects": [{"robot": "r"}], "role": "view", "clusters": {}, "scope": "cluster"}]}),
        json!({"bindings": [{"name": "b", "subjects": [{"user": "ａlice"}], "role": "view", "clusters": {}, "scope": "cluster"}]}),
        json!({"guardrails": {"gates": {"token": "open"}}}),
        json!({"roles": [{"name": "r", "rules": [rule], "inherits": "cluster-admin"}]}),
    ] {
        assert!(serde_json::from_value::<PolicyDocument>(unreadable.clone()).is_err(), "{unreadable}");
    }
}

#[test]
fn a_role_of_ones_own_comes_before_a_built_in_one_that_came_later() {
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    let roles = document(json!({"roles": [{"name": "org-admin", "rules": [rule]}]})).roles;
    let old = PolicyDocument { roles, ..gives("org-admin", json!("cluster")) };
    assert!(old.validate().is_err(), "not to be written any more");
    let (alice, policy) = (user("alice", &[]), compiled(&old));
    assert!(allows(&policy, &alice, "get", target("core/pods", Some("dev"), Some("a"))));
    assert!(!allows(&policy, &alice, "delete", target("core/pods", Some("dev"), Some("a"))));
}

#[test]
fn large_policies_are_only_large() {
    let names: Vec<String> = (0..10_000).map(|n| format!("name-{n}")).collect();
    let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": names});
    let bindings: Vec<_> = (0..100_000)
        .map(|n| {
            json!({"name": format!("b{n}"), "subjects": [{"user": format!("u{}", n % 5_000)}], "role": "r",
                   "clusters": {"all": true}, "scope": {"namespaces": ["dev"]}})
        })
        .collect();
    let large = document(json!({
        "clusters": [{"id": "c1", "name": "prod"}], "roles": [{"name": "r", "rules": [rule]}], "bindings": bindings,
    }));
    let policy = PolicySet::candidate("acme".parse().unwrap(), large).unwrap();
    let last = user("u4999", &[]);
    assert!(allows(&policy, &last, "get", target("core/configmaps", Some("dev"), Some("name-9999"))));
    assert!(!allows(&policy, &last, "get", target("core/configmaps", Some("dev"), Some("name-10000"))));
    assert!(!allows(&policy, &user("u5000", &[]), "get", target("core/configmaps", Some("dev"), Some("name-1"))));
}
