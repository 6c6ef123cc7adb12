//! Work that waits for a disk, a token or a slow algorithm, away from the threads that serve requests.

use super::KeyError;

/// Runs `work` where waiting is allowed: on tokio's blocking threads, or in place where there is no tokio to hold up.
///
/// A dropped future lets the work end by itself and forgets what comes of it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.map_err(|error| KeyError::Unavailable(error.into()))?,
        Err(_) => work(),
    }
}
