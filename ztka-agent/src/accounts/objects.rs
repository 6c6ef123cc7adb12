//! The objects of one account, as server-side apply takes them.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ztka_authz::{AGENT_PREFIX, Rule};
use ztka_core::{CredentialId, Principal, UserId};

use super::wanted::{BASIC, Held, Mode};

/// Marks what the agent has made.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub(crate) const AGENT: &str = "ztka-agent";
/// Label that carries the user's id.
pub(crate) const USER: &str = "ztka.dev/user";
/// Annotation that carries the user's name, for people who look into the cluster.
const USER_NAME: &str = "ztka.dev/user-name";
/// Annotation with the time when the account was last known to be in use: its lease, which whoever uses it renews.
pub(crate) const USED_AT: &str = "ztka.dev/used-at";
/// Annotation with the credentials by which it was used, newest last.
pub(crate) const CREDENTIALS: &str = "ztka.dev/credential";
/// Between them; no id has one.
pub(crate) const COMMA: char = ',';
/// Before the names of the ClusterRoles that the cluster's owner has made for roles of policy.
const CEILING: &str = "ztka:ceiling";

/// Kinds of a user's objects in namespaces, and at the cluster scope; what gives power is removed first.
const NAMESPACE_KINDS: [&str; 2] = ["rolebindings", "roles"];
const CLUSTER_KINDS: [&str; 2] = ["clusterrolebindings", "clusterroles"];

