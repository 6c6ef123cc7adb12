//! How soon a change is enforced everywhere: a real controller, and a hundred proxies that hear of it.
//!
//! ```text
//! API ──► controller (SQLite) ──feed──► proxy 1: documents ► session, trust, policy ─► the next request is refused
//!                             ──feed──► proxy 2: …                                  └► the open watch is ended
//!                             ──feed──► … 100
//! ```
//!
//! The controller is the server itself, on a runtime of its own. Each proxy has joined by a token of its own, follows the feed
//! over a connection of its own, and has trust, policy, sessions, and the layers of a proxy's way of a request in front of an
//! answer that never ends; there is no cluster. All are in this process.
//!
//! For each change every proxy has let in somebody whom the change is about, and holds one watch of theirs. From then on it
//! asks again whenever it has heard something new, and never by the clock, until the request is refused; and it waits for the
//! end of the watch.

mod proxy;
mod table;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

pub use self::table::Table;
use self::{
    proxy::Proxy,
    world::{Kind, World},
};

/// Nothing takes longer, or the run fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Proxies that join at the same time.
const ABREAST: usize = 8;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Proxies that follow the controller.
    pub proxies: usize,
    /// Changes of each kind.
    pub changes: usize,
    /// Bindings of others, which make the policy as large as one is.
    pub bindings: usize,
}

/// What was seen of one kind of change.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was changed.
    pub what: &'static str,
    /// From the answer of the API until a proxy refused the next request, of each proxy and change; sorted.
    pub refused: Vec<Duration>,
    /// The same from when the API was called; sorted.
    pub refused_since_call: Vec<Duration>,
    /// From the answer of the API until an open watch was ended; sorted. Those that were not are missing.
    pub ended: Vec<Duration>,
    /// Watches that were open.
    pub open: usize,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How much was measured.
    pub plan: Plan,
    /// How long it took until all proxies had joined and knew everything.
    pub joined: Duration,
    /// By kind of change.
    pub kinds: Vec<Seen>,
}

/// Starts everything, measures, and ends it.
///
/// # Errors
/// When something does not start, or a change is not enforced within a minute.
pub async fn run(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Figures> {
    let begun = Instant::now();
    let mut world = World::start(plan.bindings).await?;
    let joining = (0..plan.proxies).map(|number| Proxy::join(&world, number));
    let joining = stream::iter(joining.collect::<Vec<_>>()).buffer_unordered(ABREAST);
    let proxies: Vec<Arc<Proxy>> = joining.map_ok(Arc::new).try_collect().await?;
    let joined = begun.elapsed();
    progress(&format!("{} proxies have joined in {:.0} s", plan.proxies, joined.as_secs_f64()));

    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let mut seen =
            Seen { what: kind.what(), refused: Vec::new(), refused_since_call: Vec::new(), ended: Vec::new(), open: 0 };
        for number in 0..plan.changes {
            let changed = change(&mut world, &proxies, kind, &mut seen).await;
            changed.with_context(|| format!("{}, change {}", kind.what(), number + 1))?;
        }
        for times in [&mut seen.refused, &mut seen.refused_since_call, &mut seen.ended] {
            times.sort_unstable();
        }
        progress(&format!("{}: {} changes were enforced", kind.what(), plan.changes));
        kinds.push(seen);
    }
    Ok(Figures { plan, joined, kinds })
}

/// One change: made when every proxy has let its user in and waits, and taken back behind it.
async fn change(world: &mut World, proxies: &[Arc<Proxy>], kind: Kind, seen: &mut Seen) -> Result<()> {
    let waits = Arc::new(Barrier::new(proxies.len() + 1));
    let mut watching = JoinSet::new();
    for proxy in proxies {
        let (proxy, person, waits) = (proxy.clone(), world.person(kind).clone(), waits.clone());
        watching.spawn(async move {
            let connection = proxy.connection(&person).await?;
            proxy.until(&connection, kind, true).await?;
            let watch = proxy.watch(&connection, kind).await?;
            waits.wait().await;
            let (refused, ended) =
                tokio::join!(proxy.until(&connection, kind, false), timeout(PATIENCE, proxy::ended(watch)));
            anyhow::Ok((refused?, ended.ok()))
        });
    }
    tokio::select! {
        _ = waits.wait() => {}
        // Whoever fails does not come to the barrier.
        Some(done) = watching.join_next() => {
            done??;
            bail!("a proxy has refused before anything was changed");
        }
    }
    let called = Instant::now();
    world.apply(kind).await?;
    let answered = Instant::now();
    while let Some(done) = watching.join_next().await {
        let (refused, ended) = done??;
        seen.refused.push(refused.saturating_duration_since(answered));
        seen.refused_since_call.push(refused.saturating_duration_since(called));
        seen.ended.extend(ended.map(|ended| ended.saturating_duration_since(answered)));
        seen.open += 1;
    }
    world.take_back(kind).await
}
