//! A second evaluator of policy, written down from what it has to mean and by comparison of texts only.

use std::collections::BTreeSet;

use jiff::Timestamp;
use ztka_authz::{
    Action, Clause, Cluster, ClusterSelector, Conditions, Facts, Gates, Opening, Operator, PolicyDocument, PolicySet,
    ProtectedAccess, Role, Rule, Scope, Settings, Subject, Target, Verdict, builtin_roles,
};
use ztka_core::{ClusterId, Principal};

/// What the naive evaluator is told beside who asks what: a time and an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) source: Option<std::net::IpAddr>,
}

impl World {
    pub(crate) fn facts(&self) -> Facts<'static> {
        Facts::at(self.now).from_source(self.source)
    }
}

/// Monday noon, from nowhere in particular.
pub(crate) fn plain() -> World {
    World { now: "2026-01-05T12:00:00Z".parse().unwrap(), source: None }
}

/// One rule, written down from Kubernetes' documentation and by string comparison only.
pub(crate) fn naive_rule(rule: &Rule, verb: &str, target: Target<'_>) -> bool {
    let verb_matches = rule.verbs.contains(&"*".to_owned()) || rule.verbs.contains(&verb.to_owned());
    let matches = match target {
        Target::Path(path) => rule.non_resource_urls.iter().any(|url| {
            url == "*" || url == path || (url.ends_with('*') && path.starts_with(url.trim_end_matches('*')))
        }),
        Target::Resource { group, resource, subresource, name, .. } => {
            let combined = match subresource {
                Some(subresource) => format!("{resource}/{subresource}"),
                None => resource.to_owned(),
            };
            let star = subresource.map(|subresource| format!("*/{subresource}"));
            let group_matches = rule.api_groups.iter().any(|word| word == "*" || word == group);
            let resource_matches =
                rule.resources.iter().any(|word| word == "*" || *word == combined || Some(word) == star.as_ref());
            let name = match (verb, subresource) {
                ("create" | "deletecollection", None) => None,
                _ => name,
            };
            let name_matches = rule.resource_names.is_empty()
                || name.is_some_and(|name| rule.resource_names.contains(&name.to_owned()));
            group_matches && resource_matches && name_matches && rule.ports.is_empty()
        }
    };
    verb_matches && matches
}

/// The same for what may be meant: a request that names no object may be about any.
fn naive_touch(rule: &Rule, verb: &str, target: Target<'_>) -> bool {
    let nameless = match target {
        Target::Resource { name: None, .. } => true,
        Target::Resource { subresource: None, .. } => ["create", "deletecollection"].contains(&verb),
        _ => false,
    };
    let mut rule = rule.clone();
    rule.ports.clear();
    if nameless {
        rule.resource_names.clear();
    }
    naive_rule(&rule, verb, target)
}

pub(crate) fn is_stream(target: Target<'_>) -> bool {
    let streams = ["exec", "attach", "portforward"];
    matches!(target, Target::Resource { group: "", resource: "pods", subresource: Some(sub), .. } if streams.contains(&sub))
}

pub(crate) fn closed(verb: &str, target: Target<'_>) -> bool {
    match target {
        Target::Resource { namespace: Some("ztka-system"), .. } => true,
        Target::Resource { group: "rbac.authorization.k8s.io", resource, .. }
            if verb == "deletecollection"
                && ["roles", "rolebindings", "clusterroles", "clusterrolebindings"].contains(&resource) =>
        {
            true
        }
        Target::Resource { group: "rbac.authorization.k8s.io", name: Some(name), subresource, .. }
            if name.starts_with("ztka:") =>
        {
            match verb {
                "get" | "list" | "watch" => false,
                "create" | "deletecollection" => subresource.is_some(),
                _ => true,
            }
        }
        _ => false,
    }
}

pub(crate) fn secrets_everywhere(target: Target<'_>) -> bool {
    matches!(target, Target::Resource { group: "", resource: "secrets", namespace: None, .. })
}

fn reads(verb: &str) -> bool {
    ["get", "list", "watch"].contains(&verb)
}

