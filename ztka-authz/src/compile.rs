//! From the document as written down to the index that is asked, refusing what would not mean what it says.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    Binding, ClusterSelector, PolicyDocument, PolicySet, Role, Rule, Scope, Subject,
    builtin::builtin_roles,
    policy::{Bound, Candidates, Reach, Within},
};

/// Why a policy cannot be used, and what to change.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct InvalidPolicy {
    place: String,
    problem: String,
}

fn invalid(place: impl Into<String>, problem: impl Into<String>) -> InvalidPolicy {
    InvalidPolicy { place: place.into(), problem: problem.into() }
}

impl PolicyDocument {
    /// Checks everything that [`PolicySet::compile`] insists on.
    ///
    /// Names of clusters that do not exist are no error: a binding may outlive a cluster, or wait for one.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        unique("cluster id", self.clusters.iter().map(|cluster| cluster.id.as_str()))?;
        unique("cluster name", self.clusters.iter().map(|cluster| cluster.name.as_str()))?;
        let builtin = builtin_roles(&self.settings);
        unique("role", builtin.iter().chain(&self.roles).map(|role| role.name.as_str()))?;
        unique("binding", self.bindings.iter().map(|binding| binding.name.as_str()))?;
        for role in &self.roles {
            for rule in &role.rules {
                validate_rule(rule).map_err(|problem| invalid(format!("role {:?}", role.name), problem))?;
            }
        }
        let roles: HashSet<&str> = builtin.iter().chain(&self.roles).map(|role| role.name.as_str()).collect();
        for binding in &self.bindings {
            validate_binding(binding, &roles)
                .map_err(|problem| invalid(format!("binding {:?}", binding.name), problem))?;
        }
        Ok(())
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), InvalidPolicy> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() {
            return Err(invalid(what, "has no name; give it one"));
        }
        if !seen.insert(name) {
            return Err(invalid(format!("{what} {name:?}"), "exists already; choose another name"));
        }
    }
    Ok(())
}

/// The apiserver's own rules (`pkg/apis/rbac/validation`), so that what is rendered from a role is accepted there.
fn validate_rule(rule: &Rule) -> Result<(), String> {
    if rule.verbs.is_empty() {
        return Err("a rule needs verbs".into());
    }
    let forwards = |word: &String| word == "pods/portforward";
    if !rule.ports.is_empty() && (rule.resources.is_empty() || !rule.resources.iter().all(forwards)) {
        return Err("ports are of pods/portforward alone; make a rule of its own for it".into());
    }
    match rule.non_resource_urls.is_empty() {
        true if rule.api_groups.is_empty() || rule.resources.is_empty() => {
            Err("a rule needs apiGroups (\"\" is the core group) and resources, or nonResourceURLs".into())
        }
        true if rule.resources.iter().chain(&rule.verbs).any(String::is_empty) => {
            Err("a resource or verb is empty".into())
        }
        true => Ok(()),
        false if !(rule.api_groups.is_empty() && rule.resources.is_empty() && rule.resource_names.is_empty()) => {
            Err("a rule is about resources or about nonResourceURLs, not both; make it two".into())
        }
        false => match rule.non_resource_urls.iter().find(|path| !is_path(path)) {
            Some(path) => Err(format!("{path:?} is neither * nor a path that begins with / and has * only at its end")),
            None => Ok(()),
        },
    }
}

fn is_path(path: &str) -> bool {
    path == "*" || (path.starts_with('/') && !path.strip_suffix('*').unwrap_or(path).contains('*'))
}

fn validate_binding(binding: &Binding, roles: &HashSet<&str>) -> Result<(), String> {
    let Binding { role, clusters, scope, name: _, subjects: _ } = binding;
    if !roles.contains(role.as_str()) {
        return Err(format!("there is no role {role:?}; create it first or choose another"));
    }
    if clusters.match_labels.as_ref().is_some_and(|labels| labels.is_empty()) {
        return Err("matchLabels is empty; to select every cluster set all = true".into());
    }
    if let Scope::Namespaces(namespaces) = scope {
        if namespaces.is_empty() {
            return Err("the list of namespaces is empty; name some, or bind cluster-wide".into());
        }
        if let Some(bad) = namespaces.iter().find(|namespace| !is_namespace(namespace)) {
            return Err(format!("{bad:?} is not the name of a namespace (patterns are not supported)"));
        }
    }
    Ok(())
}

/// RFC 1123 label, as the apiserver demands of a namespace.
fn is_namespace(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

pub(crate) struct Index {
    pub(crate) users: HashMap<ztka_core::UserName, Candidates>,
    pub(crate) groups: HashMap<ztka_core::GroupName, Candidates>,
    pub(crate) bindings: Vec<Bound>,
    pub(crate) basic: Arc<Role>,
}

/// Builds the index of a valid document.
pub(crate) fn index(document: &PolicyDocument) -> Result<Index, InvalidPolicy> {
    document.validate()?;
    let roles = builtin_roles(&document.settings).into_iter().chain(document.roles.iter().cloned());
    let roles: HashMap<String, Arc<Role>> = roles.map(|role| (role.name.clone(), Arc::new(role))).collect();
    let role = |name: &str| roles.get(name).cloned().ok_or_else(|| invalid(name, "there is no such role"));
    let basic = role(crate::builtin::BASIC)?;
    let mut index = Index { users: HashMap::new(), groups: HashMap::new(), bindings: Vec::new(), basic };
    for (number, binding) in document.bindings.iter().enumerate() {
        let reach = reach(document, &binding.clusters);
        for subject in &binding.subjects {
            let candidates = match subject {
                Subject::User(name) => index.users.entry(name.clone()).or_default(),
                Subject::Group(name) => index.groups.entry(name.clone()).or_default(),
            };
            candidates.add(number, &reach);
        }
        let within = match &binding.scope {
            Scope::Cluster => Within::Cluster,
            Scope::Namespaces(namespaces) => Within::Namespaces(namespaces.iter().cloned().collect()),
        };
        index.bindings.push(Bound { name: binding.name.clone(), role: role(&binding.role)?, reach, within });
    }
    Ok(index)
}

fn reach(document: &PolicyDocument, selector: &ClusterSelector) -> Reach {
    if selector.all {
        return Reach::All;
    }
    let selected = document.clusters.iter().filter(|cluster| selector.selects(cluster));
    let selected: HashSet<_> = selected.map(|cluster| cluster.id.clone()).collect();
    // A selector by label may reach very many clusters: its bindings are listed once, not once a cluster.
    match selector.match_labels.is_some() {
        true => Reach::Labelled(selected),
        false => Reach::Listed(selected),
    }
}

impl PolicySet {
    /// The document's projection to one cluster: all that decisions about that cluster can depend on.
    pub fn project(document: &PolicyDocument, cluster: &ztka_core::ClusterId) -> PolicyDocument {
        let clusters: Vec<_> = document.clusters.iter().filter(|known| known.id == *cluster).cloned().collect();
        let selected = |binding: &&Binding| clusters.iter().any(|known| binding.clusters.selects(known));
        let only = ClusterSelector { ids: vec![cluster.clone()], ..ClusterSelector::default() };
        let narrow = |binding: &Binding| Binding { clusters: only.clone(), ..binding.clone() };
        let bindings: Vec<_> = document.bindings.iter().filter(selected).map(narrow).collect();
        let used = |role: &&Role| bindings.iter().any(|binding| binding.role == role.name);
        let roles = document.roles.iter().filter(used).cloned().collect();
        PolicyDocument { clusters, roles, bindings, settings: document.settings.clone() }
    }
}
