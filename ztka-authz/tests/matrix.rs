//! What the built-in roles allow, compared with the committed table `tests/matrix.txt`.
//!
//! `ZTKA_BLESS=1 cargo test -p ztka-authz --test matrix` writes the table anew, to be reviewed line by line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;

use std::fmt::Write as _;

use fixture::{allows, compiled, gives, target, user};
use serde_json::{Value, json};
use ztka_authz::{PolicySet, Settings, builtin_roles};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];

const NAMESPACED: &[&str] = &[
    "core/pods",
    "core/pods/log",
    "core/pods/status",
    "core/services",
    "core/endpoints",
    "core/configmaps",
    "core/secrets",
    "core/events",
    "core/serviceaccounts",
    "core/persistentvolumeclaims",
    "core/replicationcontrollers",
    "core/resourcequotas",
    "core/namespaces",
    "apps/deployments",
    "apps/deployments/scale",
    "apps/statefulsets",
    "apps/daemonsets",
    "apps/replicasets",
    "batch/jobs",
    "batch/cronjobs",
    "autoscaling/horizontalpodautoscalers",
    "policy/poddisruptionbudgets",
    "networking.k8s.io/ingresses",
    "networking.k8s.io/networkpolicies",
    "discovery.k8s.io/endpointslices",
    "coordination.k8s.io/leases",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/rolebindings",
    "example.com/widgets",
    "metrics.k8s.io/pods",
];

const STREAMS: &[&str] = &[
    "core/pods/exec",
    "core/pods/attach",
    "core/pods/portforward",
    "core/pods/proxy",
    "core/services/proxy",
    "core/pods/ephemeralcontainers",
    "core/pods/eviction",
    "core/serviceaccounts/token",
];

const CLUSTER: &[&str] = &[
    "core/nodes",
    "core/nodes/proxy",
    "core/nodes/log",
    "core/namespaces",
    "core/pods",
    "core/secrets",
    "core/persistentvolumes",
    "storage.k8s.io/storageclasses",
    "scheduling.k8s.io/priorityclasses",
    "core/persistentvolumes/status",
    "core/nodes/status",
    "rbac.authorization.k8s.io/clusterroles",
    "apiextensions.k8s.io/customresourcedefinitions",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "apiregistration.k8s.io/apiservices",
    "certificates.k8s.io/certificatesigningrequests",
    "certificates.k8s.io/certificatesigningrequests/approval",
];

const SPECIAL: &[(&str, &str)] = &[
    ("escalate", "rbac.authorization.k8s.io/clusterroles"),
    ("bind", "rbac.authorization.k8s.io/clusterroles"),
    ("approve", "certificates.k8s.io/signers"),
    ("sign", "certificates.k8s.io/signers"),
    ("impersonate", "core/users"),
    ("impersonate", "core/groups"),
    ("impersonate", "core/serviceaccounts"),
    ("proxy", "core/nodes"),
    ("get", "/api"),
    ("get", "/version"),
    ("get", "/metrics"),
    ("get", "/logs"),
    ("get", "/debug/pprof"),
    ("post", "/api"),
];

/// Each built-in role, and its letter in the table.
const ROLES: &[(char, &str)] = &[
    ('A', "cluster-admin"),
    ('E', "edit"),
    ('V', "view"),
    ('O', "org-admin"),
    ('o', "org-read-only"),
    ('P', "project-admin"),
    ('p', "project-read-only"),
    ('I', "infrastructure-admin"),
    ('i', "infrastructure-read-only"),
    ('N', "namespace-admin"),
    ('n', "namespace-read-only"),
];

#[test]
fn builtin_roles_allow_what_the_table_says() {
    let alice = user("alice", &[]);
    let mut builtin = builtin_roles(&Settings::default());
    // In clusters it gives nothing.
    let viewers: Vec<_> = builtin.extract_if(.., |role| role.name == "recording-viewer").collect();
    assert!(viewers.len() == 1 && viewers.iter().all(|role| role.rules.is_empty()));
    let named: Vec<_> = builtin.into_iter().map(|role| role.name).collect();
    assert_eq!(named.len(), ROLES.len() + 1, "basic-user, which goes with every binding, is the one without a column");
    assert!(ROLES.iter().all(|(_, name)| named.iter().any(|role| role == name)));
    let given = |scope: Value| ROLES.iter().map(|(_, role)| compiled(&gives(role, scope.clone()))).collect::<Vec<_>>();
    let (everywhere, in_dev) = (given(json!("cluster")), given(json!({"namespaces": ["dev"]})));
    let mut table = String::from("# Bound cluster-wide, then bound in namespace dev only; - is denied.\n");
    for (letter, role) in ROLES {
        writeln!(table, "# {letter} {role}").unwrap();
    }
    let mut line = |verb: &str, what: &str, namespace: Option<&str>| {
        let name = match verb {
            "list" | "watch" | "create" | "deletecollection" if !what.contains("pods/") => None,
            _ => Some(namespace.filter(|_| what == "core/namespaces").unwrap_or("web")),
        };
        let cells = |policies: &[PolicySet]| {
            let cell = |(policy, (letter, _)): (_, &(char, &str))| match allows(
                policy,
                &alice,
                verb,
                target(what, namespace, name),
            ) {
                true => *letter,
                false => '-',
            };
            policies.iter().zip(ROLES).map(cell).collect::<String>()
        };
        let place = namespace.unwrap_or("");
        writeln!(table, "{} {} {place:4} {verb:16} {what}", cells(&everywhere), cells(&in_dev)).unwrap();
    };
    for what in NAMESPACED.iter().chain(STREAMS) {
        for verb in READ.iter().chain(WRITE) {
            line(verb, what, Some("dev"));
        }
    }
    for what in CLUSTER {
        for verb in READ.iter().chain(WRITE) {
            line(verb, what, None);
        }
    }
    for (verb, what) in SPECIAL {
        line(verb, what, None);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/matrix.txt");
    if std::env::var_os("ZTKA_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    for (number, (now, then)) in table.lines().zip(committed.lines()).enumerate() {
        assert_eq!(now, then, "line {} of tests/matrix.txt", number + 1);
    }
    assert_eq!(table.lines().count(), committed.lines().count());
}
