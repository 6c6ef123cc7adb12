//! The engine against a second, naive evaluator; rendered RBAC and projections against the engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod readings;

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::select};
use readings::{
    fixture,
    naive::{allowed, closed, is_stream, naive, rbac, secrets_everywhere},
};
use ztka_authz::{Binding, Cluster, ClusterSelector, PolicyDocument, PolicySet, Role, Rule, Scope, Subject, Target};

const VERBS: &[&str] = &["get", "list", "create", "delete", "deletecollection"];
const GROUPS: &[&str] = &["", "apps", "rbac.authorization.k8s.io"];
const RESOURCES: &[&str] = &["pods", "secrets", "deployments", "namespaces", "clusterroles"];
const SUBRESOURCES: &[&str] = &["exec", "scale", "log"];
const NAMESPACES: &[&str] = &["dev", "web", "ztka-system"];
const NAMES: &[&str] = &["a", "b", "ztka:u1"];
const PATHS: &[&str] = &["/api", "/api/v1", "/metrics", "/healthz/etcd"];
const CLUSTERS: &[&str] = &["c1", "c2", "c3"];

fn some(words: &'static [&'static str], extra: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let words: Vec<&str> = words.iter().chain(extra).copied().collect();
    prop::collection::vec(select(words).prop_map(str::to_owned), 1..3)
}

fn rule() -> impl Strategy<Value = Rule> {
    let resources = some(RESOURCES, &["*", "pods/exec", "pods/*", "*/scale", "deployments/scale", "pods/log"]);
    let names = prop_oneof![3 => Just(Vec::new()), 1 => some(NAMES, &[])];
    let about_resources = (some(VERBS, &["*"]), some(GROUPS, &["*"]), resources, names).prop_map(
        |(verbs, api_groups, resources, resource_names)| Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..Rule::default()
        },
    );
    let about_paths = (some(VERBS, &["*"]), some(PATHS, &["*", "/api/*", "/healthz*"]))
        .prop_map(|(verbs, non_resource_urls)| Rule { verbs, non_resource_urls, ..Rule::default() });
    prop_oneof![4 => about_resources, 1 => about_paths]
}

fn binding() -> impl Strategy<Value = Binding> {
    let subjects = prop::collection::vec(
        prop_oneof![
            select(vec!["alice", "bob"]).prop_map(|name| Subject::User(name.parse().unwrap())),
            select(vec!["dev", "ops"]).prop_map(|name| Subject::Group(name.parse().unwrap())),
        ],
        0..3,
    );
    let role = select(vec!["one", "two", "cluster-admin", "edit", "view"]);
    let labels = prop::option::of(
        prop::collection::btree_map(select(vec!["stage", "zone"]), select(vec!["x", "y"]), 1..3)
            .prop_map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
    );
    let ids = prop::collection::vec(select(CLUSTERS).prop_map(|id| id.parse().unwrap()), 0..2);
    let clusters = (prop::bool::weighted(0.2), ids, labels).prop_map(|(all, ids, match_labels)| ClusterSelector {
        all,
        ids,
        names: Vec::new(),
        match_labels,
    });
    let scope = prop_oneof![Just(Scope::Cluster), some(NAMESPACES, &[]).prop_map(Scope::Namespaces)];
    (subjects, role, clusters, scope).prop_map(|(subjects, role, clusters, scope)| Binding {
        name: String::new(),
        subjects,
        role: role.into(),
        clusters,
        scope,
    })
}

fn policy() -> impl Strategy<Value = PolicyDocument> {
    let labels = || {
        prop::collection::btree_map(select(vec!["stage", "zone"]), select(vec!["x", "y"]), 0..3)
            .prop_map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    };
    let clusters = [labels(), labels()].prop_map(|labels: [BTreeMap<String, String>; 2]| {
        let cluster = |(id, labels): (&&str, _)| Cluster { id: id.parse().unwrap(), name: id.to_string(), labels };
        CLUSTERS.iter().zip(labels).map(cluster).collect()
    });
    let rules = || prop::collection::vec(rule(), 0..4);
    let settings = (any::<bool>(), any::<bool>())
        .prop_map(|(view_secrets, view_exec)| ztka_authz::Settings { view_secrets, view_exec });
    (clusters, rules(), rules(), prop::collection::vec(binding(), 0..6), settings).prop_map(
        |(clusters, one, two, mut bindings, settings)| {
            for (number, binding) in bindings.iter_mut().enumerate() {
                binding.name = format!("b{number}");
            }
            let roles = vec![Role { name: "one".into(), rules: one }, Role { name: "two".into(), rules: two }];
            PolicyDocument { clusters, roles, bindings, settings }
        },
    )
}

fn question() -> impl Strategy<Value = (&'static str, Target<'static>)> {
    let about_resources = (
        select(GROUPS),
        select(RESOURCES),
        prop::option::of(select(SUBRESOURCES)),
        prop::option::of(select(NAMESPACES)),
        prop::option::of(select(NAMES)),
    )
        .prop_map(|(group, resource, subresource, namespace, name)| Target::Resource {
            group,
            resource,
            subresource,
            namespace,
            name,
        });
    (select(VERBS), prop_oneof![5 => about_resources, 1 => select(PATHS).prop_map(Target::Path)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_says_what_the_naive_evaluator_says(
        document in policy(),
        questions in prop::collection::vec(question(), 20),
    ) {
        let policy = fixture::compiled(&document);
        let who = fixture::user("alice", &["dev"]);
        for cluster in CLUSTERS {
            let cluster = cluster.parse().unwrap();
            let projected = fixture::compiled(&PolicySet::project(&document, &cluster));
            for (verb, target) in &questions {
                let answer = allowed(&policy, &who, &cluster, verb, *target);
                prop_assert_eq!(answer, naive(&document, &who, &cluster, verb, *target), "{} {:?}", verb, target);
                let narrow = allowed(&projected, &who, &cluster, verb, *target);
                prop_assert_eq!(answer, narrow, "projection: {} {:?}", verb, target);
            }
        }
    }

    #[test]
    fn rendered_rbac_allows_what_policy_allows(
        document in policy(),
        questions in prop::collection::vec(question(), 20),
    ) {
        let policy = fixture::compiled(&document);
        let who = fixture::user("alice", &["dev"]);
        let cluster = "c1".parse().unwrap();
        for (verb, target) in questions {
            let answer = allowed(&policy, &who, &cluster, verb, target);
            let rendered = rbac(&policy, &who, &cluster, verb, target);
            if answer {
                prop_assert!(rendered, "policy allows, RBAC does not: {} {:?}", verb, target);
                if is_stream(target) && ["get", "create"].contains(&verb) {
                    prop_assert!(rbac(&policy, &who, &cluster, "create", target));
                    prop_assert!(rbac(&policy, &who, &cluster, "get", target));
                }
            } else if rendered {
                // All that RBAC cannot say.
                let get_only = is_stream(target) && verb == "get" && !rbac(&policy, &who, &cluster, "create", target);
                prop_assert!(
                    closed(verb, target) || secrets_everywhere(target) || get_only,
                    "RBAC allows, policy does not: {} {:?}", verb, target
                );
            }
        }
    }
}
