//! What policy gives one user on one cluster, in the words of Kubernetes RBAC.

mod moment;
mod named;

use std::collections::BTreeMap;

use jiff::Timestamp;
use ztka_core::{ClusterId, Principal};

pub use self::named::Named;
use crate::{
    Action, Gate, PolicySet, Rule, Target,
    action::STREAMS,
    compile::{Bound, Denied, Within},
    matcher::{Asked, Rules},
};

/// Rules for one account: what they allow under RBAC is what policy allows, but for what RBAC cannot say.
///
/// - RBAC denies nothing: the agent's namespace and objects, protected namespaces, denials, and secrets of all namespaces
///   at once, are closed by policy alone. So are requests that do not fulfil a condition. But a binding that is for users with
///   other attributes, or on clusters with other labels, is not rendered at all.
/// - RBAC knows no ports: policy alone says which of them may be forwarded.
/// - RBAC knows no role for each namespace but none outside: what is given in all namespaces is rendered cluster-wide.
/// - Verbs that only the apiserver itself asks for (`escalate`, `bind`, `approve`, `sign`) are left out where their gate
///   is shut; `*` is written out for it.
/// - A WebSocket exec, attach or port-forward is a GET: where policy gives `create` on the subresource, `get` is rendered
///   as well, since the apiserver asks for `get` (and from 1.35 for `create` too).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rendered {
    /// For a ClusterRole bound by a ClusterRoleBinding.
    pub cluster: Vec<Rule>,
    /// For a Role bound by a RoleBinding, by namespace. Namespaces need not exist.
    pub namespaces: BTreeMap<String, Vec<Rule>>,
}

/// Every verb that a request can have; what `*` stands for where not everything is meant.
const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"];

impl PolicySet {
    /// The RBAC of `who` on `cluster`, whenever its bindings count for somebody with these attributes; `None` for somebody without any
    /// role there.
    pub fn render(&self, who: &Principal, cluster: &ClusterId) -> Option<Rendered> {
        self.render_where(who, cluster, |bound| bound.is_for(who))
    }

    /// The same by what may give something at `now` alone: bindings within their terms and hours, for users with these attributes.
    /// `None` if none is within its term, since nothing is allowed then, not even to ask what there is.
    pub fn render_at(&self, who: &Principal, cluster: &ClusterId, now: Timestamp) -> Option<Rendered> {
        let found = self.cluster(cluster)?;
        self.bound(who, cluster).any(|bound| bound.is_in_term(now)).then_some(())?;
        self.render_where(who, cluster, |bound| bound.may_give(who, now, found))
    }

    /// True if policy may deny some of what [`Self::render_at`] lists: by a condition, an obligation, a rule for some
    /// ports only, a denial or a protected namespace. A list cannot say which.
    pub fn narrows(&self, who: &Principal, cluster: &ClusterId, now: Timestamp) -> bool {
        let Some(number) = self.number(who, cluster) else { return false };
        let mut bound = self.bound_on(who, number);
        let narrowed = bound.any(|bound| {
            let terms = bound.terms.as_ref();
            // What has run out, or is for others, is not listed.
            let listed = terms.is_none_or(|terms| terms.out_of_term(now).is_none() && terms.are_for(who));
            let conditional = terms.is_some_and(|terms| terms.ask_of_requests());
            let ports = || bound.role.role.rules.iter().any(|rule| !rule.ports.is_empty());
            listed && (conditional || bound.duties.is_some() || ports())
        });
        let mut denials =
            self.index.denied_to.of_whom(who, number).filter_map(|at| self.index.denials.get(at as usize));
        let over = |denied: &Denied| denied.terms.as_ref().is_some_and(|terms| terms.out_of_term(now).is_some());
        let people = &self.index.by_who;
        narrowed
            || denials.any(|denied| denied.reach.has(number) && !denied.except.have(who, people) && !over(denied))
            || self.index.protected.iter().any(|rail| rail.reach.has(number) && !rail.except.have(who, people))
    }

    fn render_where(&self, who: &Principal, cluster: &ClusterId, counts: impl Fn(&Bound) -> bool) -> Option<Rendered> {
        let number = self.number(who, cluster)?;
        let mut bound = self.bound_on(who, number).peekable();
        bound.peek()?;
        let mut rendered = Rendered::default();
        let basic = self.index.roles.role(self.index.basic)?;
        add(&mut rendered.cluster, &basic.role.rules, true);
        for bound in bound {
            if !counts(bound) {
                continue;
            }
            let rules = self.by_rbac(&bound.role);
            let names: Box<dyn Iterator<Item = &str>> = match &bound.within {
                Within::Cluster => {
                    add(&mut rendered.cluster, &rules, true);
                    continue;
                }
                Within::AllNamespaces => {
                    add(&mut rendered.cluster, &rules, false);
                    continue;
                }
                Within::Namespaces(names) => Box::new(names.iter().map(|name| self.index.words.text(*name))),
                Within::Labelled(known) => {
                    let names = known.get(&number).into_iter().flatten();
                    Box::new(names.map(|name| self.index.words.text(*name)))
                }
            };
            for namespace in names.filter(|namespace| *namespace != self.closed) {
                add(rendered.namespaces.entry(namespace.to_owned()).or_default(), &rules, false);
            }
        }
        rendered.namespaces.retain(|_, rules| !rules.is_empty());
        Some(rendered)
    }

