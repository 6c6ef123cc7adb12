//! What somebody may do, as a list; and who may do something.

use std::{collections::HashMap, fmt};

use jiff::Timestamp;
use serde::Serialize;
use ztka_core::{Attributes, ClusterId, Principal, Session, UserName};

use crate::{
    Action, Facts, PolicySet, Subject, Verdict,
    compile::{Bound, Within},
};

/// One thing that somebody may do, by one binding.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// The cluster's name.
    pub cluster: String,
    /// Where in it.
    pub place: Place,
    /// A verb, or `*`.
    pub verb: String,
    /// `pods`, `deployments.apps/scale`, `*.*`, or a path.
    pub what: String,
    /// The name of the object, where only that one is meant.
    pub name: Option<String>,
    /// Term, conditions, obligations and ports under which it counts, as in the policy; empty if it counts always.
    pub terms: String,
}

/// Where in a cluster.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// Everywhere, outside of namespaces too.
    Cluster,
    /// In each namespace.
    AllNamespaces,
    /// In this one.
    Namespace(String),
}

impl Permission {
    /// True if whoever has this has `other` as well.
    pub fn covers(&self, other: &Self) -> bool {
        let place = match (&self.place, &other.place) {
            (Place::Cluster, _) => true,
            (Place::AllNamespaces, Place::Cluster) => false,
            (Place::AllNamespaces, _) => true,
            (here, there) => here == there,
        };
        let what = self.what == other.what
            || (!other.what.starts_with('/') && self.what == "*.*")
            || self
                .what
                .strip_suffix('*')
                .is_some_and(|prefix| prefix.starts_with('/') && other.what.starts_with(prefix));
        place
            && what
            && self.cluster == other.cluster
            && (self.verb == "*" || self.verb == other.verb)
            && (self.name.is_none() || self.name == other.name)
            && (self.terms.is_empty() || self.terms == other.terms)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.what)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.place {
            Place::Cluster => write!(f, " on {}", self.cluster)?,
            Place::AllNamespaces => write!(f, " in all namespaces of {}", self.cluster)?,
            Place::Namespace(namespace) => write!(f, " in {namespace} of {}", self.cluster)?,
        }
        match self.terms.is_empty() {
            true => Ok(()),
            false => write!(f, " under {}", self.terms),
        }
    }
}

/// Somebody who may do what was asked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct WhoCan {
    /// A user or a group by itself.
    pub subject: Subject,
    /// The binding by which.
    pub binding: String,
    /// The role by which.
    pub role: String,
}

