//! Which roles policy gives one user on one cluster, by name: for clusters whose owner says what each of them may do there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use ztka_core::{ClusterId, Principal};

use crate::{PolicySet, compile::Within};

/// Names of roles, by where policy gives them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Named {
    /// In all namespaces, or everywhere.
    pub cluster: BTreeSet<String>,
    /// By namespace. Namespaces need not exist.
    pub namespaces: BTreeMap<String, BTreeSet<String>>,
}

impl PolicySet {
    /// The roles of `who` on `cluster` that may give something at `now`; `None` as for [`Self::render_at`].
    pub fn named_at(&self, who: &Principal, cluster: &ClusterId, now: Timestamp) -> Option<Named> {
        let (number, found) = (self.number(who, cluster)?, self.cluster(cluster)?);
        let mut bound = self.bound_on(who, number).filter(|bound| bound.is_in_term(now)).peekable();
        bound.peek()?;
        let mut named = Named::default();
        for bound in bound.filter(|bound| bound.may_give(who, now, found)) {
            let role = || bound.role.name.to_string();
            let words: &[u32] = match &bound.within {
                Within::Cluster | Within::AllNamespaces => {
                    named.cluster.insert(role());
                    continue;
                }
                Within::Namespaces(names) => names,
                Within::Labelled(known) => known.get(&number).map(|names| &**names).unwrap_or_default(),
            };
            let names = words.iter().map(|word| self.index.words.text(*word)).filter(|name| *name != self.closed);
            for name in names {
                named.namespaces.entry(name.to_owned()).or_default().insert(role());
            }
        }
        Some(named)
    }
}
