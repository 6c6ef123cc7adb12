//! Roles of those who administrate: an organisation, a project, the machines underneath, a namespace.
//!
//! How far one goes is said by its binding: all clusters, those of a project, a namespace.

use super::{READ, Role, Rule, Settings, WRITE, edit_rules, everything, looking, role, rule, view_rules};

pub(super) fn roles(settings: &Settings) -> Vec<Role> {
    let infrastructure = |verbs: &[&str]| [view_rules(), machines(verbs)].concat();
    vec![
        role("org-admin", everything()),
        looking("org-read-only", [infrastructure(READ), rbac(READ)].concat(), settings),
        role("project-admin", everything()),
        looking("project-read-only", [infrastructure(READ), rbac(READ)].concat(), settings),
        role("infrastructure-admin", infrastructure(&[READ, WRITE].concat())),
        looking("infrastructure-read-only", infrastructure(READ), settings),
        role("namespace-admin", [view_rules(), edit_rules(), namespaced_rbac()].concat()),
        looking("namespace-read-only", view_rules(), settings),
        // In clusters it gives nothing: what it is for is the controller's.
        role("recording-viewer", Vec::new()),
    ]
}

/// What is in no namespace and no matter of permissions: nodes, storage, kinds of resources.
fn machines(verbs: &[&str]) -> Vec<Rule> {
    let storage = ["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"];
    vec![
        rule(verbs, &[""], &["namespaces", "nodes", "nodes/status", "persistentvolumes", "persistentvolumes/status"]),
        rule(verbs, &["storage.k8s.io"], &[&storage[..], &["csistoragecapacities"]].concat()),
        rule(verbs, &["scheduling.k8s.io"], &["priorityclasses"]),
        rule(verbs, &["node.k8s.io"], &["runtimeclasses"]),
        rule(verbs, &["networking.k8s.io"], &["ingressclasses"]),
        rule(verbs, &["apiextensions.k8s.io"], &["customresourcedefinitions", "customresourcedefinitions/status"]),
        rule(verbs, &["flowcontrol.apiserver.k8s.io"], &["flowschemas", "prioritylevelconfigurations"]),
        rule(READ, &["metrics.k8s.io"], &["nodes", "pods"]),
    ]
}

fn rbac(verbs: &[&str]) -> Vec<Rule> {
    let kinds = ["clusterrolebindings", "clusterroles", "rolebindings", "roles"];
    vec![rule(verbs, &["rbac.authorization.k8s.io"], &kinds)]
}

/// `system:aggregate-to-admin`; the gates `escalate` and `bind` keep it to what one has.
fn namespaced_rbac() -> Vec<Rule> {
    let verbs = [READ, WRITE].concat();
    vec![
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
        rule(&verbs, &["rbac.authorization.k8s.io"], &["rolebindings", "roles"]),
    ]
}
