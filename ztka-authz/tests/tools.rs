//! What people are told: why, who, what they may, what changes, what would have been.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use fixture::{now, target};
use serde_json::Value;
use ztka_authz::{
    Action, PolicySet,
    tools::{Expectations, Recorded, compare, junit, policy_from_yaml, schema},
};

const POLICY: &str = "
clusters: [{id: c1, name: prod}]
roles:
- name: log-reader
  rules: [{verbs: [get], apiGroups: [''], resources: [pods/log]}]
bindings:
- {name: look, subjects: [{group: dev}], role: view, clusters: {all: true}, scope: {namespaces: [shop]}}
- {name: night, subjects: [{user: alice}], role: edit, clusters: {all: true}, scope: {namespaces: [shop]},
   when: {hours: {from: '20:00', until: '23:00'}}}
- {name: logs, subjects: [{user: bob}], role: log-reader, clusters: {names: [prod]}, scope: cluster}
denials:
- name: no-secrets
  rules: [{verbs: ['*'], apiGroups: [''], resources: [secrets]}]
  clusters: {all: true}
  scope: cluster
";

fn policy(text: &str) -> PolicySet {
    PolicySet::candidate("acme".parse().unwrap(), policy_from_yaml(text).unwrap()).unwrap()
}

#[test]
fn an_explanation_names_everything_that_was_looked_at_in_order() {
    let (policy, cluster) = (policy(POLICY), "c1".parse().unwrap());
    let alice = policy.somebody("alice", &["dev"]).unwrap();
    let why = |verb, what| {
        let action = Action::new(verb, target(what, Some("shop"), Some("a")));
        policy.explain(&alice, &cluster, &action, &now()).to_string()
    };
    let said = why("delete", "core/pods");
    let steps: Vec<&str> = said.lines().filter(|line| !line.starts_with("      ")).collect();
    assert_eq!(
        steps,
        [
            "  - denial \"no-secrets\": is not about this",
            "  - binding \"night\", role \"edit\": binding \"night\" would give this, but it counts at other hours",
            "  - binding \"look\", role \"view\": none of the 10 rules of the role covers it",
            "denied: binding \"night\" would give this, but it counts at other hours",
        ]
    );
    // Every rule that was looked at, and why it does not.
    let (night, look) = said.split_once("binding \"look\"").unwrap();
    assert_eq!(night.matches(": covers it").count(), 1, "{said}");
    assert_eq!(look.matches(": is about other ").count(), 10, "{said}");
    let logs = Action::new("get", target("core/pods/log", Some("shop"), None));
    let bob = policy.somebody("bob", &[]).unwrap();
    let said = policy.explain(&bob, &cluster, &logs, &now()).to_string();
    assert!(said.contains("role \"log-reader\": allows it\n      get pods/log: covers it\n"), "{said}");
    for (verb, what, expected) in [
        ("list", "core/pods/log", "is about other verbs"),
        ("get", "core/pods", "is about other resources"),
        ("get", "apps/pods/log", "is about other API groups"),
        ("get", "/version", "is about resources"),
    ] {
        let said = policy.explain(&bob, &cluster, &Action::new(verb, target(what, None, None)), &now()).to_string();
        assert!(said.contains(&format!("get pods/log: {expected}")), "{verb} {what}: {said}");
    }
    assert!(why("get", "core/pods").ends_with("allowed: by binding \"look\", role \"view\"\n"));
    let denied = why("get", "core/secrets");
    assert!(denied.starts_with("  ! denial \"no-secrets\": denies it\n"), "{denied}");
    assert!(denied.contains("denied: denied to everybody it is about by \"no-secrets\""), "{denied}");
}

#[test]
fn who_can_and_what_somebody_can_are_two_sides() {
    let (policy, cluster) = (policy(POLICY), "c1".parse().unwrap());
    let logs = Action::new("get", target("core/pods/log", Some("shop"), Some("a")));
    let who: Vec<_> =
        policy.who_can(&cluster, &logs, &now()).into_iter().map(|who| (who.subject, who.binding)).collect();
    let who = serde_json::to_value(&who).unwrap();
    assert_eq!(who, serde_json::json!([[{"user": "bob"}, "logs"], [{"group": "dev"}, "look"]]));
    let bob = policy.somebody("bob", &[]).unwrap();
    let can: Vec<_> = policy.permissions(&bob, &cluster).iter().map(ToString::to_string).collect();
    assert_eq!(can, ["get pods/log on prod"]);
    let alice = policy.somebody("alice", &[]).unwrap();
    let can = policy.permissions(&alice, &cluster);
    assert!(can.iter().all(|permission| permission.terms.contains("20:00")), "conditions are told");
}

#[test]
fn a_comparison_says_who_gains_and_loses_what() {
    let old = policy(POLICY);
    let new = policy(
        &POLICY
            .replace("resources: [pods/log]", "resources: [pods/log, pods/status]")
            .replace("group: dev", "group: web"),
    );
    let changes = compare(&old, &new, &[]);
    let told: Vec<_> =
        changes.iter().map(|change| (change.who.as_str(), change.gained.len(), change.lost.len())).collect();
    let view = changes[1].lost.len();
    assert_eq!(told, [("user bob", 1, 0), ("group dev", 0, view), ("group web", view, 0)]);
    assert!(view > 50);
    assert_eq!(changes[0].gained[0].to_string(), "get pods/status on prod");
    // What is covered by something wider is no change.
    let wide = policy(&POLICY.replace(
        "verbs: [get], apiGroups: [''], resources: [pods/log]",
        "verbs: ['*'], apiGroups: ['*'], resources: ['*']",
    ));
    let changes = compare(&old, &wide, &[]);
    assert_eq!((changes.len(), changes[0].lost.len()), (1, 0));
    assert!(compare(&old, &old, &[]).is_empty());
}

