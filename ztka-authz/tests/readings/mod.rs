//! What must hold for any policy: shared by property tests, the replay of the corpus and the fuzz target.

#![allow(dead_code, reason = "each test binary and fuzz target uses its part")]

#[path = "../fixture/mod.rs"]
pub(crate) mod fixture;
pub(crate) mod naive;

use std::collections::BTreeSet;

use jiff::Timestamp;
use naive::{allowed, naive, plain, rbac};
use ztka_authz::{
    PolicyDocument, PolicySet, Subject, Target,
    tools::{EventsError, Expectations, policy_from_yaml, recorded},
};
use ztka_core::{ClusterId, Principal};

/// All that the way of a request knows.
const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"];

/// Longer ones ask more questions than there is time for.
const LONGEST: usize = 8 * 1024;

/// Reads a policy as an administrator writes it and asks it about all that is named in it; true if it is valid.
pub(crate) fn policy(data: &[u8]) -> bool {
    if data.len() > LONGEST {
        return false;
    }
    let Ok(document) = serde_json::from_slice::<PolicyDocument>(data) else { return false };
    let written = serde_json::to_vec(&document).unwrap();
    assert_eq!(serde_json::from_slice::<PolicyDocument>(&written).unwrap(), document);
    let signed = fixture::signed(&document, 1, Timestamp::MAX);
    let compiled = PolicySet::compile(&signed);
    // What is only not understood may be received, and gives nothing; nobody may write it.
    assert!(compiled.is_ok() || document.validate().is_err());
    let Ok(policy) = compiled else { return false };

    let words = Words::of(&document);
    let clusters = document.clusters.iter().take(3).map(|cluster| cluster.id.clone());
    for cluster in clusters.chain(["nowhere".parse().unwrap()]) {
        let projected = fixture::compiled(&PolicySet::project(&document, &cluster));
        for who in words.people() {
            let bound = words.questions(&mut |verb, target| {
                let answer = allowed(&policy, &who, &plain(), &cluster, verb, target);
                assert_eq!(
                    answer,
                    naive(&document, &who, &plain(), &cluster, verb, target),
                    "{verb} {target:?} {who:?}"
                );
                let narrow = allowed(&projected, &who, &plain(), &cluster, verb, target);
                assert_eq!(answer, narrow, "projected: {verb} {target:?}");
                // Where a gate is shut, `*` is written out and stands for what requests can ask for.
                let rendered = rbac(&policy, &who, &cluster, verb, target) || !VERBS.contains(&verb);
                assert!(!answer || rendered, "not rendered: {verb} {target:?}");
                answer
            });
            let has_role = policy.clusters_of(&who).iter().any(|known| known.id == cluster);
            assert!(has_role || !bound, "{who:?} may something without a role");
            assert_eq!(policy.render(&who, &cluster).is_some(), has_role);
        }
        nobody(&policy, &cluster, &words);
    }
    true
}

/// Reads a policy as it stands in a file; true if it is valid.
pub(crate) fn policy_file(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Err(error) = Expectations::from_yaml(text) {
        assert!(error.line() >= 1 && error.line() <= text.lines().count() + 1, "{error}");
    }
    match policy_from_yaml(text) {
        Ok(document) => {
            // What is written again means the same, and JSON is YAML.
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(policy_from_yaml(&json).unwrap(), document);
            fixture::compiled(&document);
            true
        }
        Err(error) => {
            assert!(error.line() >= 1 && error.line() <= text.lines().count() + 1, "{error}");
            false
        }
    }
}

