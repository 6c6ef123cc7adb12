//! A condition in Cedar decides on what real kubectl asks for, where the servers can evaluate it; elsewhere nobody can write one.
//!
//! Servers as they are released are of the second kind. `cargo xtask test --long --only cedar` builds the other kind as well, and
//! says so by `ZTKA_TEST_CEDAR`.

use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Options};

/// One that is evaluated by steps of our own, and one that is left to Cedar.
const POLICY: &str = r#"
bindings:
- name: look-around
  subjects: [{user: alice}, {user: bob}]
  role: edit
  clusters: {all: true}
  scope: cluster
  when:
    cedar: >-
      context has namespace && context.namespace == "default" && ["get", "list"].contains(context.verb)
- name: on-duty
  subjects: [{user: alice}, {user: bob}]
  role: edit
  clusters: {all: true}
  scope: {namespaces: [default]}
  when:
    cedar: >-
      principal.hasTag("duty") && principal.getTag("duty") == "yes" && resource == Cluster::"dev"
"#;

#[tokio::test]
async fn kubectl_is_let_in_where_an_expression_is_true() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let file = fleet.path("policy.yaml");
    fs::write(&file, POLICY)?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice", "--attribute", "duty=yes"]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "bob"]).await?;
    let applied = fleet.ztka(&["--org", "acme", "policy", "apply", "-f", file.to_str().context("not UTF-8")?]).await;
    if env::var_os("ZTKA_TEST_CEDAR").is_none() {
        let refused = format!("{:#}", applied.err().context("it was written by servers that cannot evaluate it")?);
        ensure!(refused.contains("built without Cedar"), "{refused}");
        return Ok(());
    }
    applied?;
    let alice = fleet.kubectl(&fleet.kubeconfig("acme", "alice").await?, "dev").await?;
    let bob = fleet.kubectl(&fleet.kubeconfig("acme", "bob").await?, "dev").await?;

    fleet.allowed(&bob, "get configmaps").await?;
    let said = fleet.refused(&bob, "get configmaps --namespace kube-public").await?;
    ensure!(said.contains("its Cedar expression is not true"), "{said}");
    let said = fleet.refused(&bob, "create configmap of-bob").await?;
    ensure!(said.contains("its Cedar expression is not true"), "{said}");
    fleet.allowed(&alice, "create configmap of-alice").await?;
    // Questions about oneself are answered alike.
    let answer = bob.run(["auth", "can-i", "create", "configmaps"]).await?;
    ensure!(answer.stdout.starts_with("no") && answer.stdout.contains("Cedar"), "{answer:?}");

    fleet.ztka(&["--org", "acme", "user", "set", "alice", "--attribute", "duty=no"]).await?;
    let said = fleet.refused(&alice, "create configmap again").await?;
    ensure!(said.contains("its Cedar expression is not true"), "{said}");
    Ok(())
}