#[test]
fn a_simulation_says_what_would_have_been_decided_otherwise() {
    let policy = policy(POLICY);
    let event = |user: &str, verb: &str, allowed| Recorded {
        user: user.into(),
        groups: vec!["dev".into()],
        cluster: "c1".into(),
        verb: verb.into(),
        resource: "pods".into(),
        namespace: Some("shop".into()),
        at: "2026-01-05T12:00:00Z".parse().unwrap(),
        allowed,
        ..Recorded::default()
    };
    let night = Recorded { at: "2026-01-05T21:00:00Z".parse().unwrap(), ..event("alice", "delete", true) };
    let events = [
        event("alice", "get", true),
        event("alice", "delete", true),
        event("alice", "delete", true),
        night,
        event("carl", "list", false),
        event("system:admin", "list", true),
    ];
    let simulation = policy.simulate(&events);
    assert_eq!((simulation.same, simulation.unreadable), (2, 1));
    let denied: Vec<_> = simulation.newly_denied.iter().map(|change| (change.what.as_str(), change.times)).collect();
    assert_eq!(denied, [("delete pods -n shop", 2)]);
    let allowed: Vec<_> = simulation.newly_allowed.iter().map(|change| change.user.as_str()).collect();
    assert_eq!(allowed, ["carl"]);
}

#[test]
fn outcomes_are_written_for_machines() {
    let tests = Expectations::from_yaml(
        "tests:\n- name: <logs> & \"more\"\n  user: bob\n  cluster: prod\n  can: [get pods/log a -n x, delete pods a]\n",
    )
    .unwrap();
    let outcomes = tests.run(&policy(POLICY), "2026-01-05T12:00:00Z".parse().unwrap());
    assert_eq!(outcomes.iter().filter(|outcome| outcome.failure.is_some()).count(), 1);
    let xml = junit(&[("policy", outcomes)]);
    assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
    assert!(xml.contains("&lt;logs&gt; &amp; &quot;more&quot;: can get pods/log a -n x\" line=\"5\"/>"), "{xml}");
    assert!(xml.contains("none of the 1 rules of the role covers it"), "{xml}");
}

/// Every field that is written is one that the schema knows: it is kept by hand.
#[test]
fn the_schema_knows_every_field() {
    let full = policy_from_yaml(
        "
clusters: [{id: c1, name: prod, labels: {a: b}, project: p, namespaces: {n: {a: b}}}]
projects: [{name: p}]
groups: [{name: g, members: [{user: u}, {group: h}]}]
roles:
- name: r
  readOnly: true
  rules:
  - {verbs: [get], apiGroups: [''], resources: [pods/portforward], resourceNames: [x], ports: [80]}
  - {verbs: [get], nonResourceURLs: [/x]}
bindings:
- name: b
  subjects: [{user: u}]
  role: r
  clusters: {all: true, ids: [c1], names: [prod], projects: [p], matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [b]}]}
  scope: {namespaceLabels: {a: b}}
  validFrom: 2026-01-01T00:00:00Z
  validUntil: 2027-01-01T00:00:00Z
  when:
    hours: {days: [mon], from: '09:00', until: '17:00', utcOffset: '+01:00'}
    networks: [10.0.0.0/8]
    mfa: {maxAge: 15m, strength: phishing-resistant}
    clusterLabels: {a: b}
    namespaceLabels: {a: b}
    user: {team: [x]}
    request: [{verbs: [get], apiGroups: [''], resources: [pods]}]
    commands: [ls *]
  obligations: {audit: Request, record: true, maxDuration: 1h, stepUp: true}
denials:
- {name: d, subjects: [{user: u}], except: [{group: g}], rules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*']}],
   clusters: {all: true}, scope: {namespaces: [n]}, reason: because}
guardrails:
  protectedNamespaces: [{namespaces: [n], access: none, clusters: {all: true}, except: [{user: u}]}]
  gates: {escalate: roles, bind: roles, impersonate: roles, approve: roles, sign: roles, token: roles}
settings: {viewSecrets: true, viewExec: true}
",
    )
    .unwrap();
    let schema: Value = serde_json::from_str(schema()).unwrap();
    fits(&schema, &schema, &serde_json::to_value(&full).unwrap(), "");
}

/// As much of JSON Schema as ours uses to say which fields there are.
fn fits(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return fits(root, root.pointer(name.trim_start_matches('#')).unwrap(), value, at);
    }
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        let fitting = choices.iter().find(|choice| match (keys(value), choice.get("properties")) {
            (Some(keys), Some(known)) => keys.iter().all(|key| known.get(key).is_some()),
            (None, None) => true,
            _ => false,
        });
        return fits(root, fitting.unwrap_or_else(|| panic!("{at}: {value} fits nothing")), value, at);
    }
    match value {
        Value::Array(list) => {
            list.iter().for_each(|item| fits(root, schema.get("items").unwrap_or_else(|| panic!("{at}")), item, at));
        }
        Value::Object(map) => {
            for (key, inner) in map {
                let known = schema.pointer(&format!("/properties/{key}")).or(schema.get("additionalProperties"));
                let known = known.filter(|known| **known != Value::Bool(false));
                fits(
                    root,
                    known.unwrap_or_else(|| panic!("{at}/{key} is not in the schema")),
                    inner,
                    &format!("{at}/{key}"),
                );
            }
        }
        _ => {}
    }
}
