//! Who is given a role, and who is denied something, where, when and on which conditions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{GroupName, UserName};

use super::{Clause, ClusterSelector, Conditions, Obligations, Rule, Scope};

/// Gives a role to users and groups on some clusters.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Binding {
    /// Unlike the name of any other binding; the audit log names it.
    pub name: String,
    /// Who.
    pub subjects: Vec<Subject>,
    /// Name of the role.
    pub role: String,
    /// On which clusters.
    pub clusters: ClusterSelector,
    /// In which part of them.
    pub scope: Scope,
    /// Counts from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// Does not count any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Counts for requests that fulfil all of this.
    #[serde(default, skip_serializing_if = "Clause::is_empty")]
    pub when: Clause<Conditions>,
    /// What whoever lets a request in by this binding has to see to.
    #[serde(default, skip_serializing_if = "Clause::is_empty")]
    pub obligations: Clause<Obligations>,
}

/// Denies what one of its rules names, whatever bindings give. What cannot be known is taken for what is denied.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Denial {
    /// Unlike the name of any other denial; the refusal names it.
    pub name: String,
    /// Whom it is about; nobody in particular is everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Subject>,
    /// Who is not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Subject>,
    /// What is denied.
    pub rules: Vec<Rule>,
    /// On which clusters.
    pub clusters: ClusterSelector,
    /// In which part of them.
    pub scope: Scope,
    /// Counts from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// Does not count any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Counts for requests that may fulfil all of this.
    #[serde(default, skip_serializing_if = "Clause::is_empty")]
    pub when: Clause<Conditions>,
    /// What people are told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A user or a group, by name: `{"user": "alice"}`, `{"group": "dev"}`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// One user.
    User(UserName),
    /// Everybody in the group.
    Group(GroupName),
}
