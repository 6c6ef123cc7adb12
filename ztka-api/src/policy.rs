//! Roles and bindings on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
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
#[serde(deny_unknown_fields)]
pub struct CreateRole {
    /// The name, unique in the organisation and none of the built-in ones.
    pub name: RoleName,
    /// What it allows.
    pub rules: Vec<Rule>,
}

/// A role.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Role {
    /// The name.
    pub name: RoleName,
    /// What it allows.
    pub rules: Vec<Rule>,
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
    /// Those that carry all of these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
}

/// Where in a cluster a binding holds: `"cluster"`, or `{"namespaces": ["dev"]}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everywhere, cluster-scoped objects included.
    Cluster,
    /// In these namespaces.
    Namespaces(Vec<String>),
}

/// Asks for a new binding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
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
}

/// A binding.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
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
}
