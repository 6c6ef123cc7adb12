//! A candidate policy on what was recorded: what would have been decided otherwise.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use ztka_core::{ClusterId, Principal};

use super::Recorded;
use crate::{Action, Facts, Labels, PolicySet, Supported, Verdict};

/// What would change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Simulation {
    /// Decided as before.
    pub same: u64,
    /// Allowed then, denied now.
    pub newly_denied: Vec<Difference>,
    /// Denied then, allowed now.
    pub newly_allowed: Vec<Difference>,
    /// What cannot be asked about, as a name in it is none.
    pub unreadable: u64,
}

/// What one user would be told otherwise on one cluster.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Difference {
    /// The user.
    pub user: String,
    /// The cluster's name.
    pub cluster: String,
    /// What was asked: `delete pods -n shop`.
    pub what: String,
    /// How often.
    pub times: u64,
    /// Why it would be decided otherwise, as it would be said the first time.
    pub why: String,
}

/// By user, cluster and what was asked: how often, and why.
type Differences = BTreeMap<(String, String, String), (u64, String)>;

fn differences(found: Differences) -> Vec<Difference> {
    let found = found.into_iter();
    found.map(|((user, cluster, what), (times, why))| Difference { user, cluster, what, times, why }).collect()
}

impl PolicySet {
    /// Decides on what was recorded as this policy would have, at the time it was asked and from where; obligations
    /// count as seen to.
    pub fn simulate<'e>(&self, events: impl IntoIterator<Item = &'e Recorded>) -> Simulation {
        let mut simulation = Simulation::default();
        let (mut denied, mut allowed) = (Differences::new(), Differences::new());
        let mut people: HashMap<(&str, &[String], &Labels), Option<Principal>> = HashMap::new();
        let mut clusters: HashMap<&str, Option<ClusterId>> = HashMap::new();
        for event in events {
            let who = people.entry((&event.user, &event.groups, &event.attributes)).or_insert_with(|| {
                let groups: Vec<&str> = event.groups.iter().map(String::as_str).collect();
                self.somebody_with(&event.user, &groups, &event.attributes)
            });
            let cluster = clusters.entry(&event.cluster).or_insert_with(|| event.cluster.parse().ok());
            let (Some(who), Some(cluster)) = (who, cluster) else {
                simulation.unreadable += 1;
                continue;
            };
            let Some((action, verdict)) = self.again(event, who, cluster) else { continue };
            let (list, why) = match verdict {
                Verdict::Allow { .. } if event.allowed => {
                    simulation.same += 1;
                    continue;
                }
                Verdict::Deny { .. } if !event.allowed => {
                    simulation.same += 1;
                    continue;
                }
                Verdict::Allow { grant, .. } => (&mut allowed, format!("by binding {:?}", grant.binding())),
                Verdict::Deny { reason } => (&mut denied, self.refusal(&reason, who, cluster, &action)),
            };
            let name = self.cluster(cluster).map_or(event.cluster.clone(), |known| known.name.clone());
            list.entry((event.user.clone(), name, event.describe())).or_insert((0, why)).0 += 1;
        }
        (simulation.newly_denied, simulation.newly_allowed) = (differences(denied), differences(allowed));
        simulation
    }

    /// The first denial, if one of what was asked is denied.
    fn again<'p, 'e>(
        &'p self,
        event: &'e Recorded,
        who: &Principal,
        cluster: &ClusterId,
    ) -> Option<(Action<'e>, Verdict<'p>)> {
        let facts = Facts::at(event.at).from_source(event.source).supporting(Supported::ALL);
        let command: Vec<&str> = event.command.iter().flatten().map(String::as_str).collect();
        let facts = if event.command.is_some() { facts.running(&command) } else { facts };
        let mut first = None;
        for action in event.actions() {
            let verdict = self.weigh(who, cluster, &action, &facts);
            if matches!(verdict, Verdict::Deny { .. }) {
                return Some((action, verdict));
            }
            first.get_or_insert((action, verdict));
        }
        first
    }
}
