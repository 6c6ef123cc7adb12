//! Compiled policy of one organisation, and the pure evaluation of one question.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use ztka_core::{
    ClusterId, Decision, DocumentKind, Grant, GroupName, OrgId, Principal, Reason, Revision, SignedDocument, UserName,
    Verified,
};

use crate::{
    Action, Cluster, InvalidPolicy, PolicyDocument, Role, Target,
    compile::{Index, index},
};

/// Namespace of the agent and of the accounts it makes.
pub const AGENT_NAMESPACE: &str = "ztka-system";

/// Names of the RBAC objects that the agent makes begin with this.
pub const AGENT_PREFIX: &str = "ztka:";

const RBAC: &str = "rbac.authorization.k8s.io";

/// Kinds among whose objects are some that the agent makes.
const RBAC_KINDS: [&str; 4] = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"];

/// Why a document did not become the policy in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is of another kind, or of no organisation.
    #[error("not the policy of an organisation")]
    Kind,
    /// It says something that this version does not understand.
    #[error("the policy cannot be read; if the controller is newer, update this component")]
    Unreadable(#[source] ztka_core::Rejected),
    /// It contradicts itself.
    #[error("the policy is not valid")]
    Invalid(#[from] InvalidPolicy),
}

/// A role given to somebody somewhere.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) role: Arc<Role>,
    pub(crate) reach: Reach,
    pub(crate) within: Within,
}

/// On which clusters a binding counts.
#[derive(Debug)]
pub(crate) enum Reach {
    All,
    Labelled(HashSet<ClusterId>),
    Listed(HashSet<ClusterId>),
}

/// In which part of a cluster a binding counts.
#[derive(Debug)]
pub(crate) enum Within {
    Cluster,
    Namespaces(HashSet<String>),
}

/// The bindings that name one subject.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    listed: HashMap<ClusterId, Vec<usize>>,
    wide: Vec<usize>,
}

impl Candidates {
    pub(crate) fn add(&mut self, binding: usize, reach: &Reach) {
        match reach {
            Reach::All | Reach::Labelled(_) => self.wide.push(binding),
            Reach::Listed(clusters) => {
                for cluster in clusters {
                    self.listed.entry(cluster.clone()).or_default().push(binding);
                }
            }
        }
    }
}

impl Bound {
    fn reaches(&self, cluster: &ClusterId) -> bool {
        match &self.reach {
            Reach::All => true,
            Reach::Labelled(clusters) | Reach::Listed(clusters) => clusters.contains(cluster),
        }
    }

    fn covers(&self, action: &Action<'_>) -> bool {
        let within = match &self.within {
            Within::Cluster => true,
            Within::Namespaces(namespaces) => action.namespace().is_some_and(|asked| namespaces.contains(asked)),
        };
        within && self.role.covers(action)
    }
}

/// The policy of one organisation, ready to be asked.
#[derive(Debug)]
pub struct PolicySet {
    org: OrgId,
    revision: Revision,
    expires: Timestamp,
    clusters: HashMap<ClusterId, Cluster>,
    users: HashMap<UserName, Candidates>,
    groups: HashMap<GroupName, Candidates>,
    bindings: Vec<Bound>,
    pub(crate) basic: Arc<Role>,
    pub(crate) closed: String,
}

impl PolicySet {
    /// Compiles a document that somebody has verified.
    ///
    /// # Errors
    /// [`PolicyError`] if the document is none, or means nothing definite.
    pub fn compile(document: &Verified<SignedDocument>) -> Result<Self, PolicyError> {
        let header = document.header();
        let (DocumentKind::Policy, Some(org)) = (header.series.kind, header.series.org.clone()) else {
            return Err(PolicyError::Kind);
        };
        let body: PolicyDocument = document.body().map_err(PolicyError::Unreadable)?;
        let Index { users, groups, bindings, basic } = index(&body)?;
        let clusters = body.clusters.into_iter().map(|cluster| (cluster.id.clone(), cluster)).collect();
        let (revision, expires) = (header.revision, header.expires);
        let closed = AGENT_NAMESPACE.into();
        Ok(Self { org, revision, expires, clusters, users, groups, bindings, basic, closed })
    }

    /// Closes this namespace to every role, in place of [`AGENT_NAMESPACE`].
    #[must_use]
    pub fn closing(mut self, namespace: impl Into<String>) -> Self {
        self.closed = namespace.into();
        self
    }

    /// The organisation whose policy it is.
    pub fn org(&self) -> &OrgId {
        &self.org
    }

    /// The document's place in its series.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// From when on the policy is no longer believed.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The cluster with this id, if it is the organisation's.
    pub fn cluster(&self, id: &ClusterId) -> Option<&Cluster> {
        self.clusters.get(id)
    }

    /// The clusters on which `who` is bound, by name.
    pub fn clusters_of(&self, who: &Principal) -> Vec<&Cluster> {
        let bound = |cluster: &&Cluster| self.bound(who, &cluster.id).next().is_some();
        let mut clusters: Vec<_> = self.clusters.values().filter(bound).collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters
    }

