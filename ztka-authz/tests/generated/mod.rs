//! Generated policies and questions, out of few words so that much of it meets.

#![allow(dead_code, reason = "each test takes its part")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::{prelude::*, sample::select};
use serde_json::json;
use ztka_authz::{
    Binding, Clause, Cluster, ClusterSelector, Conditions, Denial, Gates, Group, Guardrails, Obligations, Opening,
    Operator, PolicyDocument, Project, ProtectedAccess, ProtectedNamespaces, Requirement, Role, Rule, Scope, Subject,
    Target,
};

const VERBS: &[&str] = &["get", "list", "create", "delete", "deletecollection", "escalate"];
const GROUPS: &[&str] = &["", "apps", "rbac.authorization.k8s.io"];
const RESOURCES: &[&str] = &["pods", "secrets", "deployments", "namespaces", "clusterroles", "serviceaccounts"];
const SUBRESOURCES: &[&str] = &["exec", "scale", "log", "token", "portforward"];
pub(crate) const NAMESPACES: &[&str] = &["dev", "web", "ztka-system"];
const NAMES: &[&str] = &["a", "b", "ztka:u1"];
const PATHS: &[&str] = &["/api", "/api/v1", "/metrics", "/healthz/etcd"];
pub(crate) const CLUSTERS: &[&str] = &["c1", "c2", "c3"];

fn some(words: &'static [&'static str], extra: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let words: Vec<&str> = words.iter().chain(extra).copied().collect();
    prop::collection::vec(select(words).prop_map(str::to_owned), 1..3)
}

fn rule() -> impl Strategy<Value = Rule> {
    let resources = some(
        RESOURCES,
        &["*", "pods/exec", "pods/*", "*/scale", "deployments/scale", "pods/log", "serviceaccounts/token"],
    );
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
    let about_ports = some(VERBS, &["*"]).prop_map(|verbs| Rule {
        verbs,
        api_groups: vec![String::new()],
        resources: vec!["pods/portforward".into()],
        ports: vec!["8080".parse().unwrap()],
        ..Rule::default()
    });
    prop_oneof![12 => about_resources, 3 => about_paths, 1 => about_ports]
}

fn subjects(least: usize) -> impl Strategy<Value = Vec<Subject>> {
    let one = prop_oneof![
        select(vec!["alice", "bob"]).prop_map(|name| Subject::User(name.parse().unwrap())),
        select(vec!["dev", "ops", "all", "inner"]).prop_map(|name| Subject::Group(name.parse().unwrap())),
    ];
    prop::collection::vec(one, least..3)
}

