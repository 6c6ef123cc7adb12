//! A proxy that stops is out of the directory at once, and in it again when it comes back.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::{Fleet, Installation};
use ztka_test_cluster::{Cluster, Options, wait_for_within};

/// Far below the time after which a proxy ages out of the directory, 45 s.
const SOON: Duration = Duration::from_secs(20);

/// What the agent was told of the directory, each time.
fn told(fleet: &Fleet) -> Result<Vec<usize>> {
    let log = fs::read_to_string(fleet.path("agent-acme-dev.log"))?;
    let of_line = |line: &str| {
        let line = line.contains("the directory of proxies has changed").then_some(line)?;
        let digits = line.split("proxies").last()?.chars().filter(char::is_ascii_digit).collect::<String>();
        digits.parse().ok()
    };
    Ok(log.lines().filter_map(of_line).collect())
}

#[tokio::test]
async fn a_proxy_that_stops_is_looked_for_no_more() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let wanted = Installation { proxies: 2, by_front: true, ..Installation::default() };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let last = |number: usize, fleet: &Fleet| {
        let told = told(fleet)?;
        ensure!(told.last() == Some(&number), "the agent was told of {told:?}");
        Ok(())
    };
    wait_for_within(SOON, "both in the directory", || async { last(2, &fleet) })
        .await
        .with_context(|| fleet.tails())?;
    fleet.proxies[1].process.terminate()?;
    wait_for_within(SOON, "one in the directory", || async { last(1, &fleet) }).await.with_context(|| fleet.tails())?;
    fleet.proxies[1].restart()?;
    wait_for_within(SOON, "both again", || async { last(2, &fleet) }).await.with_context(|| fleet.tails())
}
