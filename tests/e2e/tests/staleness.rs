//! An agent that hears nothing of any controller lets nobody in, says so, and goes on by itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::{Fleet, Installation};
use ztka_test_cluster::{Cluster, Options, wait_for_within};

/// Above what the agent lets pass (30 s), and what it takes to find a controller that is back.
const SOON: Duration = Duration::from_secs(90);

#[tokio::test]
async fn an_agent_that_is_kept_in_the_dark_lets_nobody_in_until_it_hears_again() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let agent_config = "max_staleness = '30s'\n".into();
    let mut fleet = Fleet::start_with(Installation { agent_config, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "view", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;
    kubectl.ok(["get", "pods"]).await?;

    fleet.controller.kill();
    kubectl.ok(["get", "pods"]).await.context("a controller that is away for a moment keeps nobody out")?;
    let refused = wait_for_within(SOON, "the agent's refusal", || async {
        let output = kubectl.run(["get", "pods"]).await?;
        ensure!(!output.success(), "let in still");
        Ok(output.stderr)
    });
    let refused = refused.await.with_context(|| fleet.tails())?;
    for words in ["nobody is let in here", "nothing was heard of the controller", "max_staleness (30s)"] {
        ensure!(refused.contains(words), "not {words:?} in:\n{refused}\n{}", fleet.tails());
    }

    fleet.restart_controller()?;
    let again = wait_for_within(SOON, "the agent lets her in again", || async { kubectl.ok(["get", "pods"]).await });
    again.await.with_context(|| fleet.tails())?;
    Ok(())
}
