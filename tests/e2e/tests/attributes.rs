//! Attributes of users: real kubectl is let in by one, and out, with what is open, when it is taken away.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Options};

const POLICY: &str = "
bindings:
- name: shop-edits
  subjects: [{user: alice}, {user: bob}]
  role: edit
  clusters: {all: true}
  scope: {namespaces: [default]}
  when: {user: {team: [shop]}}
- {name: look, subjects: [{user: alice}, {user: bob}], role: view, clusters: {all: true}, scope: {namespaces: [kube-public]}}
";

#[tokio::test]
async fn kubectl_is_let_in_by_an_attribute_and_out_without_it() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    // What a controller makes in every namespace of a real cluster.
    cluster.kubectl().run(["create", "configmap", "kube-root-ca.crt"]).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let file = fleet.path("policy.yaml");
    fs::write(&file, POLICY)?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice", "--attribute", "team=shop"]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "bob", "--attribute", "team=pay"]).await?;
    fleet.ztka(&["--org", "acme", "policy", "apply", "-f", file.to_str().context("not UTF-8")?]).await?;
    let alice = fleet.kubectl(&fleet.kubeconfig("acme", "alice").await?, "dev").await?;
    let bob = fleet.kubectl(&fleet.kubeconfig("acme", "bob").await?, "dev").await?;

    fleet.allowed(&alice, "create configmap of-alice").await?;
    let said = fleet.refused(&bob, "create configmap of-bob").await?;
    ensure!(said.contains("users with another team"), "{said}");
    // Questions about oneself are answered alike.
    fleet.allowed(&alice, "auth can-i create configmaps").await?;
    let answer = bob.run(["auth", "can-i", "create", "configmaps"]).await?;
    ensure!(answer.stdout.starts_with("no") && answer.stdout.contains("another team"), "{answer:?}");

    let mut watch = alice.spawn(["get", "configmaps", "--watch"])?;
    watch.read_until("kube-root-ca.crt").await.with_context(|| fleet.tails())?;
    let begun = Instant::now();
    fleet.ztka(&["--org", "acme", "user", "set", "alice", "--no-attribute", "team"]).await?;
    watch.ended().await.with_context(|| fleet.tails())?;
    println!("a watch ended {} ms after the command that took the attribute was started", begun.elapsed().as_millis());
    let said = fleet.refused(&alice, "create configmap again").await?;
    ensure!(said.contains("users with another team"), "{said}");
    fleet.ztka(&["--org", "acme", "user", "set", "bob", "--attribute", "team=shop"]).await?;
    fleet.allowed(&bob, "create configmap of-bob").await?;

    // Nobody sets their own; and what was done is on record.
    let shown = fleet.ztka(&["--org", "acme", "user", "show", "bob"]).await?;
    ensure!(shown.contains("attributes: team=shop"), "{shown}");
    let listed = fleet.ztka_json("acme", &["user", "list"]).await?;
    ensure!(listed.to_string().contains("\"team\":\"shop\""), "{listed}");
    let events = fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "-n", "500"]).await?;
    ensure!(events.contains("\"ztka.dev/attributes\":\"-team\""), "{events}");
    Ok(())
}
