//! What a policy has to be to mean something definite, and where it is not.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use jiff::Timestamp;
use ztka_core::GroupName;

use crate::{
    Binding, Clause, ClusterSelector, Conditions, Denial, Operator, PolicyDocument, Rule, Scope, Subject,
    builtin::builtin_roles, cedar,
};

/// Why a policy cannot be used, and what to change.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct InvalidPolicy {
    pub(crate) path: Vec<Step>,
    place: String,
    problem: String,
}

/// One step from the whole document to where a problem is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Field(&'static str),
    Number(usize),
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl InvalidPolicy {
    pub(crate) fn new(list: &'static str, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: vec![Step::Field(list)], place: place.into(), problem: problem.into() }
    }

    pub(crate) fn at(path: Vec<Step>, place: String, problem: &str) -> Self {
        Self { path, place, problem: problem.into() }
    }

    /// What is wrong, and what to do about it.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Where in the policy: a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        let step = |step: &Step| match step {
            Step::Field(field) => format!("/{field}"),
            Step::Number(number) => format!("/{number}"),
        };
        self.path.iter().map(step).collect()
    }
}

/// What is wrong with a part, and where in it.
struct Flaw {
    path: Vec<Step>,
    problem: String,
}

impl<T: Into<String>> From<T> for Flaw {
    fn from(problem: T) -> Self {
        Self { path: Vec::new(), problem: problem.into() }
    }
}

impl Flaw {
    fn within(mut self, field: &'static str, number: Option<usize>) -> Self {
        let steps = [Some(Step::Field(field)), number.map(Step::Number)];
        self.path.splice(0..0, steps.into_iter().flatten());
        self
    }

    fn of(self, list: &'static str, number: usize, place: String) -> InvalidPolicy {
        let Self { path, problem } = self.within(list, Some(number));
        InvalidPolicy { path, place, problem }
    }
}

/// How strictly a policy is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Strictness {
    /// As it is written: nothing that is not understood, no name that is taken.
    Written,
    /// As it is received: what is not understood gives nothing, and names may be older than the built-in role.
    Received,
}

/// Built-in roles that organisations may have had roles of the same name before.
const SINCE_FIRST: [&str; 4] = ["cluster-admin", "edit", "view", "basic-user"];

