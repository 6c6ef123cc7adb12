//! What policy gives one user on one cluster, in the words of Kubernetes RBAC.

use std::collections::BTreeMap;

use ztka_core::{ClusterId, Principal};

use crate::{PolicySet, Rule, action::STREAMS, policy::Within};

/// Rules for one account: what they allow under RBAC is what policy allows, but for what RBAC cannot say.
///
/// - RBAC denies nothing: the agent's namespace and objects, and secrets of all namespaces at once, are closed by policy
///   alone.
/// - RBAC knows no ports: policy alone says which of them may be forwarded.
/// - A WebSocket exec, attach or port-forward is a GET: where policy gives `create` on the subresource, `get` is rendered
///   as well, since the apiserver asks for `get` (and from 1.35 for `create` too).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rendered {
    /// For a ClusterRole bound by a ClusterRoleBinding.
    pub cluster: Vec<Rule>,
    /// For a Role bound by a RoleBinding, by namespace. Namespaces need not exist.
    pub namespaces: BTreeMap<String, Vec<Rule>>,
}

impl PolicySet {
    /// The RBAC of `who` on `cluster`; `None` for somebody without any role there.
    pub fn render(&self, who: &Principal, cluster: &ClusterId) -> Option<Rendered> {
        let mut bound = self.bound(who, cluster).peekable();
        bound.peek()?;
        let mut rendered = Rendered::default();
        add(&mut rendered.cluster, &self.basic.rules, true);
        for bound in bound {
            match &bound.within {
                Within::Cluster => add(&mut rendered.cluster, &bound.role.rules, true),
                Within::Namespaces(namespaces) => {
                    for namespace in namespaces.iter().filter(|namespace| **namespace != self.closed) {
                        let rules = rendered.namespaces.entry(namespace.clone()).or_default();
                        add(rules, &bound.role.rules, false);
                    }
                }
            }
        }
        rendered.namespaces.retain(|_, rules| !rules.is_empty());
        Some(rendered)
    }
}

fn add(rules: &mut Vec<Rule>, more: &[Rule], cluster_wide: bool) {
    let more = more.iter().filter(|rule| cluster_wide || rule.non_resource_urls.is_empty());
    let by_rbac = |rule: &Rule| Rule { ports: Vec::new(), ..rule.clone() };
    for rule in more.flat_map(|rule| [Some(by_rbac(rule)), streams_by_get(rule)]).flatten() {
        // Roles are short lists, and several bindings give the same role.
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
}

/// `get` for the subresources of pods on which `rule` gives `create`.
fn streams_by_get(rule: &Rule) -> Option<Rule> {
    let core = rule.api_groups.iter().any(|group| group.is_empty() || group == "*");
    if !core || !rule.has_verb("create") || rule.has_verb("get") {
        return None;
    }
    let gives = |stream: &&&str| {
        rule.resources.iter().any(|word| {
            word == "*" || word.split_once('/').is_some_and(|(of, sub)| ["pods", "*"].contains(&of) && sub == **stream)
        })
    };
    let resources: Vec<_> = STREAMS.iter().filter(gives).map(|stream| format!("pods/{stream}")).collect();
    let (verbs, api_groups) = (vec!["get".into()], vec![String::new()]);
    let resource_names = rule.resource_names.clone();
    (!resources.is_empty()).then(|| Rule { verbs, api_groups, resources, resource_names, ..Rule::default() })
}