    /// The same in what RBAC can say.
    fn by_rbac(&self, role: &Rules) -> Vec<Rule> {
        self.effective(role).into_iter().map(|rule| Rule { ports: Vec::new(), ..rule }).collect()
    }

    /// The rules of a role without what policy never lets it do, as far as rules can be without it.
    pub(crate) fn effective(&self, role: &Rules) -> Vec<Rule> {
        let rules = role.role.rules.iter().cloned();
        match role.role.read_only {
            true => rules.flat_map(|rule| self.for_looking(&rule)).collect(),
            false => rules.filter_map(|rule| self.without_gated(role, rule)).collect(),
        }
    }

    fn for_looking(&self, rule: &Rule) -> Vec<Rule> {
        if !rule.non_resource_urls.is_empty() {
            return Some(Rule { verbs: vec!["get".into()], ..rule.clone() })
                .filter(|_| rule.has_verb("get"))
                .into_iter()
                .collect();
        }
        let lets = |verb: &str, word: &str| {
            let (resource, subresource) = word.split_once('/').map_or((word, None), |(of, sub)| (of, Some(sub)));
            rule.api_groups.iter().any(|group| {
                let target = Target::Resource { group, resource, subresource, namespace: Some("x"), name: Some("x") };
                Asked::new(&self.index.words, &Action { verb, target, port: Default::default() })
                    .is_for_looking(&self.settings)
            })
        };
        let looking = ["get", "list", "watch"].into_iter().filter(|verb| rule.has_verb(verb)).map(str::to_owned);
        let resources = rule.resources.iter().filter(|word| *word == "*" || lets("get", word)).cloned();
        let looking = Rule { verbs: looking.collect(), resources: resources.collect(), ..rule.clone() };
        let core = rule.api_groups.iter().any(|group| group.is_empty() || group == "*");
        let exec = rule.resources.iter().any(|word| ["*", "pods/exec", "*/exec"].contains(&word.as_str()));
        let exec = (self.settings.view_exec && core && exec && rule.has_verb("create")).then(|| Rule {
            verbs: vec!["create".into()],
            api_groups: vec![String::new()],
            resources: vec!["pods/exec".into()],
            resource_names: rule.resource_names.clone(),
            ..Rule::default()
        });
        let looking = Some(looking).filter(|rule| !rule.verbs.is_empty() && !rule.resources.is_empty());
        looking.into_iter().chain(exec).collect()
    }

    fn without_gated(&self, role: &Rules, mut rule: Rule) -> Option<Rule> {
        let names =
            |words: &[String], some: &[&str]| words.iter().any(|word| word == "*" || some.contains(&word.as_str()));
        let shut = |gate: Gate| !self.passes(gate, role);
        for (gate, groups, resources) in [
            (Gate::Escalate, &["rbac.authorization.k8s.io"][..], &["roles", "clusterroles"][..]),
            (Gate::Bind, &["rbac.authorization.k8s.io"], &["roles", "clusterroles"]),
            (Gate::Approve, &["certificates.k8s.io"], &["signers"]),
            (Gate::Sign, &["certificates.k8s.io"], &["signers"]),
            // Nobody carries on what asks for it: roles that allow everything are left as they are.
            (Gate::Impersonate, &["", "authentication.k8s.io"], &["users", "groups", "serviceaccounts", "uids"]),
        ] {
            let about = names(&rule.api_groups, groups) && names(&rule.resources, resources);
            if !about || !shut(gate) || (gate == Gate::Impersonate && role.unlimited) {
                continue;
            }
            if rule.verbs.iter().any(|verb| verb == "*") {
                rule.verbs.retain(|verb| verb != "*");
                let more: Vec<_> =
                    VERBS.iter().filter(|verb| !rule.has_verb(verb)).map(|verb| (*verb).into()).collect();
                rule.verbs.extend::<Vec<String>>(more);
            }
            rule.verbs.retain(|verb| verb != gate.as_str());
        }
        if shut(Gate::Token) && !rule.resources.is_empty() && names(&rule.api_groups, &[""]) {
            let only_reads = rule.verbs.iter().all(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
            rule.resources.retain(|word| only_reads || word != "serviceaccounts/token");
            rule = Some(rule).filter(|rule| !rule.resources.is_empty())?;
        }
        (!rule.verbs.is_empty()).then_some(rule)
    }
}

fn add(rules: &mut Vec<Rule>, more: &[Rule], with_paths: bool) {
    let more = more.iter().filter(|rule| with_paths || rule.non_resource_urls.is_empty());
    for rule in more.flat_map(|rule| [Some(rule.clone()), streams_by_get(rule)]).flatten() {
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