/// What somebody who may look at things may ask at all.
fn only_looks(settings: &Settings, verb: &str, target: Target<'_>) -> bool {
    match target {
        Target::Path(path) => {
            let shut = |page: &str| path == page || path.starts_with(&format!("{page}/"));
            verb == "get" && !shut("/logs") && !shut("/debug")
        }
        Target::Resource { group, resource, subresource, .. } => match (group, resource, subresource) {
            ("", "pods", Some("exec")) => settings.view_exec && verb == "create",
            ("", "secrets", None) => settings.view_secrets && reads(verb),
            ("", "secrets", Some(sub)) => {
                settings.view_secrets
                    && reads(verb)
                    && !["proxy", "exec", "attach", "portforward", "ephemeralcontainers"].contains(&sub)
            }
            ("", "serviceaccounts", Some("token")) => false,
            ("", "nodes", Some(sub)) => sub == "status" && reads(verb),
            ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _, _) => false,
            (_, _, Some("proxy" | "exec" | "attach" | "portforward" | "ephemeralcontainers")) => false,
            _ => reads(verb),
        },
    }
}

/// The gate that stands before this, if any.
pub(crate) fn gate(gates: &Gates, verb: &str, target: Target<'_>) -> Option<Opening> {
    match verb {
        "escalate" => return Some(gates.escalate),
        "bind" => return Some(gates.bind),
        "impersonate" => return Some(gates.impersonate),
        "approve" => return Some(gates.approve),
        "sign" => return Some(gates.sign),
        _ => {}
    }
    let Target::Resource { group, resource, subresource: Some(sub), .. } = target else { return None };
    match (group, resource, sub) {
        _ if reads(verb) => None,
        ("", "serviceaccounts", "token") => Some(gates.token),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => Some(gates.approve),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => Some(gates.sign),
        _ => None,
    }
}

/// Whom `subjects` mean, with the members of groups, and of groups in groups.
fn meant(document: &PolicyDocument, subjects: &[Subject], who: &Principal) -> bool {
    let mut groups: BTreeSet<_> = who.groups().iter().cloned().collect();
    // As often as there are groups: then nobody joins any more.
    for _ in &document.groups {
        for group in &document.groups {
            let member = |subject: &Subject| match subject {
                Subject::User(name) => name == who.name(),
                Subject::Group(name) => groups.contains(name),
            };
            if group.members.iter().any(member) {
                groups.insert(group.name.clone());
            }
        }
    }
    subjects.iter().any(|subject| match subject {
        Subject::User(name) => name == who.name(),
        Subject::Group(name) => groups.contains(name),
    })
}

fn selected(selector: &ClusterSelector, cluster: &Cluster) -> bool {
    let mut by_label = selector.match_labels.is_some() || !selector.match_expressions.is_empty();
    for (key, value) in selector.match_labels.iter().flatten() {
        by_label &= cluster.labels.get(key) == Some(value);
    }
    for requirement in &selector.match_expressions {
        let value = cluster.labels.get(&requirement.key);
        by_label &= match (requirement.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::In, None) => false,
            (Operator::In, Some(value)) => requirement.values.contains(value),
            (Operator::NotIn, None) => true,
            (Operator::NotIn, Some(value)) => !requirement.values.contains(value),
        };
    }
    selector.all
        || selector.ids.contains(&cluster.id)
        || selector.names.contains(&cluster.name)
        || selector.projects.iter().any(|project| Some(project) == cluster.project.as_ref())
        || by_label
}

/// True, false, or nobody knows.
type Maybe = Option<bool>;

fn all_of(parts: impl IntoIterator<Item = Maybe>) -> Maybe {
    let parts: Vec<_> = parts.into_iter().collect();
    match parts.contains(&Some(false)) {
        true => Some(false),
        false if parts.contains(&None) => None,
        false => Some(true),
    }
}

