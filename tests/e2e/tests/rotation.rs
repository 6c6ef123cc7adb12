//! Certificate authorities are replaced under load, and nobody notices.

use std::{fs, io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::{Fleet, Installation, Load};
use ztka_test_cluster::{Cluster, Kubectl, Options, Running, wait_for, wait_for_within};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "web:1"}]}
"#;

async fn pki(fleet: &Fleet) -> Result<Value> {
    Ok(serde_json::from_str(&fleet.ztka(&["--output", "json", "pki", "status"]).await?)?)
}

fn authority<'a>(pki: &'a Value, name: &str) -> Result<&'a Value> {
    let all = pki["authorities"].as_array().context("authorities")?;
    all.iter().find(|one| one["name"] == name).with_context(|| format!("no authority {name}"))
}

/// Waits until `name` is signed by another key than `before`, and its rotation is over or waits for what `over` says.
async fn replaced(fleet: &Fleet, name: &str, before: &Value, over: impl Fn(&Value) -> bool) -> Result<()> {
    let done = wait_for_within(Duration::from_secs(120), "a rotation", || async {
        let now = pki(fleet).await?;
        let now = authority(&now, name)?;
        ensure!(now["key"] != before["key"] && over(&now["rotation"]), "{name} is at {now:#}");
        Ok(())
    });
    done.await.with_context(|| fleet.tails())
}

/// What goes on meanwhile: a word goes through each stream.
struct Streams<'a> {
    cluster: &'a Cluster,
    logs: Running,
    watch: Running,
    exec: Running,
}

impl Streams<'_> {
    async fn go_on(&mut self, direct: &Kubectl, word: &str) -> Result<()> {
        let mut log = fs::OpenOptions::new().append(true).open(self.cluster.slot().folder().join("pod.cri"))?;
        writeln!(log, "2026-01-01T00:00:02.000000000Z stdout F {word}")?;
        self.logs.read_until(word).await.context("kubectl logs --follow")?;
        direct.ok(["create", "configmap", word]).await?;
        self.watch.read_until(word).await.context("kubectl get --watch")?;
        self.exec.write(format!("{word}\n")).await?;
        self.exec.read_until(word).await.context("kubectl exec")?;
        for stream in [&mut self.logs, &mut self.watch, &mut self.exec] {
            ensure!(stream.child().try_wait()?.is_none(), "a stream has ended");
        }
        Ok(())
    }
}

