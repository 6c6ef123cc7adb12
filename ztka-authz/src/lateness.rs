//! Which clusters' projections are older than the policy that they are of, as far as somebody knows who hands them on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use ztka_core::{ClusterId, OrgId, Revision};

/// The projections of one organisation's policy that are known of, and the policy in force.
#[derive(Debug, Default)]
struct Known {
    policy: Revision,
    projections: HashMap<ClusterId, Revision>,
}

impl Known {
    fn late(&self) -> HashMap<ClusterId, Revision> {
        let late = self.projections.iter().filter(|(_, revision)| **revision < self.policy);
        late.map(|(cluster, revision)| (cluster.clone(), *revision)).collect()
    }
}

type Late = HashMap<OrgId, Arc<HashMap<ClusterId, Revision>>>;

/// Written as documents come, and read with each request: almost always there is nothing to read.
#[derive(Debug, Default)]
pub(crate) struct Lateness {
    known: Mutex<HashMap<OrgId, Known>>,
    late: ArcSwap<Late>,
}

impl Lateness {
    /// The policy of `org` is about to come into force at this revision.
    pub(crate) fn policy(&self, org: &OrgId, revision: Revision) {
        self.update(org, |known| known.policy = known.policy.max(revision));
    }

    /// The newest projection to `cluster` that is known of is of this revision; none: there is no such cluster any more.
    pub(crate) fn projection(&self, org: &OrgId, cluster: &ClusterId, revision: Option<Revision>) {
        self.update(org, |known| match revision {
            Some(revision) => _ = known.projections.insert(cluster.clone(), revision),
            None => _ = known.projections.remove(cluster),
        });
    }

    fn update(&self, org: &OrgId, update: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_org = known.entry(org.clone()).or_default();
        update(of_org);
        let (before, late) = (self.late.load(), of_org.late());
        // Projections come before their policy, so mostly there is nothing to say.
        if before.get(org).map_or(late.is_empty(), |before| **before == late) {
            return;
        }
        let mut all = HashMap::clone(&before);
        match late.is_empty() {
            true => _ = all.remove(org),
            false => _ = all.insert(org.clone(), Arc::new(late)),
        }
        self.late.store(Arc::new(all));
    }

    /// The revision of the newest projection to `cluster`, if it is older than the policy in force.
    pub(crate) fn of(&self, org: &OrgId, cluster: &ClusterId) -> Option<Revision> {
        let late = self.late.load();
        if late.is_empty() {
            return None;
        }
        late.get(org)?.get(cluster).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_is_late_until_it_is_as_new_as_the_policy() {
        let (lateness, org): (_, OrgId) = (Lateness::default(), "acme".parse().unwrap());
        let (one, two) = ("c1".parse().unwrap(), "c2".parse().unwrap());
        let at = |version| Revision { epoch: 1, version };
        // Both come before their policy, as a rule.
        lateness.projection(&org, &one, Some(at(1)));
        lateness.projection(&org, &two, Some(at(1)));
        lateness.policy(&org, at(1));
        assert_eq!((lateness.of(&org, &one), lateness.of(&org, &two)), (None, None));

        lateness.projection(&org, &one, Some(at(2)));
        lateness.policy(&org, at(2));
        assert_eq!((lateness.of(&org, &one), lateness.of(&org, &two)), (None, Some(at(1))));
        assert_eq!(lateness.of(&"other".parse().unwrap(), &two), None);
        // One that nothing is known of is none that could be named.
        assert_eq!(lateness.of(&org, &"c3".parse().unwrap()), None);
        lateness.policy(&org, at(1));
        assert_eq!(lateness.of(&org, &two), Some(at(1)), "a policy does not get older");
        lateness.projection(&org, &two, Some(at(2)));
        assert_eq!(lateness.of(&org, &two), None);
        assert!(lateness.late.load().is_empty());

        lateness.policy(&org, at(3));
        lateness.projection(&org, &two, None);
        assert_eq!((lateness.of(&org, &one), lateness.of(&org, &two)), (Some(at(2)), None));
    }
}
