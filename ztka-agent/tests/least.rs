//! The agent's own permissions are the least that its mode needs: without any one of them something fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use stage::{Stage, user};
use ztka_agent::{
    LIMITS_CONFIG_MAP, OwnerLimits,
    accounts::{AGENT_RBAC, AgentToken, CEILING_RBAC, Client, Mode, Settings},
};
use ztka_authz::LocalLimits;
use ztka_test_cluster::wait_for;

const KINDS: [(&str, &[&str]); 2] = [("clusterrole", &[]), ("role", &["-n", "ztka-system"])];

/// All that an agent does, but for the cluster's credential, of which `credential.rs` tells.
async fn life(stage: &Stage) -> Result<()> {
    let alice = user("u-alice", "alice", &[]);
    let agent = stage.other_agent(&stage.token_file);
    let failed = |error: ztka_core::Status| anyhow::anyhow!("{error}");
    for namespace in ["dev", "web"] {
        agent.token(&alice, Some(namespace)).await.map_err(failed)?;
    }
    ensure!(agent.follow_policy().await, "policy is not followed");
    agent.sweep().await.map_err(anyhow::Error::from_boxed)?;
    agent.remove(alice.user()).await.map_err(anyhow::Error::from_boxed)?;

    let client = Client::new(stage.pool.clone(), AgentToken::file(&stage.token_file));
    let configured = LocalLimits { no_exec: true, ..LocalLimits::default() };
    OwnerLimits::new(stage.engine.clone(), configured).with_config_map(client, "ztka-system").begin().await?;
    stage.engine.limit(Vec::new());
    let kubectl = stage.cluster.kubectl();
    let said = ["get", "configmap", LIMITS_CONFIG_MAP, "-n", "ztka-system", "-o", "jsonpath={.data}"];
    let said = kubectl.ok(said).await?;
    let forget =
        ["patch", "configmap", LIMITS_CONFIG_MAP, "-n", "ztka-system", "--type=merge", "--patch", r#"{"data": null}"#];
    kubectl.ok(forget).await?;
    ensure!(said.contains("noExec"), "it does not say which limits are in force: {said:?}");
    Ok(())
}

/// `rules` without one verb on one resource of one of them.
fn without(rules: &[Value], rule: usize, resource: &Value, verb: &Value) -> Vec<Value> {
    let mut less = rules.to_vec();
    let mut alone = less[rule].clone();
    let keep = |list: &Value, but: &Value| {
        Value::Array(list.as_array().unwrap().iter().filter(|one| *one != but).cloned().collect())
    };
    less[rule]["resources"] = keep(&rules[rule]["resources"], resource);
    alone["resources"] = json!([resource]);
    alone["verbs"] = keep(&alone["verbs"], verb);
    less.push(alone);
    less.retain(|rule| rule["resources"] != json!([]) && rule["verbs"] != json!([]));
    less
}

async fn each_is_needed(rbac: &str, mode: Mode) -> Result<()> {
    let mut stage = Stage::set_with(rbac, Settings { mode, ..Settings::default() }).await?;
    stage.policy(&[(json!({"user": "alice"}), "edit", json!({"namespaces": ["dev", "web"]}))])?;
    life(&stage).await?;
    let kubectl = stage.cluster.kubectl();
    for (kind, place) in KINDS {
        let get = [&["get", kind, "ztka:agent", "-o", "json"], place].concat();
        let whole: Value = serde_json::from_str(&kubectl.ok(get).await?)?;
        let rules = whole["rules"].as_array().unwrap().clone();
        let put = async |rules: &[Value]| {
            let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
            let patch = [&["patch", kind, "ztka:agent", "--type=json", "--patch", &patch], place].concat();
            kubectl.ok(patch).await
        };
        for (number, rule) in rules.iter().enumerate() {
            if rule["resourceNames"] == json!(["ztka-agent-credential"]) {
                continue;
            }
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    put(&without(&rules, number, resource, verb)).await?;
                    let what = format!("something to fail without {verb} on {resource}");
                    wait_for(&what, || async {
                        ensure!(life(&stage).await.is_err(), "nothing does");
                        Ok(())
                    })
                    .await?;
                    put(&rules).await?;
                    wait_for("all to be well again", || life(&stage)).await?;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mode_dynamic() -> Result<()> {
    each_is_needed(AGENT_RBAC, Mode::ServiceAccount).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mode_ceiling() -> Result<()> {
    each_is_needed(CEILING_RBAC, Mode::Ceiling(["view".to_owned(), "edit".to_owned()].into())).await
}
