//! A policy as a whole on the wire. What is in one is JSON here, as `docs/policy.md` and its JSON Schema have it.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ztka_core::{UserId, UserName};

use crate::Subject;

/// A policy at one of its versions.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PolicyState {
    /// The version; `If-Match` takes it.
    pub version: u64,
    /// All of it.
    pub policy: Value,
}

/// Which version of a policy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyQuery {
    /// The policy as it was then; by default as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// How a policy is written.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WriteQuery {
    /// Nothing is changed, and the answer says what would be.
    pub dry_run: bool,
}

/// Asks for a policy as it was.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// The version.
    pub version: u64,
    /// As in [`WriteQuery`].
    #[serde(default)]
    pub dry_run: bool,
}

/// An object of a policy, and what has become of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyObject {
    /// `project`, `cluster`, `policygroup`, `role`, `binding`, `denial`, `guardrails` or `settings`.
    pub kind: String,
    /// Its name; the id of a cluster; `default` for guardrails and settings.
    pub name: String,
    /// `created`, `updated` or `deleted`.
    pub action: String,
}

/// What a user or a group gains and loses by a change, as far as bindings give it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyPermissions {
    /// `user alice`, `group dev`.
    pub who: String,
    /// One to a line, for people.
    pub gained: Vec<String>,
    /// One to a line, for people.
    pub lost: Vec<String>,
}

/// A change of a policy that was made, or looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyChanged {
    /// The version of the policy now.
    pub version: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Which objects change; none if the policy is so already.
    pub objects: Vec<PolicyObject>,
    /// Who gains and loses what; of a dry run alone, and not where it would be too much to list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<PolicyPermissions>>,
}

/// Which part of a policy's history.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyHistoryQuery {
    /// Only versions before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// So many at most; 100 by default, and never more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A version of a policy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyVersion {
    /// The version.
    pub version: u64,
    /// When it was made.
    pub at: Timestamp,
    /// By whom; none of what there was before the first change that is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<UserId>,
    /// The author's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_name: Option<UserName>,
    /// How: `apply`, `rollback 17`, `create binding team`.
    pub act: String,
    /// How many objects it has changed.
    pub count: u64,
    /// The first of these.
    pub objects: Vec<PolicyObject>,
}

/// Asks whether a user may do something by the policy as it is, and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskPolicy {
    /// Who, with the groups that they are in.
    pub user: UserName,
    /// The cluster, by name or id.
    pub cluster: String,
    /// `VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAME] [-n NAMESPACE] [-p PORT] [-- COMMAND…]`, or `VERB /PATH`.
    pub question: String,
    /// From where; nobody knows by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// When; now by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The answer to [`AskPolicy`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyAnswer {
    /// True if they may.
    pub allowed: bool,
    /// Why, in a sentence.
    pub decision: String,
    /// Everything that was looked at, for people.
    pub explanation: String,
}

/// Asks who may do something by the policy as it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskWhoCan {
    /// As in [`AskPolicy`].
    pub cluster: String,
    /// As in [`AskPolicy`].
    pub question: String,
    /// As in [`AskPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// As in [`AskPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// A user or a group that may do what was asked, by itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WhoCan {
    /// Who.
    pub subject: Subject,
    /// The binding by which.
    pub binding: String,
    /// The role by which.
    pub role: String,
}
