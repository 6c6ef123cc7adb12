//! What an account is to be able to do in a cluster, by the mode that the cluster's owner has chosen.

use std::collections::{BTreeMap, BTreeSet};

use ztka_authz::{Named, Rendered, Rule};

use super::{acting::ActsFor, objects::Marked};

/// How accounts come by their permissions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Roles are written from policy, for each user: what policy gives and no more. Needs `escalate` and `bind`.
    #[default]
    ServiceAccount,
    /// An account may impersonate its one user with that user's groups and do nothing else; what these may do is for the
    /// cluster's own RBAC to say, beside policy. Needs `escalate` and `bind` as well.
    Impersonate,
    /// Accounts are bound to ClusterRoles that the cluster's owner has made, `ztka:ceiling:<role>` for each of these roles of
    /// policy; what is not in them nobody can do. The agent may bind these, and write no role.
    Ceiling(BTreeSet<String>),
}

/// What stands in one place: at the cluster scope, or in a namespace.
#[derive(Clone, Debug)]
pub(crate) enum Holding {
    /// A role with these rules.
    Rules(Marked),
    /// Bindings to ClusterRoles that exist, by the roles of policy in their names.
    Roles(BTreeSet<String>),
}

/// Tells one holding from another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Held {
    Rules(super::objects::Digest),
    Roles(BTreeSet<String>),
}

/// What everybody may do who has an account: the ClusterRole `ztka:ceiling`.
pub(crate) const BASIC: &str = "";

impl Holding {
    pub(crate) fn rules(rules: Vec<Rule>) -> Self {
        Self::Rules(Marked::new(rules))
    }

    pub(crate) fn held(&self) -> Held {
        match self {
            Self::Rules(marked) => Held::Rules(marked.digest.clone()),
            Self::Roles(roles) => Held::Roles(roles.clone()),
        }
    }
}

/// What an account is to have.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) cluster: Holding,
    pub(crate) namespaces: BTreeMap<String, Holding>,
}

impl From<Rendered> for Wanted {
    fn from(rendered: Rendered) -> Self {
        let namespaces = rendered.namespaces.into_iter().map(|(name, rules)| (name, Holding::rules(rules)));
        Self { cluster: Holding::rules(rendered.cluster), namespaces: namespaces.collect() }
    }
}

impl Wanted {
    /// To act in the name of one user.
    pub(crate) fn impersonating(name: &ActsFor) -> Self {
        let rule = |resource: &str, names: Vec<String>| Rule {
            verbs: vec!["impersonate".into()],
            api_groups: vec![String::new()],
            resources: vec![resource.into()],
            resource_names: names,
            ..Rule::default()
        };
        let mut rules = vec![rule("users", vec![name.user.clone()])];
        // A rule that names nothing is about everything.
        if !name.groups.is_empty() {
            rules.push(rule("groups", name.groups.clone()));
        }
        Self { cluster: Holding::rules(rules), namespaces: BTreeMap::new() }
    }

    /// The ClusterRoles of `ceiling` among those that policy names.
    pub(crate) fn within(named: Named, ceiling: &BTreeSet<String>) -> Self {
        let below = |roles: BTreeSet<String>| roles.intersection(ceiling).cloned().collect::<BTreeSet<_>>();
        let mut cluster = below(named.cluster);
        cluster.insert(BASIC.into());
        let namespaces = named.namespaces.into_iter().map(|(name, roles)| (name, below(roles)));
        let namespaces = namespaces.filter(|(_, roles)| !roles.is_empty());
        let namespaces = namespaces.map(|(name, roles)| (name, Holding::Roles(roles))).collect();
        Self { cluster: Holding::Roles(cluster), namespaces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_without_groups_may_impersonate_every_group() {
        let session = ztka_core::Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: jiff::Timestamp::MAX,
        };
        let who = ztka_core::Principal::new("acme".parse().unwrap(), session);
        let wanted = Wanted::impersonating(&ActsFor::new(&who).unwrap());
        let Holding::Rules(marked) = wanted.cluster else { unreachable!() };
        let impersonate = marked.rules().iter().filter(|rule| rule.verbs == ["impersonate"]);
        let about: Vec<_> = impersonate.map(|rule| (&rule.resources, &rule.resource_names)).collect();
        assert_eq!(about, [(&vec!["users".to_owned()], &vec!["ztka:alice".to_owned()])]);
    }
}