impl PolicyDocument {
    /// Checks everything that [`PolicySet::compile`](crate::PolicySet::compile) insists on, and that every condition and
    /// obligation is understood.
    ///
    /// Names of clusters that do not exist are no error: a binding may outlive a cluster, or wait for one.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        self.check(Strictness::Written)
    }

    pub(crate) fn check(&self, strictness: Strictness) -> Result<(), InvalidPolicy> {
        unique("clusters", "cluster id", self.clusters.iter().map(|cluster| cluster.id.as_str()))?;
        unique("clusters", "cluster name", self.clusters.iter().map(|cluster| cluster.name.as_str()))?;
        unique("projects", "project", self.projects.iter().map(|project| project.name.as_str()))?;
        unique("groups", "group", self.groups.iter().map(|group| group.name.as_str()))?;
        let builtin = builtin_roles(&self.settings);
        let reserved = |name: &&str| strictness == Strictness::Written || SINCE_FIRST.contains(name);
        let taken: HashSet<&str> = builtin.iter().map(|role| role.name.as_str()).filter(reserved).collect();
        for (number, role) in self.roles.iter().enumerate() {
            if taken.contains(role.name.as_str()) {
                let problem = Flaw::from("exists already; choose another name").within("name", None);
                return Err(problem.of("roles", number, format!("role {:?}", role.name)));
            }
        }
        unique("roles", "role", self.roles.iter().map(|role| role.name.as_str()))?;
        unique("bindings", "binding", self.bindings.iter().map(|binding| binding.name.as_str()))?;
        unique("denials", "denial", self.denials.iter().map(|denial| denial.name.as_str()))?;
        let projects: HashSet<&str> = self.projects.iter().map(|project| project.name.as_str()).collect();
        for (number, cluster) in self.clusters.iter().enumerate() {
            if let Some(project) = cluster.project.as_ref().filter(|project| !projects.contains(project.as_str())) {
                let problem = Flaw::from(format!("there is no project {project:?}; create it first"));
                let problem = problem.within("project", None);
                return Err(problem.of("clusters", number, format!("cluster {:?}", cluster.name)));
            }
        }
        self.check_groups()?;
        for (number, role) in self.roles.iter().enumerate() {
            rules(&role.rules).map_err(|flaw| flaw.of("roles", number, format!("role {:?}", role.name)))?;
        }
        let roles: HashSet<&str> = builtin.iter().chain(&self.roles).map(|role| role.name.as_str()).collect();
        for (number, binding) in self.bindings.iter().enumerate() {
            check_binding(binding, &roles, strictness)
                .map_err(|flaw| flaw.of("bindings", number, format!("binding {:?}", binding.name)))?;
        }
        for (number, denial) in self.denials.iter().enumerate() {
            check_denial(denial, strictness)
                .map_err(|flaw| flaw.of("denials", number, format!("denial {:?}", denial.name)))?;
        }
        for (number, rail) in self.guardrails.protected_namespaces.iter().enumerate() {
            check_namespaces(&rail.namespaces)
                .map_err(|flaw| flaw.within("namespaces", None))
                .and_then(|()| check_selector(&rail.clusters))
                .map_err(|flaw| flaw.within("protectedNamespaces", Some(number)))
                .map_err(|Flaw { mut path, problem }| {
                    path.insert(0, Step::Field("guardrails"));
                    InvalidPolicy { path, place: "protected namespaces".into(), problem }
                })?;
        }
        crate::size::check(self)
    }

    /// No group is in itself, by however many others.
    fn check_groups(&self) -> Result<(), InvalidPolicy> {
        let groups: HashMap<&GroupName, usize> =
            self.groups.iter().zip(0..).map(|(group, at)| (&group.name, at)).collect();
        // 1 while it is being looked at, 2 when it is known to be fine.
        let mut states = vec![0_u8; self.groups.len()];
        for start in 0..self.groups.len() {
            let mut open = vec![(start, 0)];
            while let Some((group, member)) = open.pop() {
                let Some(found) = self.groups.get(group) else { continue };
                if member == 0 {
                    match states.get_mut(group) {
                        Some(state @ 0) => *state = 1,
                        _ => continue,
                    }
                }
                let Some(next) = found.members.get(member) else {
                    states.get_mut(group).into_iter().for_each(|state| *state = 2);
                    continue;
                };
                open.push((group, member + 1));
                let Subject::Group(name) = next else { continue };
                let Some(&inner) = groups.get(name) else { continue };
                match states.get(inner) {
                    Some(1) => {
                        let problem = format!("is in itself by way of group {name}; take one of them out of the other");
                        let flaw = Flaw::from(problem).within("members", Some(member));
                        return Err(flaw.of("groups", group, format!("group \"{}\"", found.name)));
                    }
                    _ => open.push((inner, 0)),
                }
            }
        }
        Ok(())
    }
}

fn unique<'a>(list: &'static str, what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), InvalidPolicy> {
    let mut seen = HashSet::new();
    for (number, name) in names.enumerate() {
        if name.is_empty() {
            return Err(Flaw::from("has no name; give it one").of(list, number, what.into()));
        }
        if !seen.insert(name) {
            let problem = "exists already; choose another name";
            return Err(Flaw::from(problem).of(list, number, format!("{what} {name:?}")));
        }
    }
    Ok(())
}

fn rules(rules: &[Rule]) -> Result<(), Flaw> {
    for (number, rule) in rules.iter().enumerate() {
        check_rule(rule).map_err(|problem| Flaw::from(problem).within("rules", Some(number)))?;
    }
    Ok(())
}

