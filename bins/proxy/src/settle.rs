//! When a proxy that was restarted is ready: not before its agents are back, or users would find no cluster here.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use ztka_runtime::Process;
use ztka_tunnel::Registry;

/// Agents dial again within ten seconds, and need a moment for it.
const LONGEST: Duration = Duration::from_secs(15);
/// When no tunnel has come for so long after the first, most are there.
const QUIET: Duration = Duration::from_secs(1);

/// Says that `process` is ready once agents have come back to `registry`, at the latest after 15 s.
pub(crate) async fn ready(registry: Registry, process: Process) {
    let mut changed = registry.subscribe();
    let mut longest = pin!(sleep(LONGEST));
    let mut quiet_at: Option<Instant> = None;
    loop {
        let quiet = async move {
            match quiet_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed.changed() => match changed {
                Ok(()) if !registry.peers().is_empty() => quiet_at = Some(Instant::now() + QUIET),
                Ok(()) => {}
                Err(_) => break,
            },
            () = quiet => break,
            () = &mut longest => break,
        }
    }
    tracing::info!(tunnels = registry.peers().len(), "ready for users");
    process.ready();
}
