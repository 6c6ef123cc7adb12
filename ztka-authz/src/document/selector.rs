//! Clusters by name, project or label, and the part of them that is meant.

use serde::{Deserialize, Serialize};
use ztka_core::ClusterId;

use super::{Cluster, Labels};

/// The clusters that any of the fields selects (both fields about labels count as one); without any field set, none.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
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
    /// All of a project, later ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<String>,
    /// Clusters that carry all of these labels; never empty, which is what `all` is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<Labels>,
    /// Clusters whose labels fulfil all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a Kubernetes label selector.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
    /// Of which values; for the first two operators alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What is required of a label, in Kubernetes' own words.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Operator {
    /// It is there and has one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Requirement {
    /// True if `labels` fulfil it.
    pub fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl ClusterSelector {
    /// True if `cluster` is meant.
    pub fn selects(&self, cluster: &Cluster) -> bool {
        self.all
            || self.ids.contains(&cluster.id)
            || self.names.contains(&cluster.name)
            || cluster.project.as_ref().is_some_and(|project| self.projects.contains(project))
            || self.selects_labels(&cluster.labels)
    }

    /// True if the selector looks at labels at all.
    pub(crate) fn is_by_label(&self) -> bool {
        self.match_labels.as_ref().is_some_and(|labels| !labels.is_empty()) || !self.match_expressions.is_empty()
    }

    fn selects_labels(&self, labels: &Labels) -> bool {
        self.is_by_label()
            && self.match_labels.as_ref().is_none_or(|wanted| carries(labels, wanted))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

/// True if all of `wanted` are among `labels`.
pub(crate) fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// How far a binding goes: `"cluster"`, `"allNamespaces"`, `{"namespaces": ["dev"]}` or
/// `{"namespaceLabels": {"team": "shop"}}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// All namespaces, cluster-scoped resources and non-resource paths.
    Cluster,
    /// Each namespace, later ones included, and nothing outside of them.
    AllNamespaces,
    /// These namespaces, and nothing outside of them.
    Namespaces(Vec<String>),
    /// The namespaces that carry all of these labels, as far as the cluster's namespaces are known.
    NamespaceLabels(Labels),
}

impl Default for Scope {
    /// Nowhere.
    fn default() -> Self {
        Self::Namespaces(Vec::new())
    }
}
