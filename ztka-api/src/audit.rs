//! Audit events and findings on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{AuditId, ClusterId, UserName};

/// An event and its place.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// Its place in the order in which the controller took events in.
    pub number: u64,
    /// The event, in the shape of `audit.k8s.io/v1`.
    pub event: serde_json::Value,
}

/// Which events; everything that is set has to match.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// For this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// By this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// In this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// For this plural resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<AuditId>,
    /// `RequestReceived`, `ResponseStarted` or `ResponseComplete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Received at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Received before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only events with a smaller number: the last of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most this many; 100 by default, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on with new events, one JSON object per line, until the client hangs up; the newest `limit` come first, oldest
    /// first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// Which findings.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FindingQuery {
    /// Requests of this time or later; a day ago by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Requests before this time; two minutes ago by default, as what is on its way is not missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Where the agents' receipts and the proxies' events disagree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What is wrong, in a stable word: `receipt-without-event`, `event-without-receipt`, `differs`, `hole`,
    /// `broken-chain`.
    pub kind: String,
    /// The request, where it is about one.
    #[serde(default)]
    pub audit_id: Option<AuditId>,
    /// The cluster, where it is about one.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// Who sent the journal in which records are missing or changed: a SPIFFE id.
    #[serde(default)]
    pub source: Option<String>,
    /// What is wrong, in a sentence.
    pub message: String,
}
