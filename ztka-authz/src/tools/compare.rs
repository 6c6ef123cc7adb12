//! Two versions of a policy, as what people gain and lose.

use std::collections::BTreeSet;

use serde::Serialize;
use ztka_core::{GroupName, Principal};

use super::Permission;
use crate::{PolicySet, Subject};

/// What one person or group gains and loses.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Change {
    /// `user alice`, `group dev`.
    pub who: String,
    /// What the new version gives and the old one did not.
    pub gained: Vec<Permission>,
    /// What the old version gave and the new one does not.
    pub lost: Vec<Permission>,
}

/// What changes from `old` to `new` for each of `people`, or, if there are none, for each user and group that either
/// version names by itself. Who gains and loses nothing is left out.
///
/// It compares what bindings give; what denials and guardrails take away is for [`simulate`](PolicySet::simulate).
pub fn compare(old: &PolicySet, new: &PolicySet, people: &[Principal]) -> Vec<Change> {
    let of = |policy: &PolicySet| {
        let users = policy.index.by_who.users().cloned().map(Subject::User);
        users.chain(policy.index.by_who.groups().cloned().map(Subject::Group)).collect::<Vec<_>>()
    };
    let named: BTreeSet<Subject> = of(old).into_iter().chain(of(new)).collect();
    let people: Vec<(String, Principal)> = match people.is_empty() {
        false => people.iter().map(|who| (format!("user {}", who.name()), who.clone())).collect(),
        true => named.iter().filter_map(|subject| alone(old, subject)).collect(),
    };
    let clusters: BTreeSet<_> = old.clusters.iter().chain(&new.clusters).map(|cluster| &cluster.id).collect();
    let mut changes = Vec::new();
    for (name, who) in people {
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for cluster in &clusters {
            let (before, after) = (old.permissions(&who, cluster), new.permissions(&who, cluster));
            gained.extend(without(&after, &before));
            lost.extend(without(&before, &after));
        }
        if !gained.is_empty() || !lost.is_empty() {
            changes.push(Change { who: name, gained, lost });
        }
    }
    changes
}

/// Those of `some` that none of `others` covers.
fn without(some: &[Permission], others: &[Permission]) -> Vec<Permission> {
    // Most of what is in both is in both as it is.
    let same: BTreeSet<_> = others.iter().collect();
    let new = |one: &&Permission| !same.contains(one) && !others.iter().any(|other| other.covers(one));
    some.iter().filter(new).cloned().collect()
}

fn alone(policy: &PolicySet, subject: &Subject) -> Option<(String, Principal)> {
    match subject {
        Subject::User(name) => Some((format!("user {name}"), policy.somebody(name.as_str(), &[])?)),
        // A name that no user has: it begins with what a group's name ends with at the latest.
        Subject::Group(name) => {
            Some((format!("group {name}"), policy.somebody(&unused(policy, name), &[name.as_str()])?))
        }
    }
}

fn unused(policy: &PolicySet, group: &GroupName) -> String {
    let mut name = format!("member-of-{group}");
    name.truncate(100);
    while policy.index.by_who.users().any(|user| user.as_str() == name) {
        name.push('-');
    }
    name
}
