//! Servers are killed and come back: kubectl works again without a change by the user.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use ztka_e2e::{Both, Client, Fleet, Installation, Load, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for, wait_for_within};

const AGENT: (&str, &str) = ("acme", "dev");
const NAMESPACE: &str = "/api/v1/namespaces/default";

fn key() -> (String, String) {
    (AGENT.0.into(), AGENT.1.into())
}

#[tokio::test]
async fn an_agent_is_killed_and_comes_back() -> Result<()> {
    let mut both = Both::start(Options::default()).await?;
    let client = Client::of(&both.through).await?;
    let mut connection = client.connect(Version::HTTP_2).await?;
    let mut watch = both.through.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("kube-root-ca.crt").await?;

    both.fleet.agents.get_mut(&key()).context("no agent")?.process.kill();
    watch.ended().await.context("a watch of a cluster that is gone")?;
    let mut away = connection.send(Method::GET, NAMESPACE, "").await?;
    for _ in 0..3 {
        assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", away.body);
        assert!(away.headers.contains_key("retry-after"));
        let status: serde_json::Value = serde_json::from_slice(&away.body)?;
        assert_eq!(status["kind"], "Status");
        away = connection.send(Method::GET, NAMESPACE, "").await?;
    }

    // kubectl tries again by itself meanwhile.
    let mut patient = both.through.spawn(["get", "namespaces", "-o", "name"])?;
    both.fleet.agents.get_mut(&key()).context("no agent")?.restart()?;
    let end = patient.ended().await?;
    let fresh = || async { client.connect(Version::HTTP_11).await?.read(NAMESPACE).await };
    wait_for("the cluster's answer", fresh).await.with_context(|| both.fleet.tails())?;
    connection.read(NAMESPACE).await?;
    assert_eq!(end, Some(0), "kubectl gave up");
    both.same("get namespaces -o name").await?;
    both.same("create configmap after --from-literal=key=value --dry-run=server -o name").await?;
    Ok(())
}

/// kubectl of the user by another proxy than the front, as a balancer would lead to it.
async fn by_proxy(fleet: &Fleet, user: &User, number: usize) -> Result<Kubectl> {
    let kubeconfig = fleet.path(&format!("by-proxy-{number}.kubeconfig"));
    let (front, other) = (fleet.front(), fleet.proxies[number].port);
    let text = fs::read_to_string(&user.kubeconfig)?;
    fs::write(&kubeconfig, text.replace(&format!("127.0.0.1:{front}"), &format!("127.0.0.1:{other}")))?;
    fleet.kubectl(&User { name: user.name.clone(), kubeconfig }, "dev").await
}

#[tokio::test]
async fn one_of_two_proxies_is_killed_and_users_of_the_other_go_on() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start_with(Installation { proxies: 2, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectls = [by_proxy(&fleet, &alice, 0).await?, by_proxy(&fleet, &alice, 1).await?];

    for killed in [1, 0] {
        let (lost, other) = (&kubectls[killed], &kubectls[1 - killed]);
        let mut watch = other.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
        watch.read_until("kube-root-ca.crt").await?;
        let load = Load::start(other, 2, NAMESPACE).await?;
        let mut cut = lost.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
        cut.read_until("kube-root-ca.crt").await?;

        fleet.proxies[killed].process.kill();
        cut.ended().await.context("a watch by a proxy that is gone")?;
        let refused = lost.run(["get", "namespaces"]).await?;
        assert!(!refused.success(), "a killed proxy answered: {}", refused.stdout);
        load.go_on(100).await?;

        fleet.proxies[killed].restart()?;
        wait_for_within(Duration::from_secs(60), "an answer by the proxy that came back", || {
            lost.ok(["get", "namespaces", "-o", "name"])
        })
        .await
        .with_context(|| fleet.tails())?;
        load.go_on(100).await?;
        let answered = load.finish().await.with_context(|| fleet.tails())?;
        let name = format!("killed-{killed}");
        lost.ok(["create", "configmap", &name]).await?;
        watch.read_until(&name).await.with_context(|| format!("after {answered} answers"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_is_killed_and_users_go_on() -> Result<()> {
    let mut both = Both::start(Options::default()).await?;
    let (_, bob) = both.colleague("bob", "edit").await?;
    bob.ok(["get", "configmaps", "-o", "name"]).await?;
    let mut watch = both.through.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("kube-root-ca.crt").await?;

    let load = Load::start(&both.through, 2, NAMESPACE).await?;
    both.fleet.controller.kill();
    load.go_on(200).await?;
    load.finish().await.with_context(|| both.fleet.tails())?;
    // A user whose account has not been used so far, and permissions in another namespace, need no controller either.
    bob.ok(["create", "configmap", "meanwhile", "--namespace", "kube-public"]).await?;

    // Nor does a proxy or an agent that is started again.
    both.fleet.proxies[0].process.kill();
    both.fleet.proxies[0].restart()?;
    let again = || both.through.ok(["get", "namespaces", "-o", "name"]);
    wait_for("a proxy without a controller", again).await.with_context(|| both.fleet.tails())?;
    let agent = both.fleet.agents.get_mut(&key()).context("no agent")?;
    agent.process.kill();
    agent.restart()?;
    wait_for("an agent without a controller", again).await.with_context(|| both.fleet.tails())?;
    bob.ok(["get", "configmap", "meanwhile", "--namespace", "kube-public"]).await?;

    let client = Client::of(&both.through).await?;
    let mut connection = client.connect(Version::HTTP_2).await?;
    connection.read(NAMESPACE).await?;
    let load = Load::start(&both.through, 2, NAMESPACE).await?;
    both.fleet.restart_controller()?;
    wait_for("the controller", || both.fleet.ztka(&["whoami"])).await.with_context(|| both.fleet.tails())?;
    load.go_on(100).await?;
    load.finish().await.with_context(|| both.fleet.tails())?;

    // What is changed then arrives.
    both.fleet.ztka(&["--org", "acme", "binding", "delete", "bob-edit-dev"]).await?;
    wait_for("the end of bob's permissions", || async {
        let output = bob.run(["get", "configmaps"]).await?;
        ensure!(!output.success() && output.stderr.contains("Forbidden"), "{}{}", output.stdout, output.stderr);
        Ok(())
    })
    .await
    .with_context(|| both.fleet.tails())?;
    both.fleet.ztka(&["--org", "acme", "user", "disable", "alice"]).await?;
    wait_for("the end of alice's sessions", || async {
        let mut connection = client.connect(Version::HTTP_11).await?;
        let answer = connection.send(Method::GET, NAMESPACE, "").await?;
        ensure!(answer.status == StatusCode::UNAUTHORIZED, "{}", answer.status);
        Ok(())
    })
    .await
    .with_context(|| both.fleet.tails())?;
    Ok(())
}