#[tokio::test]
async fn authorities_are_replaced_while_kubectl_works_and_streams_go_on() -> Result<()> {
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let short = Installation {
        agent_certificates: Some("4m".into()),
        controller_config: "proxy = '4m'\n".into(),
        ..Installation::default()
    };
    let mut fleet = Fleet::start_with(short).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;
    let direct = cluster.kubectl();
    wait_for("the default account", || direct.ok(["get", "serviceaccount", "default"])).await?;
    kubectl.apply(POD).await?;
    kubectl.ok(["wait", "pod/web", "--for=condition=Ready", "--timeout=30s"]).await?;

    let mut logs = kubectl.spawn(["logs", "--follow", "web"])?;
    logs.read_until("second line").await?;
    let mut watch = kubectl.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("kube-root-ca.crt").await?;
    let mut exec = kubectl.spawn(["exec", "--stdin", "web", "--", "cat"])?;
    exec.write("begin\n").await?;
    exec.read_until("begin").await?;
    let mut streams = Streams { cluster: &cluster, logs, watch, exec };
    let load = Load::start(&kubectl, 2, "/api/v1/namespaces/default/pods/web").await?;

    // Everybody confirms what they go by.
    wait_for_within(Duration::from_secs(30), "confirmation of every member", || async {
        let pki = pki(&fleet).await?;
        ensure!(pki["members"] == 2 && pki["current"] == 2, "{pki:#}");
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;

    for name in ["agents", "servers", "proxies", "controllers", "signing"] {
        let before = pki(&fleet).await?;
        let before = authority(&before, name)?;
        fleet.ztka(&["pki", "rotate", name]).await?;
        replaced(&fleet, name, before, Value::is_null).await?;
        load.go_on(50).await.with_context(|| format!("{name}\n{}", fleet.tails()))?;
        streams
            .go_on(&direct, &format!("rotated-{name}"))
            .await
            .with_context(|| format!("{name}\n{}", fleet.tails()))?;
    }

    // The root: kubeconfigs that know the old one alone are waited for, and go on working.
    let before = pki(&fleet).await?;
    let before = authority(&before, "root")?;
    fleet.ztka(&["pki", "rotate", "root"]).await?;
    let waits = |rotation: &Value| {
        let waiting = rotation["waiting"].as_array().cloned().unwrap_or_default();
        // The administrator's own, and Alice's.
        rotation["phase"] == "activated"
            && waiting.len() == 2
            && waiting.iter().all(|one| one["awaited"].to_string().contains("old root"))
    };
    replaced(&fleet, "root", before, waits).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "bob"]).await?;
    fleet.bind("acme", "bob", "cluster-admin", "dev").await?;
    let new = fleet.kubeconfig("acme", "bob").await?;
    let only_new = fs::read_to_string(&new.kubeconfig)?;
    ensure!(only_new != fs::read_to_string(&alice.kubeconfig)?);
    fleet.kubectl(&new, "dev").await?.ok(["get", "pods"]).await?;
    kubectl.ok(["get", "pods"]).await.context("with the old root alone, by the cross-certificate")?;
    load.go_on(50).await?;
    streams.go_on(&direct, "rotated-root").await?;

    // Steps by hand, back and forth; and what is not allowed says why.
    fleet.ztka(&["pki", "rotate", "users", "publish"]).await?;
    let early = fleet.ztka(&["pki", "rotate", "users", "retire"]).await;
    let early = format!("{:#}", early.err().context("retire came before activate")?);
    ensure!(early.contains("activate or rollback comes next"), "{early}");
    fleet.ztka(&["pki", "rotate", "users", "rollback"]).await?;
    let shown = fleet.ztka(&["pki", "status"]).await?;
    ensure!(shown.contains("2 agents and proxies") && shown.contains("activated, automatic"), "{shown}");

    // The controller is killed in the middle of a rotation, and the next one finishes it.
    let before = pki(&fleet).await?;
    let before = authority(&before, "agents")?;
    fleet.ztka(&["pki", "rotate", "agents"]).await?;
    fleet.controller.kill();
    fleet.restart_controller()?;
    replaced(&fleet, "agents", before, Value::is_null).await?;
    streams.go_on(&direct, "after-the-crash").await?;
    kubectl.ok(["get", "pods"]).await?;
    let answered = load.finish().await.with_context(|| fleet.tails())?;
    ensure!(answered > 300, "only {answered} requests were made meanwhile");

    // On record, the steps that the controller has taken by itself as well.
    let record = fleet.ztka(&["--output", "json", "audit", "tail", "-n", "500"]).await?;
    for step in ["/pki/authorities/agents/publish", "/pki/authorities/agents/retire", "/pki/authorities/users/rollback"]
    {
        ensure!(record.contains(step), "{step} is not on record");
    }
    Ok(())
}

#[tokio::test]
async fn in_an_emergency_agents_are_cut_off_and_join_again_under_their_names() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;
    let mut watch = kubectl.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("kube-root-ca.crt").await?;

    let lost = fleet.ztka(&["pki", "rotate", "agents", "--emergency"]).await?;
    ensure!(lost.contains("1 left outside") && lost.contains("/agent/"), "{lost}");
    let open = watch.read_until("a-name-that-nothing-has").await.err().context("a name that nothing has")?;
    ensure!(open.to_string().contains("the command ended"), "{open:#}\n{}", fleet.tails());
    ensure!(kubectl.ok(["get", "pods"]).await.is_err(), "the agent is not believed");

    let token = fleet.ztka(&["--org", "acme", "cluster", "token", "dev"]).await?;
    fs::write(fleet.path("agent-acme-dev.token"), token)?;
    fs::remove_file(fleet.path("agent-acme-dev/credential.pem"))?;
    let agent = fleet.agents.get_mut(&("acme".into(), "dev".into())).context("no such agent")?;
    agent.process.kill();
    agent.restart()?;
    let again = wait_for_within(Duration::from_secs(60), "the cluster", || async { kubectl.ok(["get", "pods"]).await });
    again.await.with_context(|| fleet.tails())?;
    Ok(())
}
