//! How soon users are served again after a kill -9, and how soon a watch tells of a change: a whole installation with
//! two proxies in front of a real kube-apiserver, its servers killed in turn.
//!
//! ```text
//! user ──► proxy 0 ◄── agent ──► kube-apiserver      the address in the kubeconfig, when the agent is killed
//! user ──► proxy n ◄── agent ──► kube-apiserver      users of the proxy that is killed and started again
//! user ──► balancer ──► proxy 0 or 1 ◄── agent …     users who reach both, when one is killed and stays away
//! ```
//!
//! What counts is what a user sees without changing anything: GETs, each on a connection of its own as each kubectl has,
//! and kubectl itself, both asking from the kill on until they are answered.

mod ask;
mod balancer;
mod installation;
mod table;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub use self::table::Table;
use self::{
    ask::{Pressure, recovered},
    installation::Installation,
};

/// How long the controller is away while requests are counted.
const AWAY: Duration = Duration::from_secs(2);
/// Requests before it is killed, and how long they go on once it is back.
const BEFORE: usize = 50;
const AFTER: Duration = Duration::from_secs(1);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Each round kills each server once.
    pub rounds: u32,
    /// Changes in each round that watches are to tell of.
    pub changes: u32,
    /// No round is begun after so long.
    pub time: Duration,
}

/// How long it took from a kill until users were served again; one entry a round.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The first of many GETs in a row that were answered.
    pub get: Vec<Duration>,
    /// The end of the first kubectl that succeeded.
    pub kubectl: Vec<Duration>,
}

/// All that was measured.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Rounds that were made.
    pub rounds: u32,
    /// From just before a change is sent until its event has come, by a watch straight at the apiserver.
    pub watch_direct: Vec<Duration>,
    /// The same events by a watch through the installation.
    pub watch_through: Vec<Duration>,
    /// The agent was killed and started again at once.
    pub agent: Recovery,
    /// One of two proxies was killed and started again at once: its own users.
    pub proxy: Recovery,
    /// One of two proxies was killed and stayed away: users who reach both.
    pub proxy_away: Recovery,
    /// The controller was killed, was away for a while and was started again; one entry a round.
    pub controller: Vec<Meanwhile>,
}

/// Users' requests around the controller's absence.
#[derive(Clone, Debug, Default)]
pub struct Meanwhile {
    /// Requests, kubectl included.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// The longest that a GET took.
    pub slowest: Duration,
    /// From its start until the controller itself answered again.
    pub back: Duration,
}

/// Starts everything, measures in rounds, and tells `progress` what is done.
///
/// # Errors
/// When something cannot be started, or users are not served again within 30 s: with the ends of the servers' logs.
pub async fn run(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Figures> {
    progress("starting a cluster, a controller, two proxies and an agent …");
    let mut installation = Installation::start().await?;
    let (begun, mut figures) = (Instant::now(), Figures::default());
    for round in 0..plan.rounds {
        if begun.elapsed() > plan.time {
            progress("no time is left for further rounds");
            break;
        }
        let mut told = |what: &str| progress(&format!("round {}/{}, {what}", round + 1, plan.rounds));
        let measured = installation.round(round, plan.changes, &mut figures, &mut told).await;
        measured.with_context(|| installation.fleet.tails())?;
        figures.rounds += 1;
    }
    Ok(figures)
}

impl Installation {
    async fn round(
        &mut self,
        round: u32,
        changes: u32,
        figures: &mut Figures,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let delays = watch::delays(&self.direct, &self.through.client, round, changes).await?;
        progress(&format!("{changes} changes: {}", spread(&delays.through)));
        figures.watch_direct.extend(delays.direct);
        figures.watch_through.extend(delays.through);

        let killed = Instant::now();
        let agent = self.agent()?;
        agent.process.kill();
        agent.restart()?;
        let (get, kubectl) = recovered(&self.through, killed).await.context("after the agent was killed")?;
        figures.agent.add(get, kubectl, "agent killed and started again", progress);
        self.settled().await?;

        let number = round as usize % 2;
        let killed = Instant::now();
        let proxy = self.fleet.proxies.get_mut(number).context("no such proxy")?;
        proxy.process.kill();
        proxy.restart()?;
        let user = self.by_proxy.get(number).context("no such proxy")?;
        let (get, kubectl) = recovered(user, killed).await.context("after a proxy was killed")?;
        figures.proxy.add(get, kubectl, "proxy killed and started again", progress);
        self.settled().await?;

        let killed = Instant::now();
        self.fleet.proxies.get_mut(number).context("no such proxy")?.process.kill();
        let (get, kubectl) = recovered(&self.balanced, killed).await.context("with one proxy of two")?;
        figures.proxy_away.add(get, kubectl, "proxy killed and left away", progress);
        self.fleet.proxies.get_mut(number).context("no such proxy")?.restart()?;
        self.settled().await?;

        let meanwhile = self.without_controller().await.context("around the controller's absence")?;
        let Meanwhile { requests, failed, .. } = &meanwhile;
        progress(&format!("controller away and back: {failed} of {requests} requests failed"));
        figures.controller.push(meanwhile);
        Ok(())
    }

    async fn without_controller(&mut self) -> Result<Meanwhile> {
        let pressure = Pressure::start(&self.through);
        pressure.reach(BEFORE).await?;
        self.fleet.controller.kill();
        tokio::time::sleep(AWAY).await;
        let started = Instant::now();
        self.fleet.restart_controller()?;
        ztka_test_cluster::wait_for("the controller", || self.fleet.ztka(&["whoami"])).await?;
        let back = started.elapsed();
        tokio::time::sleep(AFTER).await;
        Ok(Meanwhile { back, ..pressure.finish().await? })
    }
}

impl Recovery {
    fn add(&mut self, get: Duration, kubectl: Duration, what: &str, progress: &mut impl FnMut(&str)) {
        progress(&format!("{what}: GET after {} ms, kubectl after {} ms", get.as_millis(), kubectl.as_millis()));
        self.get.push(get);
        self.kubectl.push(kubectl);
    }
}

fn spread(delays: &[Duration]) -> String {
    let longest = delays.iter().max().copied().unwrap_or_default();
    format!("the event came after {} ms at most", longest.as_millis())
}
