//! Roles that every organisation has, after Kubernetes 1.35 (`bootstrappolicy/policy.go`).

mod administration;

use crate::{Role, Rule, Settings};

/// What everybody may do who is bound on a cluster at all: discovery, and questions about themselves.
pub(crate) const BASIC: &str = "basic-user";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
const ALL: &[&str] = &["*"];

/// All built-in roles of an organisation with these `settings`.
pub fn builtin_roles(settings: &Settings) -> Vec<Role> {
    let edit = role("edit", [view_rules(), edit_rules()].concat());
    let mut roles =
        vec![role("cluster-admin", everything()), edit, looking("view", view_rules(), settings), basic_user()];
    roles.extend(administration::roles(settings));
    roles
}

fn role(name: &str, rules: Vec<Rule>) -> Role {
    Role { name: name.into(), rules, ..Role::default() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
    Rule { verbs: words(verbs), api_groups: words(groups), resources: words(resources), ..Rule::default() }
}

fn paths(verbs: &[&str], paths: &[&str]) -> Rule {
    Rule { verbs: words(verbs), non_resource_urls: words(paths), ..Rule::default() }
}

fn everything() -> Vec<Rule> {
    vec![rule(ALL, ALL, ALL), paths(ALL, ALL)]
}

/// `system:discovery`, `system:public-info-viewer` and `system:basic-user`.
fn basic_user() -> Role {
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    role(
        BASIC,
        vec![
            paths(&["get"], &discovery),
            rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
        ],
    )
}

/// A read-only role, with what the organisation gives back to those.
fn looking(name: &str, mut rules: Vec<Rule>, settings: &Settings) -> Role {
    if settings.view_secrets {
        rules.push(rule(READ, &[""], &["secrets"]));
    }
    if settings.view_exec {
        rules.push(rule(&["create"], &[""], &["pods/exec"]));
    }
    Role { name: name.into(), rules, read_only: true }
}

/// `system:aggregate-to-view`.
fn view_rules() -> Vec<Rule> {
    let core = [
        "bindings",
        "configmaps",
        "endpoints",
        "limitranges",
        "namespaces",
        "namespaces/status",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "pods/log",
        "pods/status",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "replicationcontrollers/status",
        "resourcequotas",
        "resourcequotas/status",
        "serviceaccounts",
        "services",
        "services/status",
    ];
    let apps = [
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    let extensions = [
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "ingresses",
        "ingresses/status",
        "networkpolicies",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "replicationcontrollers/scale",
    ];
    vec![
        rule(READ, &[""], &core),
        rule(READ, &["", "events.k8s.io"], &["events"]),
        rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
        rule(READ, &["apps"], &apps),
        rule(READ, &["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
        rule(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
        rule(READ, &["extensions"], &extensions),
        rule(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
        rule(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
        rule(READ, &["resource.k8s.io"], &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"]),
    ]
}

/// `system:aggregate-to-edit` but for impersonation of service accounts, which is a matter of its own.
fn edit_rules() -> Vec<Rule> {
    let escalating = ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"];
    let core = [
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
    ];
    let apps = [
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    let extensions = [
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "ingresses",
        "networkpolicies",
        "replicasets",
        "replicasets/scale",
        "replicationcontrollers/scale",
    ];
    vec![
        rule(READ, &[""], &escalating),
        rule(WRITE, &[""], &core),
        rule(&["create"], &[""], &["pods/eviction", "serviceaccounts/token"]),
        rule(WRITE, &["", "events.k8s.io"], &["events"]),
        rule(WRITE, &["apps"], &apps),
        rule(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
        rule(WRITE, &["batch"], &["cronjobs", "jobs"]),
        rule(WRITE, &["extensions"], &extensions),
        rule(WRITE, &["policy"], &["poddisruptionbudgets"]),
        rule(WRITE, &["networking.k8s.io"], &["ingresses", "networkpolicies"]),
        rule(&[READ, WRITE].concat(), &["coordination.k8s.io"], &["leases"]),
        rule(WRITE, &["resource.k8s.io"], &["resourceclaims", "resourceclaimtemplates"]),
    ]
}
