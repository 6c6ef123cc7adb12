//! One session ends, and the user's others go on.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

/// A new session of alice's, by a kubeconfig in the form of JSON, which kubectl reads like the other.
async fn session(fleet: &Fleet, name: &str) -> Result<Kubectl> {
    let file = fleet.path(&format!("{name}.kubeconfig"));
    let kubeconfig = fleet.ztka_json("acme", &["kubeconfig", "--user", "alice"]).await?;
    fs::write(&file, kubeconfig.to_string())?;
    let kubectl = Kubectl::new(&file).await?.context("dev");
    wait_for("the new session", || async { kubectl.ok(["get", "pods"]).await }).await.with_context(|| fleet.tails())?;
    Ok(kubectl)
}

async fn active(fleet: &Fleet) -> Result<Vec<String>> {
    let listed = fleet.ztka_json("acme", &["session", "list", "--user", "alice"]).await?;
    let active = listed.as_array().into_iter().flatten().filter(|session| session["revoked"].is_null());
    Ok(active.filter_map(|session| session["id"].as_str()).map(str::to_owned).collect())
}

#[tokio::test]
async fn one_session_is_ended_alone() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "view", "dev").await?;
    let lost = session(&fleet, "lost").await?;
    let lost_id = active(&fleet).await?.pop().context("no session")?;
    let kept = session(&fleet, "kept").await?;
    ensure!(active(&fleet).await?.len() == 2, "two sessions");

    let said = fleet.ztka(&["--org", "acme", "session", "end", &lost_id, "--user", "alice"]).await?;
    ensure!(said == format!("session {lost_id} of alice ended"), "{said}");
    let left = active(&fleet).await?;
    ensure!(left.len() == 1 && !left.contains(&lost_id), "{left:?}");
    let refused = wait_for("the end of the session", || async {
        let output = lost.run(["get", "pods"]).await?;
        ensure!(!output.success(), "still in");
        Ok(output.stderr)
    });
    let refused = refused.await.with_context(|| fleet.tails())?;
    ensure!(refused.contains("You must be logged in to the server"), "{refused}");
    kept.ok(["get", "pods"]).await?;

    let unknown = fleet.ztka(&["--org", "acme", "session", "end", "knone", "--user", "alice"]).await;
    let unknown = unknown.err().context("an unknown session ended")?.to_string();
    ensure!(unknown.contains("ztka session list --user alice"), "{unknown}");
    Ok(())
}
