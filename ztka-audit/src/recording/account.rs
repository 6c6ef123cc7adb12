//! What the record of a request says of its recording.
#![cfg_attr(not(feature = "recordings"), allow(dead_code, reason = "who makes one is behind the feature"))]

use std::{fmt, sync::Arc};

use crate::Hash;

/// How a recording is, or has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    /// `running`, `complete`, `failed` or `refused`.
    pub(crate) state: &'static str,
    /// Number of its chunks, and the hash of the last one.
    pub(crate) chunks: Option<(u64, Hash)>,
    /// Why it is not complete.
    pub(crate) reason: Option<String>,
    /// The stream was ended for it.
    pub(crate) cut: bool,
}

/// Extension of a reply's head: asked at its start and its end, it says how the recording is.
#[derive(Clone)]
pub(crate) struct RecordedSession(Arc<dyn Fn() -> Account + Send + Sync>);

impl RecordedSession {
    pub(crate) fn new(account: impl Fn() -> Account + Send + Sync + 'static) -> Self {
        Self(Arc::new(account))
    }

    pub(crate) fn account(&self) -> Account {
        (self.0)()
    }
}

impl fmt::Debug for RecordedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordedSession").field(&self.account()).finish()
    }
}
