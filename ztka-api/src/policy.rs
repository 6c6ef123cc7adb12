//! Roles and bindings on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ztka_core::{BindingName, ClusterId, ClusterName, GroupName, RoleName, UserName};

/// A rule as Kubernetes writes it (`rbac.authorization.k8s.io/v1` `PolicyRule`), and `ports`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// API groups; `""` is the core group, `*` all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources, with subresources as in `pods/log`; `*` is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// Names of objects; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; `*` only at the end.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Of `pods/portforward` alone: ports that may be forwarded to, as `8080` or `9000-9100`; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// Asks for a new role.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CreateRole {
    /// The name, unique in the organisation and none of the built-in ones.
    pub name: RoleName,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// It looks at things only, whatever its rules say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A role.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Role {
    /// The name.
    pub name: RoleName,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// It looks at things only, whatever its rules say.
    #[serde(default, rename = "readOnly", skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// It is there in every organisation and cannot be deleted.
    #[serde(default)]
    pub built_in: bool,
}

/// A user or a group, by name: `{"user": "alice"}`, `{"group": "dev"}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// One user.
    User(UserName),
    /// Everybody in the group.
    Group(GroupName),
}

/// The clusters that any of the fields selects.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterSelector {
    /// Every cluster of the organisation, those to come included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// By id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<ClusterId>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ClusterName>,
    /// All of a project, those to come included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<String>,
    /// Those that carry all of these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Those whose labels fulfil all of these, as Kubernetes writes them: `key`, `operator`, `values`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Value>,
}

/// Where in a cluster a binding holds: `"cluster"`, `"allNamespaces"`, `{"namespaces": ["dev"]}`, or
/// `{"namespaceLabels": {"team": "shop"}}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Everywhere, cluster-scoped objects included.
    Cluster,
    /// In each namespace, and nowhere outside of them.
    AllNamespaces,
    /// In these namespaces.
    Namespaces(Vec<String>),
    /// In the namespaces that carry all of these labels, as policy has them.
    NamespaceLabels(BTreeMap<String, String>),
}

/// Asks for a new binding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CreateBinding {
    /// The name, unique in the organisation.
    pub name: BindingName,
    /// The role that it gives.
    pub role: RoleName,
    /// Who gets it.
    pub subjects: Vec<Subject>,
    /// On which clusters.
    pub clusters: ClusterSelector,
    /// Where in them.
    pub scope: Scope,
    /// Counts from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// Does not count any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Counts for requests that fulfil all of this, as `docs/policy.md` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Value>,
    /// What whoever lets a request in by it has to see to, as `docs/policy.md` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obligations: Option<Value>,
}

/// A binding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The name.
    pub name: BindingName,
    /// The role that it gives.
    pub role: RoleName,
    /// Who gets it.
    pub subjects: Vec<Subject>,
    /// On which clusters.
    pub clusters: ClusterSelector,
    /// Where in them.
    pub scope: Scope,
    /// Counts from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
    /// Does not count any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Counts for requests that fulfil all of this, as `docs/policy.md` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Value>,
    /// What whoever lets a request in by it has to see to, as `docs/policy.md` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obligations: Option<Value>,
}
