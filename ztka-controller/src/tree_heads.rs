//! Signed heads of the transparency logs: each minute where one has grown, and whenever it has grown by much.
//!
//! The log is in the store, so that of whichever controllers sign, all say the same of a size; of each size the first head
//! is kept and is the only one that anybody is shown.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ztka_audit::{
    GrownLog, HeadAt,
    log::{SignedHead, TreeHead, edge},
};
use ztka_core::{BoxError, OrgId};
use ztka_pki::IssueError;

use crate::Controller;

/// Between two looks at which logs have grown.
const LOOK: Duration = Duration::from_secs(5);
/// A log that has grown gets a head after this long.
const EVERY: SignedDuration = SignedDuration::from_secs(60);
/// Or as soon as it has grown by so many leaves.
const STEP: u64 = 1 << 14;

/// Why a head cannot be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeHeadError {
    /// The store fails.
    #[error("the transparency log cannot be read")]
    Store(#[source] BoxError),
    /// The signing key cannot be used.
    #[error("a tree head cannot be signed")]
    Sign(#[from] IssueError),
    /// What is stored is not a tree.
    #[error("the tree of the transparency log of {0} is not whole: restore a backup")]
    Broken(OrgId),
}

/// Whether a log needs a head now.
fn is_due(log: &GrownLog, now: Timestamp) -> bool {
    let Some((size, at)) = log.head else { return true };
    // A head from the future was signed by a clock that has been set back since.
    let age = now.duration_since(at);
    log.size.saturating_sub(size) >= STEP || age >= EVERY || age < -EVERY
}

impl Controller {
    /// Signs heads as they become due, without end.
    pub(crate) async fn keep_tree_heads(&self) {
        loop {
            if let Err(error) = self.sign_tree_heads().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "tree heads cannot be signed now");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Signs the heads of transparency logs that are due; tells how many.
    ///
    /// # Errors
    /// [`TreeHeadError`]: the first one; the others are signed.
    pub async fn sign_tree_heads(&self) -> Result<usize, TreeHeadError> {
        let logs = self.0.stores.log.grown_logs(None).await.map_err(TreeHeadError::Store)?;
        let (mut signed, mut failed) = (0, None);
        for log in logs.iter().filter(|log| is_due(log, self.now())) {
            match self.sign_tree_head(log).await {
                Ok(is_new) => signed += usize::from(is_new),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(signed), Err)
    }

    /// The newest head of a log, signed now if there are leaves that none is of; none of a log without leaves.
    pub(crate) async fn newest_tree_head(&self, org: &OrgId) -> Result<Option<SignedHead>, TreeHeadError> {
        let log = &self.0.stores.log;
        for grown in log.grown_logs(Some(org)).await.map_err(TreeHeadError::Store)? {
            self.sign_tree_head(&grown).await?;
        }
        log.head(org, HeadAt::Newest).await.map_err(TreeHeadError::Store)
    }

    /// Signs the head of a log at its size; false if somebody else was first.
    ///
    /// # Errors
    /// [`TreeHeadError`]
    pub async fn sign_tree_head(&self, log: &GrownLog) -> Result<bool, TreeHeadError> {
        let GrownLog { org, epoch, size, .. } = log;
        let store = &self.0.stores.log;
        let ids: Vec<_> = edge(*size).into_iter().map(|(id, _)| id).collect();
        let tiles = store.tiles(org, &ids).await.map_err(TreeHeadError::Store)?;
        let root = tiles.root(*size).ok_or_else(|| TreeHeadError::Broken(org.clone()))?;
        // The store keeps microseconds; what is signed says the same.
        let now = self.now();
        let time = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let head = TreeHead { org: org.clone(), epoch: *epoch, size: *size, root, time };
        let text = SignedHead::text(&head);
        let (key, signature, chain) = self.hierarchy().sign_with_chain(&SignedHead::message(&text)).await?;
        let signed = SignedHead::new(text, key, &signature, SignedHead::chain_of(chain));
        store.add_head(&head, &signed).await.map_err(TreeHeadError::Store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_due_each_minute_and_at_size_steps() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let log = |size, head| GrownLog { org: "acme".parse().unwrap(), epoch: 1, size, head };
        assert!(is_due(&log(1, None), at(0)));
        assert!(!is_due(&log(2, Some((1, at(0)))), at(59)));
        assert!(is_due(&log(2, Some((1, at(0)))), at(60)));
        assert!(is_due(&log(1 + STEP, Some((1, at(0)))), at(1)));
        assert!(!is_due(&log(2, Some((1, at(30)))), at(0)), "clocks differ");
        assert!(is_due(&log(2, Some((1, at(3600)))), at(0)), "the clock was set back");
    }
}