/// Kinds of objects that accounts have in namespaces, or else at the cluster scope; with bindings alone under a ceiling.
pub(crate) fn kinds(in_namespaces: bool, mode: &Mode) -> &'static [&'static str] {
    let kinds = if in_namespaces { &NAMESPACE_KINDS } else { &CLUSTER_KINDS };
    match mode {
        Mode::Ceiling(_) => kinds.get(..1).unwrap_or_default(),
        Mode::ServiceAccount | Mode::Impersonate => kinds,
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Tells one list of rules from another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Digest(String);

/// Rules as they are written into a role: followed by one that names the list, which a self-review can ask for to see
/// whether the authorizer has come to know this very list.
#[derive(Clone, Debug)]
pub(crate) struct Marked {
    rules: Vec<Rule>,
    pub(crate) digest: Digest,
}

impl Marked {
    pub(crate) fn new(mut rules: Vec<Rule>) -> Self {
        // Rules always serialise.
        let bytes = serde_json::to_vec(&rules).unwrap_or_default();
        let digest: String = Sha256::digest(&bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        rules.push(Rule {
            verbs: vec!["get".into()],
            api_groups: vec!["ztka.dev".into()],
            resources: vec!["accounts".into()],
            resource_names: vec![digest.clone()],
            ..Rule::default()
        });
        Self { rules, digest: Digest(digest) }
    }

    #[cfg(test)]
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Whether the authorizer knows what is held in a place: each of these is asked under the account's own token, for the rule
/// that [`Marked::new`] added, or that stands in a ClusterRole of the ceiling.
pub(crate) fn questions(held: &Held, namespace: Option<&str>) -> Vec<Value> {
    match held {
        Held::Rules(Digest(name)) => vec![question(name, namespace)],
        Held::Roles(roles) => roles.iter().map(|role| question(&ceiling(role), namespace)).collect(),
    }
}

/// The ClusterRole that says how far a role of policy reaches.
fn ceiling(role: &str) -> String {
    match role {
        BASIC => CEILING.into(),
        role => format!("{CEILING}:{role}"),
    }
}

fn question(name: &str, namespace: Option<&str>) -> Value {
    let attributes = json!({
        "verb": "get", "group": "ztka.dev", "version": "v1", "resource": "accounts", "name": name,
        "namespace": namespace.unwrap_or_default(),
    });
    json!({
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": attributes},
    })
}

/// Path of an object of RBAC; `kind` is the plural.
pub(crate) fn rbac(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("/apis/{RBAC}/v1/namespaces/{namespace}/{kind}/{name}"),
        None => format!("/apis/{RBAC}/v1/{kind}/{name}"),
    }
}

/// All that the agent has made of a kind of RBAC; `kind` is the plural.
pub(crate) fn all_made(kind: &str) -> String {
    format!("/apis/{RBAC}/v1/{kind}?labelSelector={MANAGED_BY}%3D{AGENT}")
}

/// Names and paths of one user's objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) user: &'a UserId,
    /// The agent's namespace.
    pub(crate) home: &'a str,
}

impl Names<'_> {
    pub(crate) fn service_account(&self) -> String {
        format!("/api/v1/namespaces/{}/serviceaccounts/{}", self.home, self.user)
    }

    pub(crate) fn secret(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{}", self.home, self.user)
    }

    pub(crate) fn token(&self) -> String {
        format!("{}/token", self.service_account())
    }

    /// Of a role or a binding; `kind` is the plural.
    pub(crate) fn rbac(&self, kind: &str, namespace: Option<&str>) -> String {
        rbac(kind, namespace, &self.role())
    }

    /// Of the binding to a ClusterRole of the ceiling.
    pub(crate) fn bound(&self, role: &str, namespace: Option<&str>) -> String {
        let kind = if namespace.is_some() { "rolebindings" } else { "clusterrolebindings" };
        rbac(kind, namespace, &self.bound_name(role))
    }

    /// Its name. Ids have no colon, so that it is no other account's.
    pub(crate) fn bound_name(&self, role: &str) -> String {
        format!("{AGENT_PREFIX}{}:{role}", self.user)
    }

    /// All of the user's objects of a kind in every namespace.
    pub(crate) fn everywhere(&self, kind: &str) -> String {
        format!("/apis/{RBAC}/v1/{kind}?labelSelector={USER}%3D{}", self.user)
    }

    /// All of the user's objects of a kind in one place.
    pub(crate) fn all_in(&self, kind: &str, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => {
                format!("/apis/{RBAC}/v1/namespaces/{namespace}/{kind}?labelSelector={USER}%3D{}", self.user)
            }
            None => self.everywhere(kind),
        }
    }

    pub(crate) fn role(&self) -> String {
        format!("{AGENT_PREFIX}{}", self.user)
    }

    fn metadata(&self, name: &str, namespace: Option<&str>, who: &Principal) -> Value {
        let mut metadata = json!({
            "name": name,
            "labels": {MANAGED_BY: AGENT, USER: self.user},
            "annotations": {USER_NAME: who.name()},
        });
        if let (Some(namespace), Some(metadata)) = (namespace, metadata.as_object_mut()) {
            metadata.insert("namespace".into(), namespace.into());
        }
        metadata
    }

    pub(crate) fn service_account_object(
        &self,
        who: &Principal,
        credentials: &[CredentialId],
        now: Timestamp,
    ) -> Value {
        let mut metadata = self.metadata(self.user.as_str(), Some(self.home), who);
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.insert(USED_AT.into(), now.to_string().into());
            let credentials: Vec<_> = credentials.iter().map(CredentialId::as_str).collect();
            annotations.insert(CREDENTIALS.into(), credentials.join(&COMMA.to_string()).into());
        }
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata,
            "automountServiceAccountToken": false,
        })
    }

    /// Holds nothing: tokens are bound to it and end with it.
    pub(crate) fn secret_object(&self, who: &Principal) -> Value {
        let metadata = self.metadata(self.user.as_str(), Some(self.home), who);
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "ztka.dev/token-anchor"})
    }

    pub(crate) fn role_object(&self, who: &Principal, namespace: Option<&str>, marked: &Marked) -> Value {
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        let metadata = self.metadata(&self.role(), namespace, who);
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": marked.rules})
    }

    pub(crate) fn binding_object(&self, who: &Principal, namespace: Option<&str>) -> Value {
        let role = if namespace.is_some() { "Role" } else { "ClusterRole" };
        self.binding(who, namespace, &self.role(), (role, &self.role()))
    }

    pub(crate) fn bound_object(&self, who: &Principal, namespace: Option<&str>, role: &str) -> Value {
        self.binding(who, namespace, &self.bound_name(role), ("ClusterRole", &ceiling(role)))
    }

    fn binding(&self, who: &Principal, namespace: Option<&str>, name: &str, role: (&str, &str)) -> Value {
        let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": self.metadata(name, namespace, who),
            "roleRef": {"apiGroup": RBAC, "kind": role.0, "name": role.1},
            "subjects": [{"kind": "ServiceAccount", "name": self.user, "namespace": self.home}],
        })
    }

    /// Audience left to the apiserver, which is its own; bound to the Secret named.
    pub(crate) fn token_object(&self, secret_uid: &str, seconds: u64) -> Value {
        let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": self.user, "uid": secret_uid});
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": bound},
        })
    }
}