impl PolicySet {
    /// What `who` may do on `cluster`, sorted, whenever and under whatever conditions: `can-i --list` for every namespace.
    ///
    /// Denials, protected namespaces and gates are not taken off, as they are no list; [`Self::weigh`] has the last word.
    pub fn permissions(&self, who: &Principal, cluster: &ClusterId) -> Vec<Permission> {
        let (Some(number), Some(found)) = (self.number(who, cluster), self.cluster(cluster)) else { return Vec::new() };
        let mut all = Vec::new();
        for bound in self.bound_on(who, number) {
            let places: Vec<Place> = match &bound.within {
                Within::Cluster => vec![Place::Cluster],
                Within::AllNamespaces => vec![Place::AllNamespaces],
                Within::Namespaces(names) => self.named(names),
                Within::Labelled(known) => known.get(&number).map(|names| self.named(names)).unwrap_or_default(),
            };
            for place in &places {
                self.list(bound, &found.name, place, &mut all);
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn named(&self, names: &[u32]) -> Vec<Place> {
        names.iter().map(|name| Place::Namespace(self.index.words.text(*name).into())).collect()
    }

    fn list(&self, bound: &Bound, cluster: &str, place: &Place, all: &mut Vec<Permission>) {
        let terms = bound.terms.as_ref().map(|terms| {
            let moment = |at: Option<Timestamp>, what| at.map(|at| format!("{what} {at}"));
            let when = (!terms.when.is_empty()).then(|| serde_json::to_string(&terms.when).unwrap_or_default());
            let parts = [moment(terms.from, "from"), moment(terms.until, "until"), when];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        });
        let duties = bound.duties.as_ref().map(|duties| serde_json::to_string(duties).unwrap_or_default());
        let terms = [terms, duties].into_iter().flatten().collect::<Vec<_>>().join(" ");
        for rule in self.effective(&bound.role) {
            let ports = rule.ports.iter().map(|ports| format!("port {ports}")).collect::<Vec<_>>().join(" ");
            let terms =
                [terms.as_str(), &ports].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
            let names: Vec<_> = match rule.resource_names.is_empty() {
                true => vec![None],
                false => rule.resource_names.iter().cloned().map(Some).collect(),
            };
            let whats = rule.api_groups.iter().flat_map(|group| {
                rule.resources.iter().map(move |word| {
                    let (of, sub) = word.split_once('/').map_or((word.as_str(), None), |(of, sub)| (of, Some(sub)));
                    let dot = if group.is_empty() { "" } else { "." };
                    format!("{of}{dot}{group}{}", sub.map(|sub| format!("/{sub}")).unwrap_or_default())
                })
            });
            let paths = rule.non_resource_urls.iter().filter(|_| *place == Place::Cluster).cloned();
            for what in whats.chain(paths) {
                for (verb, name) in rule.verbs.iter().flat_map(|verb| names.iter().map(move |name| (verb, name))) {
                    all.push(Permission {
                        cluster: cluster.into(),
                        place: place.clone(),
                        verb: verb.clone(),
                        what: what.clone(),
                        name: name.clone(),
                        terms: terms.clone(),
                    });
                }
            }
        }
    }

    /// The users and groups that policy names and that may do this by themselves: who is in several groups may do more,
    /// or be denied more.
    pub fn who_can(&self, cluster: &ClusterId, action: &Action<'_>, facts: &Facts<'_>) -> Vec<WhoCan> {
        self.who_can_of(&HashMap::new(), cluster, action, facts)
    }

    /// The same with what is known of users; of somebody in a group nothing is.
    pub fn who_can_of(
        &self,
        attributes: &HashMap<UserName, Attributes>,
        cluster: &ClusterId,
        action: &Action<'_>,
        facts: &Facts<'_>,
    ) -> Vec<WhoCan> {
        let none = Attributes::new();
        let by_who = &self.index.by_who;
        let mut stranger = String::from("somebody");
        while by_who.users().any(|name| name.as_str() == stranger) {
            stranger.push('-');
        }
        let users = by_who.users().cloned().map(Subject::User);
        let mut subjects: Vec<_> = users.chain(by_who.groups().cloned().map(Subject::Group)).collect();
        subjects.sort_unstable();
        let can = |subject: Subject| {
            let who = match &subject {
                Subject::User(name) => self.somebody_with(name.as_str(), &[], attributes.get(name).unwrap_or(&none))?,
                Subject::Group(name) => self.somebody(&stranger, &[name.as_str()])?,
            };
            match self.weigh(&who, cluster, action, facts) {
                Verdict::Allow { grant, .. } => {
                    Some(WhoCan { subject, binding: grant.binding().into(), role: grant.role().into() })
                }
                Verdict::Deny { .. } => None,
            }
        };
        subjects.into_iter().filter_map(can).collect()
    }

    /// A user of this organisation, for asking about: nobody has verified who it is. None if a name is none.
    pub fn somebody(&self, name: &str, groups: &[&str]) -> Option<Principal> {
        self.somebody_with(name, groups, &Attributes::new())
    }

    /// The same with attributes.
    pub fn somebody_with(&self, name: &str, groups: &[&str], attributes: &Attributes) -> Option<Principal> {
        let session = Session {
            user: "somebody".parse().ok()?,
            credential: "none".parse().ok()?,
            name: name.parse().ok()?,
            groups: groups.iter().map(|group| group.parse().ok()).collect::<Option<_>>()?,
            attributes: attributes.clone(),
            active_until: Timestamp::MAX,
        };
        Some(Principal::new(self.org.clone(), session))
    }
}