fn holds(
    when: &Clause<Conditions>,
    term: (Option<Timestamp>, Option<Timestamp>),
    world: &World,
    cluster: &Cluster,
    verb: &str,
    target: Target<'_>,
) -> Maybe {
    let in_time = term.0.is_none_or(|from| from <= world.now) && term.1.is_none_or(|until| world.now < until);
    let Clause::Known(when) = when else {
        return all_of([Some(in_time), None]);
    };
    let mut parts = vec![Some(in_time)];
    if let Some(hours) = &when.hours {
        // The generated ones are in UTC and of whole hours.
        let zoned = world.now.to_zoned(jiff::tz::TimeZone::UTC);
        let day = format!("{:?}", zoned.weekday()).to_lowercase();
        let named = hours.days.iter().any(|named| day.starts_with(&format!("{named:?}").to_lowercase()));
        let within = hours.from <= zoned.time() && zoned.time() < hours.until;
        parts.push(Some((hours.days.is_empty() || named) && within));
    }
    if !when.networks.is_empty() {
        parts.push(world.source.map(|source| when.networks.iter().any(|network| network.contains(source))));
    }
    if when.mfa.is_some() || !when.user.is_empty() {
        parts.push(None);
    }
    for (key, value) in &when.cluster_labels {
        parts.push(Some(cluster.labels.get(key) == Some(value)));
    }
    if !when.namespace_labels.is_empty() {
        let known = match target {
            Target::Resource { namespace: Some(namespace), .. } => cluster.namespaces.get(namespace),
            _ => None,
        };
        parts.push(known.map(|labels| when.namespace_labels.iter().all(|(key, value)| labels.get(key) == Some(value))));
    }
    if !when.request.is_empty() {
        parts.push(match when.request.iter().any(|rule| naive_rule(rule, verb, target)) {
            true => Some(true),
            false if when.request.iter().any(|rule| naive_touch(rule, verb, target)) => None,
            false => Some(false),
        });
    }
    if !when.commands.is_empty() {
        let exec = matches!(target, Target::Resource { group: "", resource: "pods", subresource: Some("exec"), .. });
        parts.push(if exec { None } else { Some(false) });
    }
    if when.cedar.is_some() {
        parts.push(None);
    }
    all_of(parts)
}

fn within(scope: &Scope, cluster: &Cluster, target: Target<'_>) -> bool {
    let namespace = match target {
        Target::Resource { namespace, .. } => namespace,
        Target::Path(_) => None,
    };
    match (scope, namespace) {
        (Scope::Cluster, _) => true,
        (_, None) => false,
        (Scope::AllNamespaces, Some(_)) => true,
        (Scope::Namespaces(names), Some(namespace)) => names.contains(&namespace.to_owned()),
        (Scope::NamespaceLabels(wanted), Some(namespace)) => cluster
            .namespaces
            .get(namespace)
            .is_some_and(|labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value))),
    }
}

/// A request for many objects that names no namespace is about all of them.
fn is_across(verb: &str, target: Target<'_>) -> bool {
    ["list", "watch", "deletecollection"].contains(&verb) && matches!(target, Target::Resource { namespace: None, .. })
}

fn denied(
    document: &PolicyDocument,
    who: &Principal,
    world: &World,
    cluster: &Cluster,
    verb: &str,
    target: Target<'_>,
) -> bool {
    document.denials.iter().any(|denial| {
        (denial.subjects.is_empty() || meant(document, &denial.subjects, who))
            && !meant(document, &denial.except, who)
            && selected(&denial.clusters, cluster)
            && (within(&denial.scope, cluster, target) || is_across(verb, target))
            && denial.rules.iter().any(|rule| naive_touch(rule, verb, target))
            && holds(&denial.when, (denial.valid_from, denial.valid_until), world, cluster, verb, target) != Some(false)
    })
}

fn protected(document: &PolicyDocument, who: &Principal, cluster: &Cluster, verb: &str, target: Target<'_>) -> bool {
    let Target::Resource { group, resource, namespace, .. } = target else { return false };
    document.guardrails.protected_namespaces.iter().any(|rail| {
        let cluster_scoped = [("", "nodes"), ("", "namespaces"), ("rbac.authorization.k8s.io", "clusterroles")];
        let meant_here = match namespace {
            Some(namespace) => rail.namespaces.contains(&namespace.to_owned()),
            None => is_across(verb, target) && !cluster_scoped.contains(&(group, resource)),
        };
        let left = rail.access == ProtectedAccess::Read && only_looks(&Settings::default(), verb, target);
        meant_here && selected(&rail.clusters, cluster) && !meant(document, &rail.except, who) && !left
    })
}

