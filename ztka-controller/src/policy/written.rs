//! What a policy has to be beyond [`PolicyDocument::validate`] for somebody to write it down: names of one spelling, verbs and
//! resources that there are, nothing that can never count, no list without end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use ztka_authz::{Clause, Cluster, ClusterSelector, Labels, PolicyDocument, Rule, Scope, Subject};
use ztka_core::{BindingName, ClusterName, GroupName, RoleName};

use crate::store::ResourceKind;

/// Names in a rule, rules of a role, subjects of a binding, members of a group, namespaces of a scope: more of one are
/// nobody's policy, and larger than what a cluster takes as one object.
const MOST: usize = 1000;
/// Namespaces of a cluster whose labels are written down.
const MOST_NAMESPACES: usize = 10_000;
/// Groups within groups.
const DEEPEST: usize = 16;

/// What is wrong with a policy, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    /// A JSON pointer (RFC 6901) into the policy.
    pub(crate) pointer: String,
    /// What is wrong and, behind the last semicolon, what to do.
    pub(crate) text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Checked = Result<(), Fault>;

fn fault<T>(pointer: impl Into<String>, text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { pointer: pointer.into(), text: text.into() })
}

/// Verbs that are understood by Kubernetes or its usual extensions; a word that is none gives nothing, so it is a mistake.
const VERBS: [&str; 17] = [
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
    "approve",
    "sign",
    "attest",
    "proxy",
];
/// Methods of HTTP, for paths.
const METHODS: [&str; 8] = ["*", "get", "head", "post", "put", "patch", "delete", "options"];

/// Checks everything about a policy that is to be written down.
///
/// # Errors
/// The first thing that is wrong.
///
/// What goes beyond [`PolicyDocument::validate`] is looked at in objects that are `written` now: what was taken by an earlier
/// version stands in nobody's way.
pub(crate) fn check(document: &PolicyDocument, written: &dyn Fn(ResourceKind, &str) -> bool) -> Checked {
    document.validate().map_err(|invalid| Fault { pointer: invalid.pointer(), text: invalid.to_string() })?;
    check_projects(document)?;
    let is_new = |kind, name: &str| written(kind, name);
    for (number, project) in document.projects.iter().enumerate() {
        if !is_new(ResourceKind::Project, &project.name) {
            continue;
        }
        name::<RoleName>(&format!("/projects/{number}/name"), "project", &project.name)?;
    }
    let clusters = document.clusters.iter().enumerate();
    for (number, cluster) in clusters.filter(|(_, one)| is_new(ResourceKind::Cluster, one.id.as_str())) {
        check_cluster(&format!("/clusters/{number}"), cluster)?;
    }
    for (number, group) in document.groups.iter().enumerate() {
        bounded(
            &format!("/groups/{number}/members"),
            &format!("group {:?}", group.name.as_str()),
            "members",
            &group.members,
        )?;
    }
    check_depth(document)?;
    let roles = document.roles.iter().enumerate();
    for (number, role) in roles.filter(|(_, one)| is_new(ResourceKind::Role, &one.name)) {
        let (at, what) = (format!("/roles/{number}"), format!("role {:?}", role.name));
        name::<RoleName>(&format!("{at}/name"), "role", &role.name)?;
        if role.rules.is_empty() {
            return fault(format!("{at}/rules"), format!("{what}: without rules it allows nothing; give it a rule"));
        }
        check_rules(&format!("{at}/rules"), &what, &role.rules)?;
    }
    let bindings = document.bindings.iter().enumerate();
    for (number, binding) in bindings.filter(|(_, one)| is_new(ResourceKind::Binding, &one.name)) {
        let (at, what) = (format!("/bindings/{number}"), format!("binding {:?}", binding.name));
        name::<BindingName>(&format!("{at}/name"), "binding", &binding.name)?;
        if binding.subjects.is_empty() {
            let text = format!("{what}: a binding without subjects gives nothing; name a user or a group");
            return fault(format!("{at}/subjects"), text);
        }
        bounded(&format!("{at}/subjects"), &what, "subjects", &binding.subjects)?;
        check_selector(&format!("{at}/clusters"), &binding.clusters).map_err(|fault| fault.of(&what))?;
        check_scope(&format!("{at}/scope"), &binding.scope).map_err(|fault| fault.of(&what))?;
        check_conditions(&format!("{at}/when"), &what, &binding.when)?;
    }
    let denials = document.denials.iter().enumerate();
    for (number, denial) in denials.filter(|(_, one)| is_new(ResourceKind::Denial, &one.name)) {
        let (at, what) = (format!("/denials/{number}"), format!("denial {:?}", denial.name));
        name::<BindingName>(&format!("{at}/name"), "denial", &denial.name)?;
        check_rules(&format!("{at}/rules"), &what, &denial.rules)?;
        check_selector(&format!("{at}/clusters"), &denial.clusters).map_err(|fault| fault.of(&what))?;
        check_scope(&format!("{at}/scope"), &denial.scope).map_err(|fault| fault.of(&what))?;
        check_conditions(&format!("{at}/when"), &what, &denial.when)?;
        contradiction(&format!("{at}/except"), &what, &denial.subjects, &denial.except)?;
        if denial.reason.chars().count() > 500 || denial.reason.chars().any(char::is_control) {
            let text =
                format!("{what}: its reason is longer than 500 characters, or has line ends in it; say it in a line");
            return fault(format!("{at}/reason"), text);
        }
    }
    for (number, rail) in document.guardrails.protected_namespaces.iter().enumerate() {
        let at = format!("/guardrails/protectedNamespaces/{number}");
        let what = "protected namespaces";
        bounded(&format!("{at}/namespaces"), what, "namespaces", &rail.namespaces)?;
        check_selector(&format!("{at}/clusters"), &rail.clusters).map_err(|fault| fault.of(what))?;
    }
    Ok(())
}

