//! What may be asked of the transparency log. What it answers is as `ztka-audit` has it, which also checks it: exact bytes
//! matter there.

use serde::{Deserialize, Serialize};
use ztka_core::AuditId;

/// Which signed head; the newest by default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHeadQuery {
    /// The one of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The first that is larger than this: to read all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Of which leaves proofs are asked for: those of a request, or one; the newest by default.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogProofQuery {
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<AuditId>,
    /// Its event of this stage alone: `RequestReceived`, `ResponseStarted` or `ResponseComplete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<u64>,
    /// In the tree of the head of this size; the newest by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Between which sizes of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    /// The smaller; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The larger; that of now by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<u64>,
}

/// Which part of the log; all of it by default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// The first leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The leaf after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Under the head of this size; the newest by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}
