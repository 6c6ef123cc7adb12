//! The part of a policy that one cluster's agent needs.

use std::collections::{HashMap, HashSet};

use ztka_core::{ClusterId, GroupName};

use crate::{
    Binding, ClusterSelector, Denial, Group, Guardrails, PolicyDocument, PolicySet, ProtectedNamespaces, Subject,
};

/// Makes the projections of a policy to its clusters: which selector means which cluster is found out once for all of them.
///
/// All that decisions about a cluster can depend on is in its projection, and nothing else: no other cluster, nobody and no role
/// that nothing there names.
#[derive(Debug)]
pub struct Projector<'d> {
    document: &'d PolicyDocument,
    /// Place of each cluster in the document.
    places: HashMap<&'d ClusterId, usize>,
    groups: HashMap<&'d GroupName, &'d Group>,
    /// For each different selector, by place, whether it means the cluster,
    selections: Vec<Vec<bool>>,
    /// and which of them each binding, denial and protection of namespaces has.
    bindings: Vec<usize>,
    denials: Vec<usize>,
    protections: Vec<usize>,
}

impl<'d> Projector<'d> {
    /// Of this policy.
    pub fn new(document: &'d PolicyDocument) -> Self {
        let (mut selections, mut known) = (Vec::new(), HashMap::new());
        let mut selection = |selector: &'d ClusterSelector| {
            *known.entry(selector).or_insert_with(|| {
                selections.push(document.clusters.iter().map(|cluster| selector.selects(cluster)).collect());
                selections.len() - 1
            })
        };
        let bindings = document.bindings.iter().map(|binding| selection(&binding.clusters)).collect();
        let denials = document.denials.iter().map(|denial| selection(&denial.clusters)).collect();
        let protected = document.guardrails.protected_namespaces.iter();
        let protections = protected.map(|protection| selection(&protection.clusters)).collect();
        let places = document.clusters.iter().enumerate().map(|(place, cluster)| (&cluster.id, place)).collect();
        let groups = document.groups.iter().map(|group| (&group.name, group)).collect();
        Self { document, places, groups, selections, bindings, denials, protections }
    }

    /// The projection to `cluster`; none if the policy has no such cluster.
    pub fn to(&self, cluster: &ClusterId) -> Option<PolicyDocument> {
        let place = *self.places.get(cluster)?;
        let only = || ClusterSelector { ids: vec![cluster.clone()], ..ClusterSelector::default() };
        let document = self.document;
        let bindings = self.here(place, &document.bindings, &self.bindings);
        let bindings: Vec<_> = bindings.map(|binding| Binding { clusters: only(), ..binding.clone() }).collect();
        let denials = self.here(place, &document.denials, &self.denials);
        let denials: Vec<_> = denials.map(|denial| Denial { clusters: only(), ..denial.clone() }).collect();
        let protected = self.here(place, &document.guardrails.protected_namespaces, &self.protections);
        let protected = protected.map(|found| ProtectedNamespaces { clusters: only(), ..found.clone() });
        let guardrails = Guardrails { protected_namespaces: protected.collect(), gates: document.guardrails.gates };

        let used: HashSet<&str> = bindings.iter().map(|binding| binding.role.as_str()).collect();
        let roles = document.roles.iter().filter(|role| used.contains(role.name.as_str())).cloned().collect();
        let denied = denials.iter().flat_map(|denial| denial.subjects.iter().chain(&denial.except));
        let excepted = guardrails.protected_namespaces.iter().flat_map(|protection| &protection.except);
        let named = bindings.iter().flat_map(|binding| &binding.subjects).chain(denied).chain(excepted);
        let groups = self.groups_of(named);
        let clusters: Vec<_> = document.clusters.get(place).cloned().into_iter().collect();
        let within = |name: &str| clusters.iter().any(|known| known.project.as_deref() == Some(name));
        let projects = document.projects.iter().filter(|project| within(&project.name)).cloned().collect();
        let settings = document.settings.clone();
        Some(PolicyDocument { clusters, projects, groups, roles, bindings, denials, guardrails, settings })
    }

    /// Those of `all` whose selectors mean the cluster at `place`.
    fn here<'a, T>(&'a self, place: usize, all: &'a [T], selectors: &'a [usize]) -> impl Iterator<Item = &'a T> {
        let means = move |selector: &usize| {
            self.selections.get(*selector).and_then(|selection| selection.get(place)).is_some_and(|means| *means)
        };
        all.iter().zip(selectors).filter(move |(_, selector)| means(selector)).map(|(one, _)| one)
    }

    /// The groups that are named, and those that are members of them, by however many others; as the document lists them.
    fn groups_of<'s>(&self, named: impl Iterator<Item = &'s Subject>) -> Vec<Group> {
        let name = |subject: &Subject| match subject {
            Subject::Group(name) => self.groups.get(name).copied(),
            Subject::User(_) => None,
        };
        let (mut open, mut found): (Vec<_>, HashSet<&GroupName>) = (named.filter_map(name).collect(), HashSet::new());
        while let Some(group) = open.pop() {
            if found.insert(&group.name) {
                open.extend(group.members.iter().filter_map(name));
            }
        }
        self.document.groups.iter().filter(|group| found.contains(&group.name)).cloned().collect()
    }
}

