//! The policy of one organisation as it is written down: clusters, roles, bindings, what is denied, what is guarded.

mod binding;
mod clause;
mod condition;
mod guardrail;
mod recording;
mod selector;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ztka_core::{ClusterId, GroupName};

pub(crate) use self::selector::carries;
pub use self::{
    binding::{Binding, Denial, Subject},
    clause::Clause,
    condition::{CommandPattern, Conditions, Day, Hours, InvalidClause, MfaDemand, MfaStrength, UtcOffset},
    guardrail::{AuditLevel, Gate, Gates, Guardrails, Obligations, Opening, ProtectedAccess, ProtectedNamespaces},
    selector::{ClusterSelector, Operator, Requirement, Scope},
};
use crate::Ports;

/// Labels, of a cluster or of a namespace.
pub type Labels = BTreeMap<String, String>;

/// Body of a `policy` document. Nothing is allowed that no binding allows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// The organisation's clusters. A cluster that is not listed does not exist for policy.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
    /// What clusters are grouped by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<Project>,
    /// Groups kept in policy itself, beside those that sessions name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Roles beside the built-in ones ([`builtin_roles`](crate::builtin_roles)).
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Who has which role where.
    #[serde(default)]
    pub bindings: Vec<Binding>,
    /// What is denied, whatever bindings give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<Denial>,
    /// What no role reaches without a setting of its own.
    #[serde(default, skip_serializing_if = "Guardrails::is_default")]
    pub guardrails: Guardrails,
    /// What applies to the organisation as a whole.
    #[serde(default)]
    pub settings: Settings,
}

/// A cluster, as bindings select it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its immutable id.
    pub id: ClusterId,
    /// What people call it; the name of its context in a kubeconfig.
    pub name: String,
    /// What label selectors look at.
    #[serde(default)]
    pub labels: Labels,
    /// The project that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Its namespaces as far as they are known, with the labels that policy may look at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<String, Labels>,
}

impl Cluster {
    /// A cluster without labels, outside of every project.
    pub fn new(id: ClusterId, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), labels: Labels::new(), project: None, namespaces: BTreeMap::new() }
    }
}

/// Some of an organisation's clusters.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Unlike the name of any other project.
    pub name: String,
}

/// People and groups under one name. Who is in a group that is a member is a member too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What sessions may call a group as well: who has it by either is in it.
    pub name: GroupName,
    /// Who is in it.
    pub members: Vec<Subject>,
}

/// A named list of rules; the role allows what one of them allows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Role {
    /// Unlike the name of any other role, built-in ones included.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// It looks at things only, whatever its rules say; [`Settings`] say what of the confidential it may look at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// `PolicyRule` of `rbac.authorization.k8s.io/v1`, in its own spelling.
///
/// A rule is about resources (`apiGroups` and `resources`, optionally `resourceNames`) or about `nonResourceURLs`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, `""` being the core group, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, or `*` for all resources and subresources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Objects by name; none for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Ports of pods, in rules about `pods/portforward` alone; none for all of them. Not part of Kubernetes' RBAC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// Paths outside the API groups, `*` only at the end; they count in cluster-wide bindings only.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// What applies to an organisation as a whole; by default everything is off.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Read-only roles may read secrets.
    #[serde(default)]
    pub view_secrets: bool,
    /// Read-only roles may run commands in containers.
    #[serde(default)]
    pub view_exec: bool,
}
