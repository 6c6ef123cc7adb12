//! A proxy that stops is not deaf: what is revoked during its grace ends at once.

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
