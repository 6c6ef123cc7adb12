//! In which way a database fails, so that whoever is told knows what to do.

use std::{error::Error, fmt};

use ztka_core::BoxError;

/// In which way a database fails. What was asked of it has not happened then; only of [`Self::Cut`] nobody knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OutageKind {
    /// No connection to it: it is down, or the network is.
    Unreachable,
    /// The connection was cut while it was at work. If that was the commit of a change, it may have happened.
    Cut,
    /// Its disk, or what it may have of it, is full.
    Full,
    /// It may be read only: a standby, a disk that the system has set read-only, a file without the right to write.
    ReadOnly,
    /// What it has on its disk is not what it has written there.
    Damaged,
    /// Its disk cannot be read or written.
    Disk,
    /// Somebody else keeps it, or a part of it, locked for too long.
    Busy,
    /// Every connection is in use for too long, here or at the server.
    Exhausted,
}

impl OutageKind {
    /// A word that stays the same, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Cut => "cut",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Damaged => "damaged",
            Self::Disk => "disk",
            Self::Busy => "busy",
            Self::Exhausted => "exhausted",
        }
    }

    /// What to do about it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Unreachable => "see that it runs and that the controller reaches it, then try again",
            Self::Cut => "look whether the change has happened, then try again",
            Self::Full => "give it space, then try again",
            Self::ReadOnly => {
                "lead the controller to the primary, or make disk and file writable again, then try again"
            }
            Self::Damaged => "stop the controller, keep the file for inspection, and restore the last backup",
            Self::Disk => "look at the disk and the log of the system, then try again",
            Self::Busy => "look for what else uses it, and try again",
            Self::Exhausted => "try again; if it lasts, look for what keeps it busy, or allow it more connections",
        }
    }

    /// The outage among this error and its sources.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(outage) = error.downcast_ref::<Outage>() {
                return Some(outage.kind);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for OutageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the database does not answer",
            Self::Cut => "the connection to the database was cut",
            Self::Full => "the database's disk is full",
            Self::ReadOnly => "the database can be read only",
            Self::Damaged => "the database is damaged",
            Self::Disk => "the database's disk cannot be read or written",
            Self::Busy => "the database is locked by somebody else",
            Self::Exhausted => "all connections to the database are in use",
        })
    }
}

/// A database fails.
#[derive(Debug, thiserror::Error)]
#[error("{kind}; {}", kind.action())]
pub struct Outage {
    kind: OutageKind,
    #[source]
    source: BoxError,
}

impl Outage {
    /// In this way, as the database or its driver has said it.
    pub fn new(kind: OutageKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: source.into() }
    }

    /// In which way.
    pub fn kind(&self) -> OutageKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreError;

    #[test]
    fn is_found_however_deep() {
        let failed = StoreError::unavailable(Outage::new(OutageKind::Full, "no space"));
        assert_eq!(failed.outage(), Some(OutageKind::Full));
        assert_eq!(StoreError::unavailable("other").outage(), None);
        let told = Outage::new(OutageKind::Full, "no space").to_string();
        assert_eq!(told, "the database's disk is full; give it space, then try again");
    }
}
