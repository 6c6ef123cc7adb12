//! An agent that has lost everything, or has slept for too long, joins again with a new token: the cluster, its bindings
//! and its users' kubeconfigs stay what they are.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use ztka_e2e::{Both, Fleet, Installation};
use ztka_test_cluster::{Cluster, Options, wait_for};

const ORG: &str = "acme";

/// The cluster `dev` as it is listed.
async fn dev(fleet: &Fleet) -> Result<Value> {
    let clusters = fleet.ztka_json(ORG, &["cluster", "list"]).await?;
    clusters.get(0).cloned().context("no cluster")
}

/// Kills the agent of `dev`.
fn stop(fleet: &mut Fleet) -> Result<()> {
    fleet.agents.get_mut(&(ORG.to_owned(), "dev".to_owned())).context("no agent")?.process.kill();
    Ok(())
}

fn start(fleet: &mut Fleet) -> Result<()> {
    fleet.agents.get_mut(&(ORG.to_owned(), "dev".to_owned())).context("no agent")?.restart()
}

/// Gives the agent of `dev` a new token, in the file where it has found the first one.
async fn new_token(fleet: &Fleet) -> Result<()> {
    let token = fleet.ztka(&["--org", ORG, "cluster", "token", "dev"]).await?;
    Ok(fs::write(fleet.path("agent-acme-dev.token"), token)?)
}

fn said(fleet: &Fleet) -> Result<String> {
    Ok(fs::read_to_string(fleet.path("agent-acme-dev.log"))?)
}

#[tokio::test]
async fn who_has_lost_everything_is_the_same_cluster_again() -> Result<()> {
    let mut both = Both::start(Options::default()).await?;
    let before = dev(&both.fleet).await?;
    stop(&mut both.fleet)?;
    fs::remove_dir_all(both.fleet.path("agent-acme-dev"))?;

    // The old token was for the first time only.
    start(&mut both.fleet)?;
    let agent = &mut both.fleet.agents.get_mut(&(ORG.to_owned(), "dev".to_owned())).context("no agent")?.process;
    wait_for("the end of an agent with a spent token", || {
        let is_running = agent.is_running();
        async move {
            ensure!(!is_running, "it still runs");
            Ok(())
        }
    })
    .await?;
    assert!(said(&both.fleet)?.contains("enrolment was refused"), "{}", said(&both.fleet)?);

    new_token(&both.fleet).await?;
    start(&mut both.fleet)?;
    both.fleet.kubectl(&both.alice, "dev").await?;
    both.same("get namespaces -o name").await?;
    let after = dev(&both.fleet).await?;
    assert_eq!((&before["id"], &before["server_name"]), (&after["id"], &after["server_name"]));
    let instances = |cluster: &Value| cluster["instances"].as_array().map_or(0, Vec::len);
    assert_eq!((instances(&before), instances(&after)), (1, 2), "a new agent of the same cluster");
    Ok(())
}

#[tokio::test]
async fn who_slept_past_its_certificate_and_every_authority_it_knew_joins_again() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    // What the agent knows is of another installation: none of its authorities and signing keys is left.
    let short = Installation { agent_certificates: Some("10s".into()), ..Installation::default() };
    let mut old = Fleet::start_with(short).await?;
    old.org(ORG).await?;
    old.cluster(ORG, "dev", &cluster, &[]).await?;
    wait_for("documents that the agent keeps", || async {
        let kept = fs::read_dir(old.path("agent-acme-dev/documents"))?.count();
        ensure!(kept > 1, "{kept} documents");
        Ok(())
    })
    .await?;
    stop(&mut old)?;
    let ends: Timestamp = dev(&old).await?["instances"][0]["not_after"].as_str().context("no end")?.parse()?;

    let mut both = Both::around(cluster).await?;
    let before = dev(&both.fleet).await?;
    stop(&mut both.fleet)?;
    let state = both.fleet.path("agent-acme-dev");
    fs::remove_dir_all(&state)?;
    fs::rename(old.path("agent-acme-dev"), &state)?;
    drop(old);
    wait_for("the end of its certificate", || async {
        ensure!(Timestamp::now() > ends, "it is good until {ends}");
        Ok(())
    })
    .await?;
    new_token(&both.fleet).await?;
    start(&mut both.fleet)?;
    both.fleet.kubectl(&both.alice, "dev").await.with_context(|| said(&both.fleet).unwrap_or_default())?;
    both.same("get namespaces -o name").await?;
    assert_eq!(dev(&both.fleet).await?["id"], before["id"]);
    Ok(())
}

#[tokio::test]
async fn a_new_token_replaces_a_certificate_that_is_good_and_refused() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut old = Fleet::start().await?;
    old.org(ORG).await?;
    old.cluster(ORG, "dev", &cluster, &[]).await?;
    wait_for("what the token gives to be kept", || async {
        ensure!(said(&old)?.contains("tunnel is ready"), "{}", said(&old)?);
        Ok(())
    })
    .await?;
    stop(&mut old)?;
    let mut both = Both::around(cluster).await?;
    stop(&mut both.fleet)?;
    // By its dates the certificate is good for days; nobody takes it any more.
    let state = both.fleet.path("agent-acme-dev");
    fs::remove_dir_all(&state)?;
    fs::rename(old.path("agent-acme-dev"), &state)?;
    new_token(&both.fleet).await?;
    start(&mut both.fleet)?;
    both.fleet.kubectl(&both.alice, "dev").await.with_context(|| said(&both.fleet).unwrap_or_default())?;
    assert!(said(&both.fleet)?.contains("joined again with a new token"));

    // A new token that is of no use is no harm: what is good goes on.
    stop(&mut both.fleet)?;
    new_token(&both.fleet).await?;
    let tokens = both.fleet.ztka_json(ORG, &["cluster", "token", "list", "dev"]).await?;
    let newest = tokens[0]["id"].as_str().context("no token")?;
    both.fleet.ztka(&["--org", ORG, "cluster", "token", "revoke", "dev", newest]).await?;
    start(&mut both.fleet)?;
    both.fleet.kubectl(&both.alice, "dev").await.with_context(|| said(&both.fleet).unwrap_or_default())?;
    wait_for("a word about the token", || async {
        ensure!(said(&both.fleet)?.contains("the new token is not used"), "nothing yet");
        Ok(())
    })
    .await?;
    Ok(())
}
