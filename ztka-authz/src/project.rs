//! The part of a policy that one cluster's agent needs.

use ztka_core::ClusterId;

use crate::{Binding, ClusterSelector, Denial, Guardrails, PolicyDocument, PolicySet, ProtectedNamespaces};

impl PolicySet {
    /// The document's projection to one cluster: all that decisions about that cluster can depend on.
    pub fn project(document: &PolicyDocument, cluster: &ClusterId) -> PolicyDocument {
        let clusters: Vec<_> = document.clusters.iter().filter(|known| known.id == *cluster).cloned().collect();
        let only = ClusterSelector { ids: vec![cluster.clone()], ..ClusterSelector::default() };
        let here = |selector: &ClusterSelector| clusters.iter().any(|known| selector.selects(known));
        let bindings = document.bindings.iter().filter(|binding| here(&binding.clusters));
        let bindings: Vec<_> = bindings.map(|binding| Binding { clusters: only.clone(), ..binding.clone() }).collect();
        let denials = document.denials.iter().filter(|denial| here(&denial.clusters));
        let denials = denials.map(|denial| Denial { clusters: only.clone(), ..denial.clone() }).collect();
        let protected = document.guardrails.protected_namespaces.iter().filter(|rail| here(&rail.clusters));
        let protected = protected.map(|rail| ProtectedNamespaces { clusters: only.clone(), ..rail.clone() });
        let guardrails = Guardrails { protected_namespaces: protected.collect(), gates: document.guardrails.gates };
        let used = |role: &&crate::Role| bindings.iter().any(|binding| binding.role == role.name);
        let roles = document.roles.iter().filter(used).cloned().collect();
        let within = |name: &&crate::Project| clusters.iter().any(|known| known.project.as_ref() == Some(&name.name));
        let projects = document.projects.iter().filter(within).cloned().collect();
        let (groups, settings) = (document.groups.clone(), document.settings.clone());
        PolicyDocument { clusters, projects, groups, roles, bindings, denials, guardrails, settings }
    }
}
