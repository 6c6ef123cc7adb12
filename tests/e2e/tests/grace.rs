//! A server that stops is not deaf: what is revoked during its grace ends at once, and agents hear of it too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use ztka_e2e::{Client, Fleet, Installation};
use ztka_test_cluster::{Cluster, Options, wait_for};

const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";
const GRACE: Duration = Duration::from_secs(120);
const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_during_the_grace_ends_at_once() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let grace = format!("{}s", GRACE.as_secs());
    let wanted = Installation { shutdown_delay: "1s".into(), grace, ..Installation::default() };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let mut watches = Vec::new();
    for name in ["alice", "bob"] {
        fleet.ztka(&["--org", "acme", "user", "create", name]).await?;
        fleet.bind("acme", name, "view", "dev").await?;
        let kubectl = fleet.kubectl(&fleet.kubeconfig("acme", name).await?, "dev").await?;
        wait_for("an answer", || kubectl.ok(["get", "configmaps"])).await.with_context(|| fleet.tails())?;
        let mut connection = Client::of(&kubectl).await?.connect(Version::HTTP_2).await?;
        let answer = connection.begin(Method::GET, WATCH, "").await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        watches.push((connection, answer.into_body()));
    }
    let (_bobs, mut bobs) = watches.pop().context("two")?;
    let (_alices, alices) = watches.pop().context("two")?;

    fleet.proxies[0].process.signal("TERM")?;
    let asked = Instant::now();
    fleet.ztka(&["--org", "acme", "user", "disable", "alice"]).await?;
    // Broken off, so that nobody takes it for an end.
    let ended = timeout(BOUND, alices.collect()).await.context("a watch of somebody disabled goes on")?;
    ensure!(ended.is_err(), "it has ended as if all was well");
    ensure!(asked.elapsed() < GRACE, "after {:?}", asked.elapsed());

    // Bob's goes on, and hears what is new.
    cluster.kubectl().ok(["create", "configmap", "meanwhile"]).await?;
    let mut text = Vec::new();
    while !text.windows(11).any(|part| part == b"\"meanwhile\"") {
        let frame = timeout(BOUND, bobs.frame()).await.context("no news")?.context("bob's watch has ended")??;
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    Ok(())
}

/// Nobody tells an agent that stops by its tunnels, which take nothing new: it goes on to follow the controller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_hears_who_is_disabled_meanwhile() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let agent_config = format!("grace = '{}s'\n", GRACE.as_secs());
    let mut fleet = Fleet::start_with(Installation { agent_config, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    for name in ["alice", "bob"] {
        fleet.ztka(&["--org", "acme", "user", "create", name]).await?;
        fleet.bind("acme", name, "view", "dev").await?;
    }
    let bob = fleet.kubectl(&fleet.kubeconfig("acme", "bob").await?, "dev").await?;
    wait_for("bob's account", || bob.ok(["get", "configmaps"])).await.with_context(|| fleet.tails())?;
    let alice = fleet.kubectl(&fleet.kubeconfig("acme", "alice").await?, "dev").await?;
    wait_for("an answer", || alice.ok(["get", "configmaps"])).await.with_context(|| fleet.tails())?;
    let mut connection = Client::of(&alice).await?.connect(Version::HTTP_2).await?;
    let mut watch = connection.begin(Method::GET, WATCH, "").await?;
    ensure!(watch.status() == StatusCode::OK, "{}", watch.status());
    let direct = cluster.kubectl();
    let accounts = async || -> Result<usize> {
        let made = ["get", "serviceaccounts", "-n", "ztka-system", "-l", "app.kubernetes.io/managed-by=ztka-agent"];
        let names = direct.ok(made.into_iter().chain(["-o", "name"])).await?;
        Ok(names.lines().count())
    };
    ensure!(accounts().await? == 2, "of alice and bob");

    let asked = Instant::now();
    fleet.agents[&("acme".to_owned(), "dev".to_owned())].process.signal("TERM")?;
    fleet.ztka(&["--org", "acme", "user", "disable", "bob"]).await?;
    wait_for("bob's account to be gone", || async {
        let left = accounts().await?;
        ensure!(left == 1, "{left} accounts");
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;
    ensure!(asked.elapsed() < GRACE, "after {:?}", asked.elapsed());

    // It has not ended: alice's watch goes on through it.
    direct.ok(["create", "configmap", "meanwhile"]).await?;
    let mut text = Vec::new();
    while !text.windows(11).any(|part| part == b"\"meanwhile\"") {
        let frame = timeout(BOUND, watch.body_mut().frame()).await.context("no news")?.context("it has ended")??;
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    Ok(())
}
