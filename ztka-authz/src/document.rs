//! The policy of one organisation as it is written down: clusters, roles, bindings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ztka_core::{ClusterId, GroupName, UserName};

use crate::Ports;

/// Body of a `policy` document. Nothing is allowed that no binding allows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// The organisation's clusters. A cluster that is not listed does not exist for policy.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
    /// Roles beside the built-in ones (`cluster-admin`, `edit`, `view`).
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Who has which role where.
    #[serde(default)]
    pub bindings: Vec<Binding>,
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
    pub labels: BTreeMap<String, String>,
}

/// A named list of rules; the role allows what one of them allows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Unlike the name of any other role, built-in ones included.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
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

/// Gives a role to users and groups on some clusters.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
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

/// The clusters that any of the fields selects; without any field set, none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterSelector {
    /// Every cluster of the organisation, later ones included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// By id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<ClusterId>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Clusters that carry all of these labels; never empty, which is what `all` is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
}

impl ClusterSelector {
    /// True if `cluster` is meant.
    pub fn selects(&self, cluster: &Cluster) -> bool {
        let carries = |(key, value): (&String, &String)| cluster.labels.get(key) == Some(value);
        self.all
            || self.ids.contains(&cluster.id)
            || self.names.contains(&cluster.name)
            || self.match_labels.as_ref().is_some_and(|labels| !labels.is_empty() && labels.iter().all(carries))
    }
}

/// How far a binding goes: `"cluster"`, or `{"namespaces": ["dev"]}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All namespaces, cluster-scoped resources and non-resource paths.
    Cluster,
    /// These namespaces, and nothing outside of them.
    Namespaces(Vec<String>),
}

/// What applies to an organisation as a whole; by default everything is off.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Role `view` may read secrets.
    #[serde(default)]
    pub view_secrets: bool,
    /// Role `view` may run commands in containers.
    #[serde(default)]
    pub view_exec: bool,
}