    /// Bindings that name `who` on `cluster`: the user's own first, then those of groups.
    pub(crate) fn bound<'a>(&'a self, who: &'a Principal, cluster: &'a ClusterId) -> impl Iterator<Item = &'a Bound> {
        let known = self.org == *who.org() && self.clusters.contains_key(cluster);
        let user = self.users.get(who.name());
        let groups = who.groups().iter().filter_map(|group| self.groups.get(group));
        let candidates = user.into_iter().chain(groups).filter(move |_| known);
        candidates
            .flat_map(move |those| those.listed.get(cluster).into_iter().flatten().chain(&those.wide))
            .filter_map(|number| self.bindings.get(*number))
            .filter(move |bound| bound.reaches(cluster))
    }

    /// Decides one question. Pure: no clock, no I/O, no state.
    pub fn decide(&self, who: &Principal, cluster: &ClusterId, action: &Action<'_>) -> Decision {
        if let Some(closed) = self.is_closed(action) {
            return Decision::Deny(Reason::Denied(closed));
        }
        let grant = |bound: &Bound, role: &Role| {
            let (binding, role) = (bound.name.clone(), role.name.clone());
            Decision::Allow(Grant { binding, role, policy: self.revision })
        };
        let everybodys_secrets = reads_all_secrets(action);
        let mut any = None;
        for bound in self.bound(who, cluster) {
            if bound.covers(action) && (!everybodys_secrets || bound.role.is_unlimited()) {
                return grant(bound, &bound.role);
            }
            any.get_or_insert(bound);
        }
        match any {
            Some(bound) if self.basic.covers(action) => grant(bound, &self.basic),
            _ => Decision::Deny(Reason::Denied(self.refusal(who, cluster, everybodys_secrets))),
        }
    }

    /// What stays shut whatever a role says: the agent's namespace, and the RBAC that carries out policy.
    fn is_closed(&self, action: &Action<'_>) -> Option<String> {
        let Target::Resource { group, resource, namespace, name, .. } = action.target else {
            return None;
        };
        let closed = &self.closed;
        if namespace == Some(closed) {
            return Some(format!(
                "namespace {closed} is the agent's and closed to every role; use direct access to the cluster to \
                 maintain the agent"
            ));
        }
        // The agent's objects would go with the others, whatever the selector. (`create` has its name in the body,
        // which nobody reads here; the agent puts its own content over whatever it finds under its names.)
        if action.verb == "deletecollection" && group == RBAC && RBAC_KINDS.contains(&resource) {
            return Some(format!(
                "{resource} are not deleted as a collection, as those named {AGENT_PREFIX}… are the agent's; delete them \
                 by name"
            ));
        }
        let writes = !["get", "list", "watch"].contains(&action.verb);
        let ours = group == RBAC && name.is_some_and(|name| name.starts_with(AGENT_PREFIX));
        (writes && ours).then(|| {
            format!("objects named {AGENT_PREFIX}… are made by the agent from policy; change roles and bindings there")
        })
    }

    fn refusal(&self, who: &Principal, cluster: &ClusterId, everybodys_secrets: bool) -> String {
        let (user, org) = (who.name(), &self.org);
        let Some(known) = self.clusters.get(cluster).filter(|_| self.org == *who.org()) else {
            return format!("organisation {} has no cluster {cluster}", who.org());
        };
        let ask = format!("ask an administrator of organisation {org}");
        let roles: Vec<_> = self.bound(who, cluster).map(Bound::describe).collect();
        let name = &known.name;
        match roles.as_slice() {
            [] => format!("{user} has no role on cluster {name}; {ask}"),
            _ if everybodys_secrets => format!(
                "secrets of all namespaces, the agent's included, are for roles that allow everything; name a \
                 namespace, or {ask}"
            ),
            few if few.len() <= 3 => {
                format!("no role of {user} on cluster {name} gives this (they are: {}); {ask}", few.join(", "))
            }
            many => format!("none of the {} roles of {user} on cluster {name} gives this; {ask}", many.len()),
        }
    }
}

impl Bound {
    fn describe(&self) -> String {
        match &self.within {
            Within::Cluster => self.role.name.clone(),
            Within::Namespaces(namespaces) => {
                let mut names: Vec<_> = namespaces.iter().map(String::as_str).collect();
                names.sort_unstable();
                let more = names.len().saturating_sub(3);
                names.truncate(3);
                let names = names.join(", ");
                match more {
                    0 => format!("{} in {names}", self.role.name),
                    _ => format!("{} in {names} and {more} more", self.role.name),
                }
            }
        }
    }
}

/// A list across all namespaces would hand out the agent's own keys.
fn reads_all_secrets(action: &Action<'_>) -> bool {
    matches!(action.target, Target::Resource { group: "", resource: "secrets", namespace: None, .. })
}