/// Reads audit events, one to a line, and decides on them again; true if they can be read.
pub(crate) fn audit_events(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let events = match recorded(data) {
        Ok(events) => events,
        Err(EventsError::Event(error)) => {
            assert!(error.line() >= 1 && error.line() <= text.lines().count(), "{error}");
            return false;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(events.len() <= text.lines().count());
    // A log that is read twice holds nothing more, and one policy changes nothing that it has decided itself.
    assert_eq!(recorded([data, b"\n", data].concat().as_slice()).unwrap(), events);
    let policy = fixture::compiled(&fixture::gives("view", serde_json::json!({"namespaces": ["shop"]})));
    let simulation = policy.simulate(&events);
    let different = simulation.newly_denied.iter().chain(&simulation.newly_allowed).map(|of| of.times).sum::<u64>();
    assert_eq!(simulation.same + different + simulation.unreadable, events.len() as u64);
    assert!(simulation.newly_allowed.iter().all(|change| change.user == "alice"), "{simulation:?}");
    true
}

/// Whoever no binding names may nothing, nor may anybody of another organisation.
fn nobody(policy: &PolicySet, cluster: &ClusterId, words: &Words) {
    let stranger = fixture::user("nobody-of-ours", &[]);
    if words.users.contains(stranger.name().as_str()) {
        return;
    }
    assert!(!words.questions(&mut |verb, target| allowed(policy, &stranger, &plain(), cluster, verb, target)));
}

/// What a policy names, and a little that it may not.
#[derive(Debug, Default)]
struct Words {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    verbs: BTreeSet<String>,
    api_groups: BTreeSet<String>,
    resources: BTreeSet<(String, Option<String>)>,
    names: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Words {
    fn of(document: &PolicyDocument) -> Self {
        let mut words = Self::default();
        for binding in &document.bindings {
            for subject in &binding.subjects {
                match subject {
                    Subject::User(name) => words.users.insert(name.to_string()),
                    Subject::Group(name) => words.groups.insert(name.to_string()),
                };
            }
            if let ztka_authz::Scope::Namespaces(namespaces) = &binding.scope {
                words.namespaces.extend(namespaces.iter().cloned());
            }
        }
        words.namespaces.extend(document.clusters.iter().flat_map(|cluster| cluster.namespaces.keys().cloned()));
        let denied = document.denials.iter().flat_map(|denial| &denial.rules);
        for rule in document.roles.iter().flat_map(|role| &role.rules).chain(denied) {
            words.verbs.extend(rule.verbs.iter().cloned());
            words.api_groups.extend(rule.api_groups.iter().cloned());
            words.names.extend(rule.resource_names.iter().filter(|name| !name.is_empty()).cloned());
            words.paths.extend(rule.non_resource_urls.iter().map(|path| path.replace('*', "x")));
            for word in &rule.resources {
                let (resource, sub) = word.split_once('/').map_or((word.as_str(), None), |(of, sub)| (of, Some(sub)));
                // No resource has a slash in it, and none is called nothing.
                if !resource.is_empty() && sub.is_none_or(|sub| !sub.is_empty() && !sub.contains('/')) {
                    words.resources.insert((resource.replace('*', "pods"), sub.map(str::to_owned)));
                }
            }
        }
        let add = |to: &mut BTreeSet<String>, more: &[&str]| to.extend(more.iter().map(|word| (*word).to_owned()));
        add(&mut words.verbs, &["get", "create", "deletecollection"]);
        add(&mut words.api_groups, &["", "rbac.authorization.k8s.io"]);
        add(&mut words.names, &["web", "ztka:u1"]);
        add(&mut words.namespaces, &["dev", "ztka-system"]);
        add(&mut words.paths, &["/api", "/metrics"]);
        for (resource, sub) in [("pods", None), ("pods", Some("exec")), ("secrets", None), ("roles", None)] {
            words.resources.insert((resource.to_owned(), sub.map(str::to_owned)));
        }
        words
    }

    fn people(&self) -> Vec<Principal> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).take(3).collect();
        let mut people = vec![fixture::user("zoe", &groups), fixture::user("zoe", &[])];
        people.extend(self.users.iter().take(3).map(|name| fixture::user(name, &[])));
        people.extend(self.users.iter().take(1).map(|name| fixture::user(name, &groups)));
        people
    }

    /// Asks about all combinations of the first few words; true if anything is allowed beyond what everybody may who is
    /// bound.
    fn questions<'a>(&'a self, ask: &mut dyn FnMut(&'a str, Target<'a>) -> bool) -> bool {
        let some = |words: &'a BTreeSet<String>| words.iter().map(|word| Some(word.as_str())).take(4);
        let mut allowed = false;
        for verb in self.verbs.iter().take(5) {
            for path in self.paths.iter().take(4) {
                allowed |= ask(verb, Target::Path(path));
            }
            for (resource, subresource) in self.resources.iter().take(6) {
                let subresource = subresource.as_deref();
                for group in self.api_groups.iter().take(3) {
                    for namespace in some(&self.namespaces).chain([None]) {
                        for name in some(&self.names).take(2).chain([None]) {
                            allowed |= ask(verb, Target::Resource { group, resource, subresource, namespace, name });
                        }
                    }
                }
            }
        }
        allowed
    }
}
