//! A second evaluator of policy, written down from what it has to mean and by comparison of texts only.

use ztka_authz::{Action, PolicyDocument, PolicySet, Rule, Scope, Subject, Target, builtin_roles};
use ztka_core::{ClusterId, Decision, Principal};

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
            group_matches && resource_matches && name_matches
        }
    };
    verb_matches && matches
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

pub(crate) fn naive(
    document: &PolicyDocument,
    who: &Principal,
    cluster: &ClusterId,
    verb: &str,
    target: Target<'_>,
) -> bool {
    let Some(cluster) = document.clusters.iter().find(|known| known.id == *cluster) else {
        return false;
    };
    let verb = if is_stream(target) && verb == "get" { "create" } else { verb };
    if closed(verb, target) {
        return false;
    }
    let mut roles = builtin_roles(&document.settings);
    let basic = roles.iter().find(|role| role.name == "basic-user").unwrap().clone();
    roles.extend(document.roles.clone());
    let mut bound = false;
    for binding in &document.bindings {
        let named = binding.subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == who.name(),
            Subject::Group(name) => who.groups().contains(name),
        });
        if !named || !binding.clusters.selects(cluster) {
            continue;
        }
        bound = true;
        let within = match (&binding.scope, target) {
            (Scope::Cluster, _) => true,
            (Scope::Namespaces(names), Target::Resource { namespace: Some(namespace), .. }) => {
                names.contains(&namespace.to_owned())
            }
            _ => false,
        };
        let role = roles.iter().find(|role| role.name == binding.role).unwrap();
        let all = |words: &[String]| words.contains(&"*".to_owned());
        let unlimited = role.rules.iter().any(|rule| {
            all(&rule.verbs) && all(&rule.api_groups) && all(&rule.resources) && rule.resource_names.is_empty()
        });
        let enough = !secrets_everywhere(target) || unlimited;
        if within && enough && role.rules.iter().any(|rule| naive_rule(rule, verb, target)) {
            return true;
        }
    }
    bound && basic.rules.iter().any(|rule| naive_rule(rule, verb, target))
}

pub(crate) fn allowed(
    policy: &PolicySet,
    who: &Principal,
    cluster: &ClusterId,
    verb: &str,
    target: Target<'_>,
) -> bool {
    matches!(policy.decide(who, cluster, &Action::new(verb, target)), Decision::Allow(_))
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
