//! What `kubectl auth can-i` says where policy gives a role and takes a part of it away again; with a real apiserver.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use anyhow::Result;
use serde_json::{Value, json};
use stage::{Stage, user};

/// alice may look at `dev`, with this changed in the binding and in the policy.
fn policy(in_binding: Value, in_policy: Value) -> Value {
    let mut binding = json!({"name": "look", "subjects": [{"user": "alice"}], "role": "view", "clusters": {"all": true},
                             "scope": {"namespaces": ["dev"]}});
    binding.as_object_mut().unwrap().extend(in_binding.as_object().unwrap().clone());
    let mut policy = json!({"clusters": [{"id": "c1", "name": "prod"}], "bindings": [binding]});
    policy.as_object_mut().unwrap().extend(in_policy.as_object().unwrap().clone());
    policy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_policy_narrows_says_so_and_a_question_is_answered_by_policy_and_cluster() -> Result<()> {
    let mut stage = Stage::set().await?;
    let alice = user("u-alice", "alice", &[]);
    stage.document(&policy(json!({}), json!({})))?;
    let kubectl = stage.kubectl_as(&alice).await?;
    let denial = |except: Value| {
        json!({"denials": [{"name": "no-maps", "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"]}],
                            "except": except, "clusters": {"all": true}, "scope": "cluster"}]})
    };
    let rail = json!({"guardrails": {"protectedNamespaces": [{"namespaces": ["dev"], "access": "none",
                                                              "clusters": {"all": true}}]}});
    let always = json!({"hours": {"from": "00:00", "until": "23:59:59.999999999"}});
    for (what, document, narrowed, pods, maps) in [
        ("nothing", policy(json!({}), json!({})), false, true, true),
        ("a condition that holds", policy(json!({"when": always}), json!({})), true, true, true),
        ("one that nobody knows", policy(json!({"when": {"mfa": {"maxAge": "1h"}}}), json!({})), true, false, false),
        ("an obligation", policy(json!({"obligations": {"stepUp": true}}), json!({})), true, false, false),
        ("a denial", policy(json!({}), denial(json!([]))), true, true, false),
        ("one about others", policy(json!({}), denial(json!([{"user": "alice"}]))), false, true, true),
        ("a protected namespace", policy(json!({}), rail), true, false, false),
        (
            "a term that has run out",
            policy(json!({"validUntil": "2020-01-01T00:00:00Z", "when": always}), denial(json!([{"user": "alice"}]))),
            false,
            false,
            false,
        ),
    ] {
        stage.document(&document)?;
        let list = kubectl.run(["auth", "can-i", "--list", "-n", "dev"]).await?;
        let run_out = what.starts_with("a term");
        assert_eq!(list.success(), !run_out, "{what}: {list:?}");
        let warned = list.stderr.contains("the list may be incomplete: conditions, denials or guardrails");
        assert_eq!(warned, narrowed, "{what}: {list:?}");
        for (resource, expected) in [("pods", pods), ("configmaps", maps)] {
            let said = kubectl.run(["auth", "can-i", "list", resource, "-n", "dev"]).await?;
            assert_eq!(said.stdout.starts_with("yes"), expected, "{what}: {resource}: {said:?}");
            let done = kubectl.run(["get", resource, "-n", "dev"]).await?;
            assert_eq!(done.success(), expected, "{what}: {resource}: {done:?}");
        }
    }
    // Policy says yes, and the cluster cannot.
    let mut missing = policy(json!({}), json!({}));
    missing["bindings"][0]["scope"] = json!({"namespaces": ["missing"]});
    stage.document(&missing)?;
    let said = kubectl.run(["auth", "can-i", "list", "pods", "-n", "missing"]).await?;
    assert!(said.stdout.starts_with("no"), "{said:?}");
    Ok(())
}
