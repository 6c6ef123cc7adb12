//! A cluster's owner narrows what policy gives there, and nobody widens it.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use ztka_e2e::{Fleet, Installation};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

const MAP: [&str; 4] = ["configmap", "ztka-agent-limits", "-n", "ztka-system"];

async fn write(owner: &Kubectl, limits: &str) -> Result<()> {
    let patch = json!({"data": {"limits.toml": limits}}).to_string();
    owner.ok([&["patch"], &MAP[..], &["--type=merge", "--patch", &patch]].concat()).await.map(drop)
}

async fn described(owner: &Kubectl) -> Result<String> {
    owner.ok([&["describe"], &MAP[..]].concat()).await
}

#[tokio::test]
async fn the_owners_limits_hold_whatever_policy_gives() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let owner = cluster.kubectl();
    for namespace in ["shop", "pay", "ztka-system"] {
        owner.ok(["create", "namespace", namespace]).await?;
    }
    owner.ok([&["create"], &MAP[..]].concat()).await?;
    write(&owner, "namespaces = ['shop']\n").await?;
    let agent_config = "limits_config_map = true\n[limits]\nnoExec = true\n".into();
    let mut fleet = Fleet::start_with(Installation { agent_config, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;

    kubectl.ok(["get", "pods", "-n", "shop"]).await?;
    let refused = async |arguments: &[&str], limit: &str| {
        let output = kubectl.run(arguments).await?;
        let said = format!("local limit \"{limit}\"");
        ensure!(!output.success() && output.stderr.contains(&said), "{arguments:?}: {}", output.stderr);
        anyhow::Ok(())
    };
    refused(&["get", "pods", "-n", "pay"], "namespaces").await?;
    refused(&["get", "pods", "-A"], "namespaces").await?;
    refused(&["get", "nodes"], "namespaces").await?;
    let exec = "/api/v1/namespaces/shop/pods/web/exec?command=sh";
    refused(&["create", "--raw", exec, "-f", "/dev/null"], "noExec").await?;
    for (question, answer) in [
        (&["list", "pods", "-n", "shop"][..], "yes"),
        (&["list", "pods", "-n", "pay"], "no"),
        (&["create", "pods", "--subresource=exec", "-n", "shop"], "no"),
    ] {
        let said = kubectl.run([&["auth", "can-i"], question].concat()).await?.stdout;
        ensure!(said.starts_with(answer), "{question:?}: {said}");
    }
    // Not even who is allowed everything by policy gets at them.
    refused(&[&["delete"], &MAP[..]].concat(), "namespaces").await.or_else(|error| {
        // The agent's namespace is closed by policy already.
        if error.to_string().contains("closed to every role") { Ok(()) } else { Err(error) }
    })?;
    let said = described(&owner).await?;
    ensure!(said.contains("noExec = true") && said.contains("namespaces = [\"shop\"]"), "{said}");

    // A mistake leaves them as they are.
    write(&owner, "namespace = ['shop', 'pay']\n").await?;
    wait_for("the mistake to be told", || async {
        let said = described(&owner).await?;
        ensure!(said.contains("NOT in force") && said.contains("unknown field"), "{said}");
        Ok(())
    })
    .await?;
    refused(&["get", "pods", "-n", "pay"], "namespaces").await?;
    let log = fs::read_to_string(fleet.path("agent-acme-dev.log"))?;
    ensure!(log.contains("the limits before it stay in force"), "{log}");

    // Other limits count at once, for what is open as well.
    let mut watch = kubectl.spawn(["get", "configmaps", "-n", "shop", "--watch"])?;
    watch.read_until("kube-root-ca.crt").await?;
    write(&owner, "namespaces = ['pay']\n").await?;
    watch.ended().await.with_context(|| fleet.tails())?;
    kubectl.ok(["get", "pods", "-n", "pay"]).await?;
    refused(&["get", "pods", "-n", "shop"], "namespaces").await?;

    // An agent does not start by limits that it cannot use.
    write(&owner, "namespaces = 'shop'\n").await?;
    let agent = fleet.agents.get_mut(&("acme".into(), "dev".into())).context("no agent")?;
    agent.process.kill();
    agent.restart()?;
    wait_for("the agent to refuse", || {
        let is_running = agent.process.is_running();
        async move { if is_running { bail!("it runs") } else { Ok(()) } }
    })
    .await?;
    let tail = agent.process.tail();
    ensure!(tail.contains("ConfigMap ztka-agent-limits cannot be used; correct limits.toml in it"), "{tail}");
    write(&owner, "namespaces = ['shop']\n").await?;
    agent.restart()?;
    wait_for("an answer", || kubectl.ok(["get", "pods", "-n", "shop"])).await.with_context(|| fleet.tails())?;
    refused(&["get", "pods", "-n", "pay"], "namespaces").await
}