fn unlimited(role: &Role) -> bool {
    let all = |words: &[String]| words.contains(&"*".to_owned());
    role.rules
        .iter()
        .any(|rule| all(&rule.verbs) && all(&rule.api_groups) && all(&rule.resources) && rule.resource_names.is_empty())
}

/// What the answer should be, where no obligation can be seen to.
pub(crate) fn naive(
    document: &PolicyDocument,
    who: &Principal,
    world: &World,
    cluster: &ClusterId,
    verb: &str,
    target: Target<'_>,
) -> bool {
    let Some(cluster) = document.clusters.iter().find(|known| known.id == *cluster) else {
        return false;
    };
    let verb = if is_stream(target) && verb == "get" { "create" } else { verb };
    if closed(verb, target)
        || denied(document, who, world, cluster, verb, target)
        || protected(document, who, cluster, verb, target)
    {
        return false;
    }
    let mut roles = document.roles.clone();
    roles.extend(builtin_roles(&document.settings));
    let basic = roles.iter().rfind(|role| role.name == "basic-user").unwrap().clone();
    let mut bound = false;
    for binding in &document.bindings {
        if !meant(document, &binding.subjects, who) || !selected(&binding.clusters, cluster) {
            continue;
        }
        bound |= binding.valid_from.is_none_or(|from| from <= world.now)
            && binding.valid_until.is_none_or(|until| world.now < until);
        let role = roles.iter().find(|role| role.name == binding.role).unwrap();
        let passes = match gate(&document.guardrails.gates, verb, target) {
            None | Some(Opening::Roles) => true,
            Some(Opening::Admins) => unlimited(role),
            Some(Opening::Closed) => false,
        };
        let term = (binding.valid_from, binding.valid_until);
        let nothing_to_see_to = match &binding.obligations {
            Clause::Unknown(_) => false,
            Clause::Known(duties) => {
                let stream = match target {
                    Target::Resource { subresource: Some(sub), .. } => {
                        ["exec", "attach", "portforward", "proxy"].contains(&sub)
                    }
                    _ => verb == "proxy",
                };
                let log = matches!(target, Target::Resource { subresource: Some("log"), .. });
                let session = matches!(target, Target::Resource { subresource: Some("exec" | "attach"), .. });
                duties.audit.is_none()
                    && !duties.step_up
                    && !(duties.record == ztka_core::Recording::Required && session)
                    && !(duties.max_duration.is_some() && (stream || log || verb == "watch"))
            }
        };
        if within(&binding.scope, cluster, target)
            && role.rules.iter().any(|rule| naive_rule(rule, verb, target))
            && (!role.read_only || only_looks(&document.settings, verb, target))
            && (!secrets_everywhere(target) || unlimited(role))
            && passes
            && holds(&binding.when, term, world, cluster, verb, target) == Some(true)
            && nothing_to_see_to
        {
            return true;
        }
    }
    bound && basic.rules.iter().any(|rule| naive_rule(rule, verb, target))
}

pub(crate) fn allowed(
    policy: &PolicySet,
    who: &Principal,
    world: &World,
    cluster: &ClusterId,
    verb: &str,
    target: Target<'_>,
) -> bool {
    let verdict = policy.weigh(who, cluster, &Action::new(verb, target), &world.facts());
    matches!(verdict, Verdict::Allow { .. })
}

/// What an apiserver with nothing but the rendered RBAC would say.
pub(crate) fn rbac(policy: &PolicySet, who: &Principal, cluster: &ClusterId, verb: &str, target: Target<'_>) -> bool {
    let Some(rendered) = policy.render(who, cluster) else {
        return false;
    };
    let namespaced = match target {
        Target::Resource { namespace: Some(namespace), .. } => rendered.namespaces.get(namespace),
        _ => None,
    };
    rendered.cluster.iter().chain(namespaced.into_iter().flatten()).any(|rule| naive_rule(rule, verb, target))
}
