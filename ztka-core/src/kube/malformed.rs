//! Why a target was not accepted.

use http::Uri;

/// Longest target, path and query together, in bytes: 60 KiB. `http::Uri` itself ends at 65,534.
pub(super) const MAX_TARGET: usize = 60 * 1024;

/// So much of a refused target is kept for the record, in characters.
const KEPT: usize = 4096;

/// A target that two parsers could read differently, or that ours does not know.
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed request: {reason}")]
pub struct Malformed {
    target: String,
    reason: &'static str,
    too_long: bool,
}

impl Malformed {
    pub(crate) fn new(target: &Uri, reason: &'static str) -> Self {
        let target = target.to_string().chars().take(KEPT).collect();
        Self { target, reason, too_long: false }
    }

    /// The target as received, cut after 4,096 characters; for the record only.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Why it was refused.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// True if it was refused for its length alone: 414, not 400.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }
}

/// What is wrong, before it is said of which target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flaw {
    /// 400, with this reason.
    Bad(&'static str),
    /// 414.
    TooLong,
}

impl Flaw {
    pub(super) fn of(self, target: &Uri) -> Malformed {
        match self {
            Self::Bad(reason) => Malformed::new(target, reason),
            Self::TooLong => {
                let reason = "the URL is longer than 61,440 bytes; shorten its selectors or ask in several requests";
                Malformed { too_long: true, ..Malformed::new(target, reason) }
            }
        }
    }
}

impl From<&'static str> for Flaw {
    fn from(reason: &'static str) -> Self {
        Self::Bad(reason)
    }
}
