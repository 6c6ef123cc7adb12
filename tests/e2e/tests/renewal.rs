//! An agent's certificates are renewed under load, and nobody notices.

use std::{fs, io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::{Fleet, Installation, Load};
use ztka_test_cluster::{Cluster, Options, wait_for, wait_for_within};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "web:1"}]}
"#;

/// When the current certificate of the cluster's agent ends.
async fn expiry(fleet: &Fleet) -> Result<String> {
    let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
    let expiry = clusters.pointer("/0/instances/0/not_after").and_then(|expiry| expiry.as_str());
    Ok(expiry.context("no agent with a valid certificate")?.to_owned())
}

/// How many tunnels the agent has had.
fn tunnels(fleet: &Fleet) -> Result<usize> {
    let log = fs::read_to_string(fleet.path("agent-acme-dev.log"))?;
    Ok(log.matches("tunnel is ready").count())
}

#[tokio::test]
async fn no_stream_ends_and_no_request_fails_while_certificates_are_renewed() -> Result<()> {
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let short = Installation { agent_certificates: Some("30s".into()), ..Installation::default() };
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
    let spdy = kubectl.clone().env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    let mut spdy = spdy.spawn(["exec", "--stdin", "web", "--", "cat"])?;
    spdy.write("begin\n").await?;
    spdy.read_until("begin").await?;
    let load = Load::start(&kubectl, 4, "/api/v1/namespaces/default/pods/web").await?;

    // Renewal comes at 60 to 67 % of a life, so the first certificate has expired at the second one.
    let (mut current, had) = (expiry(&fleet).await?, tunnels(&fleet)?);
    for renewal in 1..=2 {
        current = wait_for_within(Duration::from_secs(60), "a renewal", || async {
            let now = expiry(&fleet).await?;
            ensure!(now != current, "the certificate still ends at {now}");
            Ok(now)
        })
        .await
        .with_context(|| fleet.tails())?;
        wait_for("a tunnel with the new certificate", || async {
            let tunnels = tunnels(&fleet)?;
            ensure!(tunnels >= had + renewal, "{tunnels} tunnels so far");
            Ok(())
        })
        .await?;
        load.go_on(100).await?;

        let word = format!("renewal-{renewal}");
        let mut log = fs::OpenOptions::new().append(true).open(cluster.slot().folder().join("pod.cri"))?;
        writeln!(log, "2026-01-01T00:00:02.000000000Z stdout F {word}")?;
        logs.read_until(&word).await.context("kubectl logs --follow")?;
        direct.ok(["create", "configmap", &word]).await?;
        watch.read_until(&word).await.context("kubectl get --watch")?;
        exec.write(format!("{word}\n")).await?;
        exec.read_until(&word).await.context("kubectl exec")?;
        spdy.write(format!("{word}\n")).await?;
        spdy.read_until(&word).await.context("kubectl exec over SPDY")?;
    }
    let answered = load.finish().await.with_context(|| fleet.tails())?;
    ensure!(answered > 500, "only {answered} requests were made meanwhile");
    // A simulated node does not pass on the end of standard input, so none of the streams ends by itself.
    for stream in [&mut logs, &mut watch, &mut exec, &mut spdy] {
        ensure!(stream.child().try_wait()?.is_none(), "a stream has ended");
    }
    Ok(())
}
