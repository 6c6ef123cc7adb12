//! Recordings of sessions on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{AuditId, ClusterId, UserName};

/// A recording of a session of exec or attach.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Recording {
    /// Its name: the Audit-ID of its request.
    pub id: AuditId,
    /// Whose session it was.
    pub user: UserName,
    /// On which cluster.
    pub cluster: ClusterId,
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its container, if one was named.
    #[serde(default)]
    pub container: String,
    /// `exec` or `attach`.
    pub kind: String,
    /// The words of the command.
    #[serde(default)]
    pub command: Vec<String>,
    /// There was a terminal.
    pub tty: bool,
    /// It had to be recorded.
    pub required: bool,
    /// When it was asked for.
    pub started: Timestamp,
    /// When the newest piece was closed.
    pub at: Timestamp,
    /// `running`, `complete`, `failed` or `interrupted`.
    pub state: String,
    /// Why it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The exit code of the command, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Number of its chunks; the last event of the request names it as `recording-chunks`.
    pub chunks: u64,
    /// Bytes that these take.
    pub bytes: u64,
    /// SHA-256 of the last one, which names that of the one before; `recording-hash` of the event.
    pub hash: String,
}

/// Which recordings, newest first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingQuery {
    /// Only older ones than this: the last of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<AuditId>,
    /// At most this many; 100 by default, 500 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
