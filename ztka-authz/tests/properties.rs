//! The engine against a second, naive evaluator; rendered RBAC and projections against the engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod generated;
mod readings;

use generated::{CLUSTERS, TIMES, binding, policy, question};
use proptest::{prelude::*, sample::select};
use readings::{
    fixture,
    naive::{World, allowed, closed, gate, is_stream, naive, plain, rbac, secrets_everywhere},
};
use ztka_authz::{Guardrails, PolicySet, Role, Scope, Subject, Target};

fn world() -> impl Strategy<Value = World> {
    let sources = select(vec![None, Some("10.1.2.3"), Some("192.0.2.1")]);
    (select(TIMES), sources).prop_map(|(now, source)| World {
        now: now.parse().unwrap(),
        source: source.map(|source| source.parse().unwrap()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_says_what_the_naive_evaluator_says(
        document in policy(),
        world in world(),
        questions in prop::collection::vec(question(), 20),
    ) {
        let policy = fixture::compiled(&document);
        let who = fixture::user("alice", &["dev"]);
        for cluster in CLUSTERS {
            let cluster = cluster.parse().unwrap();
            let projected = fixture::compiled(&PolicySet::project(&document, &cluster));
            for (verb, target) in &questions {
                let answer = allowed(&policy, &who, &world, &cluster, verb, *target);
                let second = naive(&document, &who, &world, &cluster, verb, *target);
                prop_assert_eq!(answer, second, "{} {:?}", verb, target);
                let narrow = allowed(&projected, &who, &world, &cluster, verb, *target);
                prop_assert_eq!(answer, narrow, "projection: {} {:?}", verb, target);
            }
        }
    }

    #[test]
    fn rendered_rbac_allows_what_policy_allows(
        document in policy(),
        world in world(),
        questions in prop::collection::vec(question(), 20),
    ) {
        let policy = fixture::compiled(&document);
        let who = fixture::user("alice", &["dev"]);
        let cluster = "c1".parse().unwrap();
        for (verb, target) in questions {
            let answer = allowed(&policy, &who, &world, &cluster, verb, target);
            let rendered = rbac(&policy, &who, &cluster, verb, target);
            prop_assert!(rendered || !answer, "policy allows, RBAC does not: {} {:?}", verb, target);
            if answer && is_stream(target) && ["get", "create"].contains(&verb) {
                prop_assert!(rbac(&policy, &who, &cluster, "create", target));
                prop_assert!(rbac(&policy, &who, &cluster, "get", target));
            }
        }
    }

    #[test]
    fn without_what_rbac_cannot_say_it_allows_nothing_more(
        mut document in policy(),
        questions in prop::collection::vec(question(), 20),
    ) {
        document.denials.clear();
        document.guardrails = Guardrails::default();
        for binding in &mut document.bindings {
            if binding.scope == Scope::AllNamespaces {
                binding.scope = Scope::Cluster;
            }
            (binding.valid_until, binding.when, binding.obligations) = Default::default();
        }
        let policy = fixture::compiled(&document);
        let who = fixture::user("alice", &["dev"]);
        let cluster = "c1".parse().unwrap();
        for (verb, target) in questions {
            if allowed(&policy, &who, &plain(), &cluster, verb, target) || !rbac(&policy, &who, &cluster, verb, target) {
                continue;
            }
            let get_only = is_stream(target) && verb == "get" && !rbac(&policy, &who, &cluster, "create", target);
            let gated = gate(&document.guardrails.gates, verb, target).is_some();
            // A read-only role over all resources reads, by RBAC, what policy keeps from it.
            let star = |role: &Role| role.read_only && role.rules.iter().any(|rule| rule.resources.contains(&"*".into()));
            let kept = document.roles.iter().any(star) || matches!(target, Target::Resource { subresource: Some(_), .. } if
                document.roles.iter().any(|role| role.read_only));
            prop_assert!(
                closed(verb, target) || secrets_everywhere(target) || get_only || gated || kept,
                "RBAC allows, policy does not: {} {:?}", verb, target
            );
        }
    }

    #[test]
    fn nobody_gives_more_than_they_have(
        mut document in policy(),
        mut given in binding(),
        like in prop::option::weighted(0.8, any::<(prop::sample::Index, [bool; 2])>()),
        world in world(),
        questions in prop::collection::vec(question(), 20),
    ) {
        // Mostly one that is there already, or a part of it: few others are theirs to give.
        if let (Some((like, [scope, clusters])), false) = (like, document.bindings.is_empty()) {
            let other = given;
            given = like.get(&document.bindings).clone();
            if scope {
                given.scope = other.scope;
            }
            if clusters {
                given.clusters = other.clusters;
            }
        }
        // These are about people, not about what they were given.
        document.denials.clear();
        document.guardrails = Guardrails::default();
        given.subjects = vec![Subject::User("newcomer".parse().unwrap())];
        given.name = "given".into();
        let alice = fixture::user("alice", &["dev"]);
        if document.may_grant(&alice, &given, world.now).is_ok() {
            document.bindings.push(given);
            let policy = fixture::compiled(&document);
            let newcomer = fixture::user("newcomer", &[]);
            for cluster in CLUSTERS {
                let cluster = cluster.parse().unwrap();
                for (verb, target) in &questions {
                    let has = allowed(&policy, &alice, &world, &cluster, verb, *target);
                    let gets = allowed(&policy, &newcomer, &world, &cluster, verb, *target);
                    prop_assert!(has || !gets, "{} {:?} on {}", verb, target, cluster);
                }
            }
        }
    }
}
