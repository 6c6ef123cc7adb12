//! Audit events and findings on the wire.

use serde::{Deserialize, Serialize};

/// An event in the shape of `audit.k8s.io/v1`.
pub type Event = serde_json::Value;

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// At most this many; 100 by default, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only events older than the one with this sequence number, as the last answer's `next` said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Go on with new events, one JSON object per line, until the client hangs up; the last `limit` come first, oldest
    /// first.
    #[serde(default)]
    pub follow: bool,
}

/// Where the agents' receipts and the proxies' events disagree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What is wrong, in a stable word.
    pub kind: String,
    /// The Audit-ID of the request.
    pub audit_id: String,
    /// The cluster.
    pub cluster: String,
    /// What is wrong, in a sentence.
    pub message: String,
}