impl Fault {
    fn of(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

/// A name has the one spelling that there is of it.
fn name<T: std::str::FromStr<Err: fmt::Display>>(at: &str, what: &str, text: &str) -> Checked {
    match text.parse::<T>() {
        Ok(_) => Ok(()),
        Err(error) => fault(at, format!("{what} {:?}: {error}", shown(text))),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn bounded<T>(at: &str, what: &str, things: &str, list: &[T]) -> Checked {
    match list.len() > MOST {
        true => fault(at, format!("{what}: it has {} {things}, and may have {MOST}; make several of it", list.len())),
        false => Ok(()),
    }
}

fn check_cluster(at: &str, cluster: &Cluster) -> Checked {
    let what = format!("cluster {:?}", shown(&cluster.name));
    check_labels(&format!("{at}/labels"), &what, &cluster.labels)?;
    if cluster.namespaces.len() > MOST_NAMESPACES {
        let text =
            format!("{what}: labels of more than {MOST_NAMESPACES} namespaces; write down those that policy looks at");
        return fault(format!("{at}/namespaces"), text);
    }
    for (namespace, labels) in &cluster.namespaces {
        let at = format!("{at}/namespaces/{namespace}");
        if !is_label(namespace) {
            return fault(at, format!("{what}: {:?} is not the name of a namespace; correct it", shown(namespace)));
        }
        check_labels(&at, &format!("{what}, namespace {namespace:?}"), labels)?;
    }
    Ok(())
}

/// A DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    text.parse::<ClusterName>().is_ok()
}

fn check_labels(at: &str, what: &str, labels: &BTreeMap<String, String>) -> Checked {
    crate::api::labels::check(labels).or_else(|text| fault(at, format!("{what}: {text}")))
}

/// A project that is selected is there: a name that is spelled wrong would select nothing, and say nothing of it.
fn check_projects(document: &PolicyDocument) -> Checked {
    let projects: HashSet<&str> = document.projects.iter().map(|project| project.name.as_str()).collect();
    let bindings = document.bindings.iter().map(|one| ("binding", one.name.as_str(), &one.clusters));
    let denials = document.denials.iter().map(|one| ("denial", one.name.as_str(), &one.clusters));
    let bindings = bindings.enumerate().map(|(number, one)| (format!("/bindings/{number}"), one));
    let denials = denials.enumerate().map(|(number, one)| (format!("/denials/{number}"), one));
    let rails = document.guardrails.protected_namespaces.iter().enumerate();
    let rails = rails.map(|(number, rail)| {
        (format!("/guardrails/protectedNamespaces/{number}"), ("guardrail", "protectedNamespaces", &rail.clusters))
    });
    for (at, (what, name, selector)) in bindings.chain(denials).chain(rails) {
        let mut named = selector.projects.iter().enumerate();
        if let Some((number, gone)) = named.find(|(_, project)| !projects.contains(project.as_str())) {
            let text = format!("{what} {name:?}: there is no project {:?}; create it first", shown(gone));
            return fault(format!("{at}/clusters/projects/{number}"), text);
        }
    }
    Ok(())
}

fn check_selector(at: &str, selector: &ClusterSelector) -> Checked {
    let ClusterSelector { all, ids, names, projects: named, match_labels, match_expressions } = selector;
    let labelled = match_labels.as_ref().is_some_and(|labels| !labels.is_empty()) || !match_expressions.is_empty();
    if !all && ids.is_empty() && names.is_empty() && named.is_empty() && !labelled {
        return fault(at, "it selects no cluster; use all, ids, names, projects, matchLabels or matchExpressions");
    }
    for (list, length) in [("ids", ids.len()), ("names", names.len()), ("projects", named.len())] {
        if length > MOST {
            let text = format!("more than {MOST} {list} of clusters; select them by project or label");
            return fault(format!("{at}/{list}"), text);
        }
    }
    if let Some((number, bad)) = names.iter().enumerate().find(|(_, name)| !is_label(name)) {
        let text = format!("{:?} is not the name of a cluster (patterns are not supported); correct it", shown(bad));
        return fault(format!("{at}/names/{number}"), text);
    }
    let none = Labels::new();
    check_labels(&format!("{at}/matchLabels"), "matchLabels", match_labels.as_ref().unwrap_or(&none))
}

fn check_scope(at: &str, scope: &Scope) -> Checked {
    match scope {
        Scope::Cluster | Scope::AllNamespaces => Ok(()),
        Scope::Namespaces(names) => bounded(&format!("{at}/namespaces"), "its scope", "namespaces", names),
        Scope::NamespaceLabels(labels) => check_labels(&format!("{at}/namespaceLabels"), "its scope", labels),
    }
}

fn check_conditions(at: &str, what: &str, when: &Clause<ztka_authz::Conditions>) -> Checked {
    match when {
        Clause::Known(when) => check_rules(&format!("{at}/request"), what, &when.request),
        Clause::Unknown(_) => Ok(()),
    }
}

/// Nobody is meant and excepted at once.
fn contradiction(at: &str, what: &str, subjects: &[Subject], except: &[Subject]) -> Checked {
    match except.iter().enumerate().find(|(_, subject)| subjects.contains(subject)) {
        Some((number, both)) => {
            let both = match both {
                Subject::User(name) => format!("user {name}"),
                Subject::Group(name) => format!("group {name}"),
            };
            fault(format!("{at}/{number}"), format!("{what}: {both} is meant and excepted; leave out one of them"))
        }
        None => Ok(()),
    }
}

fn check_rules(at: &str, what: &str, rules: &[Rule]) -> Checked {
    bounded(at, what, "rules", rules)?;
    for (number, rule) in rules.iter().enumerate() {
        check_rule(&format!("{at}/{number}"), what, rule)?;
    }
    Ok(())
}

fn check_rule(at: &str, what: &str, rule: &Rule) -> Checked {
    let Rule { verbs, api_groups, resources, resource_names, ports, non_resource_urls } = rule;
    let lists = [
        ("verbs", verbs.len()),
        ("apiGroups", api_groups.len()),
        ("resources", resources.len()),
        ("resourceNames", resource_names.len()),
        ("ports", ports.len()),
        ("nonResourceURLs", non_resource_urls.len()),
    ];
    if let Some((list, length)) = lists.into_iter().find(|(_, length)| *length > MOST) {
        let text = format!("{what}: a rule has {length} {list}, and may have {MOST}; make several rules of it");
        return fault(format!("{at}/{list}"), text);
    }
    let known: &[&str] = if non_resource_urls.is_empty() { &VERBS } else { &METHODS };
    if let Some((number, verb)) = verbs.iter().enumerate().find(|(_, verb)| !known.contains(&verb.as_str())) {
        let text = format!("{what}: {:?} is no verb; write one of {}", shown(verb), known.join(", "));
        return fault(format!("{at}/verbs/{number}"), text);
    }
    let spelled = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.*/".contains(&byte))
    };
    for (list, words) in [("apiGroups", api_groups), ("resources", resources)] {
        if let Some((number, word)) = words.iter().enumerate().find(|(_, word)| !spelled(word)) {
            let text = format!(
                "{what}: {:?} is none of {list}; write it as `kubectl api-resources` does, in lower case and in the plural",
                shown(word)
            );
            return fault(format!("{at}/{list}/{number}"), text);
        }
    }
    let odd = |name: &&String| name.is_empty() || name.len() > 253 || name.chars().any(|c| c.is_control() || c == '/');
    match resource_names.iter().find(odd) {
        Some(name) => {
            let text = format!("{what}: {:?} is not the name of an object; correct it", shown(name));
            fault(format!("{at}/resourceNames"), text)
        }
        None => Ok(()),
    }
}

/// Groups are in groups in groups, but not without end: each has its members written out, those of the groups within it
/// included.
fn check_depth(document: &PolicyDocument) -> Checked {
    let places: HashMap<&GroupName, usize> =
        document.groups.iter().enumerate().map(|(place, group)| (&group.name, place)).collect();
    // Validated before: no group is in itself.
    let mut depths = vec![1_usize; document.groups.len()];
    for _ in 0..=DEEPEST {
        let mut settled = true;
        for (place, group) in document.groups.iter().enumerate() {
            let within = group.members.iter().filter_map(|member| match member {
                Subject::Group(name) => places.get(name).and_then(|inner| depths.get(*inner)),
                Subject::User(_) => None,
            });
            let depth = within.max().map_or(1, |inner| inner + 1);
            if depth > DEEPEST {
                let text = format!(
                    "group {:?}: groups are within each other more than {DEEPEST} times; take members into it themselves",
                    group.name.as_str()
                );
                return fault(format!("/groups/{place}/members"), text);
            }
            if let Some(known) = depths.get_mut(place).filter(|known| **known != depth) {
                *known = depth;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
