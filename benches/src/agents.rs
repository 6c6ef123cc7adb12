//! Ten thousand agents on one proxy: what a quiet tunnel costs, and how soon all of them are back after the proxy was
//! killed.
//!
//! Controller and proxy are the real servers, and each agent enrols by a token of its own, into a hundred organisations.
//! The agents are those of `ztka-tunnel` (TLS, HTTP/2, redialling), all in this process, and take every document that the
//! proxy has for them; behind them is nothing.

mod crowd;
mod enrol;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;
use ztka_e2e::{Fleet, Installation};
use ztka_test_cluster::wait_for_within;

pub(crate) use self::enrol::api;
pub use self::table::Table;
use self::{crowd::Crowd, enrol::Enroller};
use crate::procfs::{Usage, usage};

/// From one address comes here what comes from thousands elsewhere.
const LIMITS: &str = "limits.address_connections = 20000\nlimits.address_handshakes = 4096\n\
    limits.new_connections_burst = 1000000\nlimits.user_new_connections_burst = 1000000\nlimits.user_connections = 5000\n";
/// All of them connect, or come back, within this time or the run fails.
const PATIENCE: Duration = Duration::from_secs(600);
/// After the last has connected, documents are still on their way.
const SETTLES: Duration = Duration::from_secs(15);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Agents, a cluster each.
    pub agents: usize,
    /// Organisations that they belong to.
    pub orgs: usize,
    /// How long the quiet proxy is looked at.
    pub quiet: Duration,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How much was measured.
    pub plan: Plan,
    /// How long it took to make and enrol all of them.
    pub enrolled: Duration,
    /// What the proxy held before the first tunnel.
    pub before: Usage,
    /// What it held with all of them.
    pub after: Usage,
    /// Its processor time while nothing happened.
    pub idle: Duration,
    /// From the kill until every agent had its tunnel again.
    pub back: Duration,
    /// Connections and handshakes that agents had under way at once then.
    pub queue: usize,
    /// The slowest of those that succeeded then.
    pub slowest: Duration,
    /// Those that failed then, and were tried again.
    pub failed: usize,
}

/// Starts everything, measures, and ends it.
///
/// # Errors
/// When something does not start, or not all agents connect.
pub async fn run(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Figures> {
    let wanted = Installation {
        event_files: false,
        proxy_config: LIMITS.into(),
        log: Some("warn".into()),
        ..Installation::default()
    };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("first").await?;

    let begun = Instant::now();
    let enroller = Enroller::new(&fleet)?;
    let agents = enroller.enrol(plan, &mut progress).await.with_context(|| fleet.tails())?;
    let enrolled = begun.elapsed();
    progress(&format!("{} agents have enrolled in {:.0} s", plan.agents, enrolled.as_secs_f64()));

    let proxy = |fleet: &Fleet| {
        let proxy = fleet.proxies.first().context("no proxy")?;
        usage(proxy.process.pid()).context("the proxy has ended")
    };
    let before = proxy(&fleet)?;
    let crowd = Crowd::dial(agents, fleet.front())?;
    all(&crowd, plan.agents).await.with_context(|| fleet.tails())?;
    progress("all are connected");
    // Nothing that could be waited for: the proxy has nothing more to say.
    sleep(SETTLES).await;
    let quiet = proxy(&fleet)?;
    sleep(plan.quiet).await;
    let after = proxy(&fleet)?;
    ensure!(crowd.connected() == plan.agents, "{} of {} are connected", crowd.connected(), plan.agents);
    progress("the quiet proxy was looked at");

    crowd.begin();
    let killed = Instant::now();
    let proxy = fleet.proxies.first_mut().context("no proxy")?;
    proxy.process.kill();
    let ended = wait_for_within(PATIENCE, "all tunnels to end", || async {
        ensure!(crowd.connected() < plan.agents, "none has ended");
        Ok(())
    });
    ended.await?;
    proxy.restart()?;
    all(&crowd, plan.agents).await.with_context(|| fleet.tails())?;
    let back = killed.elapsed();
    progress("all are back");
    let attempts = crowd.attempts();
    Ok(Figures {
        plan,
        enrolled,
        before,
        after,
        idle: after.cpu.saturating_sub(quiet.cpu),
        back,
        queue: attempts.most,
        slowest: attempts.slowest,
        failed: attempts.failed,
    })
}

async fn all(crowd: &Crowd, agents: usize) -> Result<()> {
    let connected = wait_for_within(PATIENCE, "every agent's tunnel", || async {
        let connected = crowd.connected();
        ensure!(connected == agents, "{connected} of {agents} are connected: {}", crowd.why());
        Ok(())
    });
    connected.await
}
