//! Waiting for a condition instead of sleeping.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, timeout_at};

/// How long [`wait_for`] waits at most.
pub const BOUND: Duration = Duration::from_secs(30);

/// Polls `condition` until it returns `Ok`, for at most 30 s, and returns its value.
///
/// # Errors
/// The last error of `condition`, under a line that names `what`, once the time is over.
pub async fn wait_for<T, F, Fut>(what: &str, condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    wait_for_within(BOUND, what, condition).await
}

/// [`wait_for`] with another bound. A poll that itself hangs is cut off at the bound.
///
/// # Errors
/// As [`wait_for`].
pub async fn wait_for_within<T, F, Fut>(bound: Duration, what: &str, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let end = Instant::now() + bound;
    let mut pause = Duration::from_millis(20);
    let mut last = None;
    loop {
        match timeout_at(end, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if Instant::now() < end => last = Some(error),
            outcome => {
                let latest = outcome.ok().and_then(Result::err).or(last);
                let error = latest.unwrap_or_else(|| anyhow::anyhow!("the condition itself did not return"));
                return Err(error).with_context(|| format!("waited {} s for {what}", bound.as_secs()));
            }
        }
        sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}
