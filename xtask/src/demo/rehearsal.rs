//! The demo in a cluster that somebody has already, tried out: that it works there, and that nothing of it stays.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

use super::READY;
use crate::{
    run::{cargo, say},
    tally::Tally,
};

/// For one demo from its start to its end.
const BOUND: Duration = Duration::from_secs(240);
/// What clusters make and remove by themselves all the time.
const RESTLESS: [&str; 3] = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];

/// Runs it to its end, until Ctrl-C, and where it must not run; each is one test.
pub(crate) fn rehearse() -> Result<Tally> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let cluster = Cluster::level1(Options::default()).await?;
        let mut tally = Tally::default();
        let tests = [
            ("its lines do what they say, and nothing stays", tried(to_its_end(&cluster)).await),
            ("Ctrl-C removes everything", tried(until_interrupted(&cluster)).await),
            ("it keeps away from another installation", tried(beside_another(&cluster)).await),
        ];
        for (what, outcome) in tests {
            match outcome {
                Ok(()) => tally.passed += 1,
                Err(_) => tally.failed += 1,
            }
            let told = outcome.map_or_else(|error| format!("FAILED: {error:#}"), |()| "ok".to_owned());
            say(&format!("demo in a cluster that is there already: {what} ... {told}"));
        }
        Ok(tally)
    })
}

async fn tried(test: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(BOUND, test).await.context("it does not end")?
}

/// With the kubeconfig of the cluster's administrator. cargo becomes the program, so signals reach it.
fn demo(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::from(cargo(&["xtask", "demo", "--context=test"]));
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).kill_on_drop(true);
    command
}

async fn to_its_end(cluster: &Cluster) -> Result<()> {
    let before = settled(&cluster.kubectl()).await?;
    let status = demo(cluster, &["--check"]).status().await?;
    ensure!(status.success(), "it ended with {status}");
    unchanged(cluster, &before).await
}

async fn until_interrupted(cluster: &Cluster) -> Result<()> {
    let before = settled(&cluster.kubectl()).await?;
    let mut child = demo(cluster, &[]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    loop {
        let line = lines.next_line().await?.context("it ended by itself")?;
        say(&line);
        if line == READY {
            break;
        }
    }
    ensure!(inventory(&cluster.kubectl()).await? != before, "it has made nothing in the cluster");
    signal(&child.id().context("it has ended")?.to_string()).await?;
    // Its pipe is read to the end, so that it can go on saying what it does.
    while let Some(line) = lines.next_line().await? {
        say(&line);
    }
    let status = child.wait().await?;
    ensure!(status.success(), "it ended with {status}");
    unchanged(cluster, &before).await
}

async fn beside_another(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.ok(["create", "namespace", "ztka-system"]).await?;
    let before = settled(&kubectl).await?;
    let status = demo(cluster, &["--check"]).status().await?;
    ensure!(!status.success(), "it ran all the same");
    unchanged(cluster, &before).await
}

async fn signal(pid: &str) -> Result<()> {
    let status = Command::new("kill").args(["-INT", pid]).status().await?;
    ensure!(status.success(), "no signal can be sent to it");
    Ok(())
}

async fn unchanged(cluster: &Cluster, before: &BTreeSet<String>) -> Result<()> {
    let after = inventory(&cluster.kubectl()).await?;
    let list = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
    let (left, lost) = (list(after.difference(before).collect()), list(before.difference(&after).collect()));
    if !left.is_empty() || !lost.is_empty() {
        bail!("the cluster is not as it was; left: [{left}], lost: [{lost}]");
    }
    Ok(())
}

/// Everything in the cluster, once its own controllers have made what they make.
async fn settled(kubectl: &Kubectl) -> Result<BTreeSet<String>> {
    wait_for("the cluster to come to rest", || async {
        let (first, second) = (inventory(kubectl).await?, inventory(kubectl).await?);
        ensure!(first == second, "it still changes");
        Ok(second)
    })
    .await
}

async fn inventory(kubectl: &Kubectl) -> Result<BTreeSet<String>> {
    let kinds = kubectl.ok(["api-resources", "--verbs=list,create", "--output=name"]).await?;
    let kinds: Vec<_> = kinds.split_whitespace().filter(|kind| !RESTLESS.contains(kind)).collect();
    let columns = "custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name";
    let list = ["get", &kinds.join(","), "--all-namespaces", "--ignore-not-found", "--no-headers", "--output", columns];
    let text = kubectl.ok(list).await?;
    Ok(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}
