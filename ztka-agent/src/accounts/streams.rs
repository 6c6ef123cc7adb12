//! What is open in an account: as long as it is, the account is in use.

use std::{fmt, sync::Arc};

use ztka_core::{Clock, Hold};

use super::account::Account;

/// Keeps an account in use until dropped.
pub struct InUse(Option<(Arc<Account>, Arc<dyn Clock>)>);

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InUse").finish_non_exhaustive()
    }
}

impl InUse {
    pub(crate) fn new(account: Arc<Account>, clock: Arc<dyn Clock>) -> Self {
        account.stream(true);
        Self(Some((account, clock)))
    }

    /// Of accounts that are always there.
    pub fn of_none() -> Self {
        Self(None)
    }
}

impl Hold for InUse {}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some((account, clock)) = &self.0 {
            account.touch(clock.now());
            account.stream(false);
        }
    }
}