fn labels(least: usize) -> impl Strategy<Value = BTreeMap<String, String>> {
    let pairs = prop::collection::btree_map(select(vec!["stage", "zone"]), select(vec!["x", "y"]), least..3);
    pairs.prop_map(|labels| labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn clusters() -> impl Strategy<Value = ClusterSelector> {
    let ids = prop::collection::vec(select(CLUSTERS).prop_map(|id| id.parse().unwrap()), 0..2);
    let projects = prop::collection::vec(select(vec!["p", "q"]).prop_map(str::to_owned), 0..2);
    let operators = select(vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let requirement = (select(vec!["stage", "zone"]), operators).prop_map(|(key, operator)| {
        let values = match operator {
            Operator::In | Operator::NotIn => vec!["x".to_owned()],
            Operator::Exists | Operator::DoesNotExist => Vec::new(),
        };
        Requirement { key: key.into(), operator, values }
    });
    let expressions = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(requirement, 1..3)];
    (prop::bool::weighted(0.3), ids, projects, prop::option::weighted(0.4, labels(1)), expressions).prop_map(
        |(all, ids, projects, match_labels, match_expressions)| ClusterSelector {
            all,
            ids,
            projects,
            match_labels,
            match_expressions,
            ..ClusterSelector::default()
        },
    )
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        3 => Just(Scope::Cluster),
        1 => Just(Scope::AllNamespaces),
        3 => some(NAMESPACES, &[]).prop_map(Scope::Namespaces),
        1 => labels(1).prop_map(Scope::NamespaceLabels),
    ]
}

/// Mostly none, so that enough is allowed.
fn when() -> impl Strategy<Value = Clause<Conditions>> {
    let one = prop_oneof![
        Just(json!({"hours": {"days": ["mon", "tue"], "from": "09:00", "until": "17:00"}})),
        Just(json!({"hours": {"from": "00:00", "until": "10:00"}})),
        Just(json!({"networks": ["10.0.0.0/8"]})),
        Just(json!({"mfa": {"maxAge": "15m"}})),
        labels(1).prop_map(|labels| json!({"clusterLabels": labels})),
        labels(1).prop_map(|labels| json!({"namespaceLabels": labels})),
        rule().prop_map(|rule| json!({"request": [rule]})),
        Just(json!({"commands": ["ls *"]})),
        Just(json!({"user": {"team": ["a"]}})),
        Just(json!({"moon": "full"})),
    ];
    let some = prop::collection::vec(one, 1..3).prop_map(|parts| {
        let mut all = serde_json::Map::new();
        parts.into_iter().for_each(|part| all.extend(part.as_object().unwrap().clone()));
        serde_json::from_value(all.into()).unwrap()
    });
    prop_oneof![2 => Just(Clause::default()), 1 => some]
}

fn obligations() -> impl Strategy<Value = Clause<Obligations>> {
    let some = select(vec![
        json!({"record": true}),
        json!({"maxDuration": "1h"}),
        json!({"audit": "Request"}),
        json!({"stepUp": true}),
        json!({"sing": true}),
    ]);
    prop_oneof![6 => Just(Clause::default()), 1 => some.prop_map(|value| serde_json::from_value(value).unwrap())]
}

/// Around the times that are asked about.
fn moment() -> impl Strategy<Value = Option<Timestamp>> {
    let some = select(TIMES).prop_map(|text| Some(text.parse::<Timestamp>().unwrap()));
    prop_oneof![8 => Just(None), 1 => some]
}

pub(crate) const TIMES: &[&str] =
    &["2026-01-05T08:00:00Z", "2026-01-05T12:00:00Z", "2026-01-06T16:59:59Z", "2026-01-07T09:00:00Z"];

pub(crate) fn binding() -> impl Strategy<Value = Binding> {
    let role = select(vec!["one", "two", "cluster-admin", "edit", "view", "namespace-admin", "org-read-only"]);
    (subjects(0), role, clusters(), scope(), moment(), when(), obligations()).prop_map(
        |(subjects, role, clusters, scope, valid_until, when, obligations)| {
            let (name, role) = (String::new(), role.into());
            Binding { name, subjects, role, clusters, scope, valid_from: None, valid_until, when, obligations }
        },
    )
}

fn denial() -> impl Strategy<Value = Denial> {
    let rules = prop::collection::vec(rule(), 1..3);
    let except = prop_oneof![2 => Just(Vec::new()), 1 => subjects(0)];
    (subjects(0), except, rules, clusters(), scope(), moment(), when()).prop_map(
        |(subjects, except, rules, clusters, scope, valid_from, when)| Denial {
            subjects,
            except,
            rules,
            clusters,
            scope,
            valid_from,
            when,
            ..Denial::default()
        },
    )
}

fn guardrails() -> impl Strategy<Value = Guardrails> {
    let opening = || select(vec![Opening::Closed, Opening::Admins, Opening::Roles]);
    let rail = (some(NAMESPACES, &[]), any::<bool>(), clusters(), subjects(0)).prop_map(
        |(namespaces, read, clusters, except)| {
            let access = if read { ProtectedAccess::Read } else { ProtectedAccess::None };
            ProtectedNamespaces { namespaces, access, clusters, except }
        },
    );
    let rails = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(rail, 1..3)];
    (rails, opening(), opening()).prop_map(|(protected_namespaces, escalate, token)| Guardrails {
        protected_namespaces,
        gates: Gates { escalate, token, ..Gates::default() },
    })
}

pub(crate) fn policy() -> impl Strategy<Value = PolicyDocument> {
    let project = || prop::option::of(select(vec!["p", "q"]).prop_map(str::to_owned));
    let namespaces = || prop::collection::btree_map(select(NAMESPACES).prop_map(str::to_owned), labels(0), 0..3);
    let clusters = [(labels(0), project(), namespaces()), (labels(0), project(), namespaces())].prop_map(|clusters| {
        let cluster = |(id, (labels, project, namespaces)): (&&str, _)| Cluster {
            id: id.parse().unwrap(),
            name: id.to_string(),
            labels,
            project,
            namespaces,
        };
        CLUSTERS.iter().zip(clusters).map(cluster).collect::<Vec<_>>()
    });
    let groups = [subjects(0), subjects(0)].prop_map(|[mut all, mut inner]| {
        // `all` may contain `inner`, and neither itself.
        all.retain(|member| *member != Subject::Group("all".parse().unwrap()));
        inner.retain(|member| !matches!(member, Subject::Group(name) if ["all", "inner"].contains(&name.as_str())));
        let group = |name: &str, members| Group { name: name.parse().unwrap(), members };
        vec![group("all", all), group("inner", inner)]
    });
    let rules = || prop::collection::vec(rule(), 0..4);
    let settings = (any::<bool>(), any::<bool>())
        .prop_map(|(view_secrets, view_exec)| ztka_authz::Settings { view_secrets, view_exec });
    let denials = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(denial(), 1..3)];
    let given = (prop::collection::vec(binding(), 0..6), denials, guardrails());
    (clusters, groups, rules(), rules(), any::<bool>(), given, settings).prop_map(
        |(clusters, groups, one, two, read_only, (mut bindings, mut denials, guardrails), settings)| {
            for (number, binding) in bindings.iter_mut().enumerate() {
                binding.name = format!("b{number}");
            }
            for (number, denial) in denials.iter_mut().enumerate() {
                denial.name = format!("d{number}");
            }
            let role = |name: &str, rules, read_only| Role { name: name.into(), rules, read_only };
            let roles = vec![role("one", one, false), role("two", two, read_only)];
            let projects = ["p", "q"].map(|name| Project { name: name.into() }).to_vec();
            PolicyDocument { clusters, projects, groups, roles, bindings, denials, guardrails, settings }
        },
    )
}

pub(crate) fn question() -> impl Strategy<Value = (&'static str, Target<'static>)> {
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