/// The apiserver's own rules (`pkg/apis/rbac/validation`), so that what is rendered from a role is accepted there.
fn check_rule(rule: &Rule) -> Result<(), String> {
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

fn check_binding(binding: &Binding, roles: &HashSet<&str>, strictness: Strictness) -> Result<(), Flaw> {
    let Binding { role, clusters, scope, valid_from, valid_until, when, obligations, name: _, subjects: _ } = binding;
    if !roles.contains(role.as_str()) {
        let problem = format!("there is no role {role:?}; create it first or choose another");
        return Err(Flaw::from(problem).within("role", None));
    }
    check_selector(clusters)?;
    check_scope(scope)?;
    check_term(*valid_from, *valid_until)?;
    check_conditions(when, strictness)?;
    if strictness == Strictness::Written
        && let Some(problem) = obligations.problem()
    {
        return Err(Flaw::from(format!("an obligation is not understood: {problem}")).within("obligations", None));
    }
    match obligations.known().and_then(|known| known.max_duration) {
        Some(limit) if !limit.is_positive() => {
            Err(Flaw::from("maxDuration is not above zero; write 1h, for example").within("obligations", None))
        }
        _ => Ok(()),
    }
}

fn check_denial(denial: &Denial, strictness: Strictness) -> Result<(), Flaw> {
    if denial.rules.is_empty() {
        return Err("a denial without rules denies nothing; give it a rule".into());
    }
    rules(&denial.rules)?;
    check_selector(&denial.clusters)?;
    check_scope(&denial.scope)?;
    check_term(denial.valid_from, denial.valid_until)?;
    check_conditions(&denial.when, strictness)
}

fn check_selector(selector: &ClusterSelector) -> Result<(), Flaw> {
    let flaw = |problem: &str| Flaw::from(problem).within("clusters", None);
    if selector.match_labels.as_ref().is_some_and(|labels| labels.is_empty()) {
        return Err(flaw("matchLabels is empty; to select every cluster set all = true"));
    }
    for (number, requirement) in selector.match_expressions.iter().enumerate() {
        let problem = match (requirement.operator, requirement.values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => "In and NotIn need values",
            (Operator::Exists | Operator::DoesNotExist, false) => "Exists and DoesNotExist take no values",
            _ => continue,
        };
        return Err(Flaw::from(problem).within("matchExpressions", Some(number)).within("clusters", None));
    }
    Ok(())
}

fn check_scope(scope: &Scope) -> Result<(), Flaw> {
    match scope {
        Scope::Cluster | Scope::AllNamespaces => Ok(()),
        Scope::Namespaces(namespaces) => {
            check_namespaces(namespaces).map_err(|flaw| flaw.within("namespaces", None).within("scope", None))
        }
        Scope::NamespaceLabels(labels) if labels.is_empty() => {
            Err(Flaw::from("namespaceLabels is empty; for every namespace write allNamespaces").within("scope", None))
        }
        Scope::NamespaceLabels(_) => Ok(()),
    }
}

fn check_namespaces(namespaces: &[String]) -> Result<(), Flaw> {
    if namespaces.is_empty() {
        return Err("the list of namespaces is empty; name some, or bind cluster-wide".into());
    }
    match namespaces.iter().find(|namespace| !is_namespace(namespace)) {
        Some(bad) => Err(format!("{bad:?} is not the name of a namespace (patterns are not supported)").into()),
        None => Ok(()),
    }
}

fn check_term(from: Option<Timestamp>, until: Option<Timestamp>) -> Result<(), Flaw> {
    match (from, until) {
        (Some(from), Some(until)) if from >= until => {
            Err(Flaw::from("validFrom is not before validUntil, so it would never count").within("validFrom", None))
        }
        _ => Ok(()),
    }
}

fn check_conditions(when: &Clause<Conditions>, strictness: Strictness) -> Result<(), Flaw> {
    let when = match when {
        Clause::Known(when) => when,
        Clause::Unknown(_) if strictness == Strictness::Received => return Ok(()),
        Clause::Unknown(_) => {
            let problem = when.problem().unwrap_or_default();
            return Err(Flaw::from(format!("a condition is not understood: {problem}")).within("when", None));
        }
    };
    let flaw = |field, problem: &str| Err(Flaw::from(problem).within(field, None).within("when", None));
    for (number, rule) in when.request.iter().enumerate() {
        check_rule(rule).map_err(|problem| Flaw::from(problem).within("request", Some(number)).within("when", None))?;
    }
    if when.hours.as_ref().is_some_and(|hours| hours.from >= hours.until) {
        return flaw("hours", "from is not before until; for hours around midnight make two bindings");
    }
    if when.mfa.is_some_and(|mfa| mfa.max_age.is_some_and(|age| !age.is_positive())) {
        return flaw("mfa", "maxAge is not above zero; write 15m, for example");
    }
    if when.user.values().any(Vec::is_empty) {
        return flaw("user", "an attribute has no values, so that it would never hold");
    }
    match &when.cedar {
        Some(text) if strictness == Strictness::Written => {
            cedar::check(text).or_else(|problem| flaw("cedar", &format!("the Cedar expression: {problem}")))
        }
        _ => Ok(()),
    }
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