impl PolicySet {
    /// The document's projection to one cluster; of many clusters a [`Projector`] makes them together.
    pub fn project(document: &PolicyDocument, cluster: &ClusterId) -> PolicyDocument {
        Projector::new(document).to(cluster).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> PolicyDocument {
        let body = json!({
            "clusters": [
                {"id": "c1", "name": "prod", "labels": {"stage": "prod"}, "project": "shop"},
                {"id": "c2", "name": "test", "labels": {"stage": "test"}, "project": "lab"},
            ],
            "projects": [{"name": "shop"}, {"name": "lab"}],
            "groups": [
                {"name": "buyers", "members": [{"user": "ann"}, {"group": "juniors"}]},
                {"name": "juniors", "members": [{"user": "joe"}]},
                {"name": "lab-rats", "members": [{"user": "ron"}]},
                {"name": "exempt", "members": [{"user": "eve"}]},
                {"name": "guards", "members": [{"user": "gus"}]},
            ],
            "roles": [{"name": "seller", "rules": []}, {"name": "tester", "rules": []}],
            "bindings": [
                {"name": "sell", "subjects": [{"group": "buyers"}], "role": "seller",
                 "clusters": {"projects": ["shop"], "names": ["test-old"]}, "scope": "cluster"},
                {"name": "try", "subjects": [{"group": "lab-rats"}, {"user": "tom"}], "role": "tester",
                 "clusters": {"matchLabels": {"stage": "test"}}, "scope": "cluster"},
            ],
            "denials": [{"name": "not-now", "except": [{"group": "exempt"}], "rules": [], "clusters": {"ids": ["c1"]},
                         "scope": "cluster"}],
            "guardrails": {"protectedNamespaces": [
                {"namespaces": ["vault"], "clusters": {"names": ["prod"]}, "except": [{"group": "guards"}]}]},
        });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn nothing_of_another_cluster_is_in_it_and_everything_of_its_own() {
        let document = document();
        let text = |cluster: &str| {
            let projection = PolicySet::project(&document, &cluster.parse().unwrap());
            serde_json::to_string(&projection).unwrap()
        };
        let (prod, test) = (text("c1"), text("c2"));
        let of_prod =
            ["c1", "prod", "shop", "buyers", "ann", "juniors", "joe", "seller", "exempt", "eve", "guards", "gus"];
        let of_test = ["c2", "test", "lab", "lab-rats", "ron", "tom", "tester"];
        for word in of_prod {
            assert!(prod.contains(&format!("\"{word}\"")), "{word} is not in {prod}");
            assert!(!test.contains(&format!("\"{word}\"")), "{word} is in {test}");
        }
        for word in of_test {
            assert!(test.contains(&format!("\"{word}\"")), "{word} is not in {test}");
            assert!(!prod.contains(&format!("\"{word}\"")), "{word} is in {prod}");
        }
        // The selector may have named other clusters.
        assert!(!prod.contains("test-old") && prod.contains(r#""ids":["c1"]"#), "{prod}");
        assert_eq!(Projector::new(&document).to(&"c3".parse().unwrap()), None);
    }
}
