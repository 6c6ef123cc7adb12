//! How old what is known of an organisation is, and what is said when that is too old.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use jiff::{SignedDuration, Timestamp};
use ztka_core::Reason;

/// What is known of one organisation is as of a time that whoever follows its documents tells now and then. Nobody waits for
/// anybody: requests read it, while it moves on.
#[derive(Debug)]
pub(crate) struct View {
    /// Microseconds since 1970; the largest number as long as nobody has told.
    as_of: AtomicI64,
    behind: AtomicBool,
}

impl Default for View {
    fn default() -> Self {
        Self { as_of: AtomicI64::new(i64::MAX), behind: AtomicBool::new(false) }
    }
}

impl View {
    pub(crate) fn set(&self, as_of: Timestamp, behind: bool) {
        self.behind.store(behind, Relaxed);
        self.as_of.store(as_of.as_microsecond(), Relaxed);
    }

    pub(crate) fn as_of(&self) -> Option<Timestamp> {
        let as_of = self.as_of.load(Relaxed);
        Timestamp::from_microsecond(as_of).ok()
    }

    /// Until when it is not older than `limit` (microseconds) if nothing else comes; microseconds since 1970.
    pub(crate) fn until(&self, limit: i64) -> i64 {
        self.as_of.load(Relaxed).saturating_add(limit)
    }

    /// Why nobody is let in by it.
    pub(crate) fn refusal(&self, limit: i64) -> Reason {
        let since = self.as_of().unwrap_or(Timestamp::MIN);
        let limit = SignedDuration::from_micros(limit);
        Reason::Stale(match self.behind.load(Relaxed) {
            false => format!(
                "nobody is let in here: nothing was heard of the controller since {since:.0}, for longer than max_staleness \
                 ({limit:#}); check that a controller runs and can be reached from here, and the clocks"
            ),
            true => format!(
                "nobody is let in here: the controller has signed something newer that has not come, and what is here is of \
                 {since:.0}, older than max_staleness ({limit:#}); check what is on the way to the controller, and the log"
            ),
        })
    }
}
