//! Why not, as the user reads it: what is missing, and whom to ask.

use ztka_core::{ClusterId, Principal};

use crate::{
    AGENT_PREFIX, Action, Obligation, PolicySet, ProtectedAccess, Refused, Target,
    compile::{Bound, Within},
};

impl PolicySet {
    /// `reason` in the words that the user is to see.
    pub fn refusal(&self, reason: &Refused<'_>, who: &Principal, cluster: &ClusterId, action: &Action<'_>) -> String {
        let (user, ask) = (who.name(), format!("ask an administrator of organisation {}", self.org));
        let cluster_name = self.cluster(cluster).map_or(cluster.as_str(), |known| &known.name);
        match reason {
            Refused::NoCluster => format!("organisation {} has no cluster {cluster}", who.org()),
            Refused::AgentNamespace => format!(
                "namespace {} is the agent's and closed to every role; use direct access to the cluster to maintain the \
                 agent",
                self.closed
            ),
            Refused::AgentObjects => format!(
                "objects named {AGENT_PREFIX}… are made by the agent from policy; change roles and bindings there"
            ),
            Refused::AgentCollection => {
                let resource = match action.target {
                    Target::Resource { resource, .. } => resource,
                    Target::Path(_) => "they",
                };
                format!(
                    "{resource} are not deleted as a collection, as those named {AGENT_PREFIX}… are the agent's; delete \
                     them by name"
                )
            }
            Refused::Denial { name, reason: "" } => format!("denied to everybody it is about by {name:?}; {ask}"),
            Refused::Denial { name, reason } => format!("denied by {name:?}: {reason}"),
            Refused::Protected(access) => {
                let left = match access {
                    ProtectedAccess::Read => "only what is not confidential may be looked at there",
                    ProtectedAccess::None => "no role counts there",
                };
                match action.namespace() {
                    Some(namespace) => format!("namespace {namespace} is protected, {left}; {ask}"),
                    None => format!("some namespace is protected, {left}; name another namespace, or {ask}"),
                }
            }
            Refused::NoRole => format!("{user} has no role on cluster {cluster_name}; {ask}"),
            Refused::NotGiven => {
                let roles: Vec<_> = self.bound(who, cluster).map(|bound| bound.describe(self)).collect();
                match roles.as_slice() {
                    few if few.len() <= 3 => format!(
                        "no role of {user} on cluster {cluster_name} gives this (they are: {}); {ask}",
                        few.join(", ")
                    ),
                    many => {
                        format!(
                            "none of the {} roles of {user} on cluster {cluster_name} gives this; {ask}",
                            many.len()
                        )
                    }
                }
            }
            Refused::EverybodysSecrets => format!(
                "secrets of all namespaces, the agent's included, are for roles that allow everything; name a \
                 namespace, or {ask}"
            ),
            Refused::Gate(gate) => format!(
                "no role gives this while the gate {:?} is shut to it; an administrator opens it in the guardrails",
                gate.as_str()
            ),
            Refused::ReadOnly { binding } => {
                format!("binding {binding:?} gives a read-only role, which does not reach this; {ask}")
            }
            Refused::Unmet { binding, condition } => {
                format!("binding {binding:?} would give this, but {}", condition.describe())
            }
            Refused::Unsupported { binding, obligation } => {
                format!(
                    "binding {binding:?} would give this, but {}, which is not possible here",
                    obligation.describe()
                )
            }
        }
    }
}

impl Obligation {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Audit => "its audit event has to say more",
            Self::Record => "the session has to be recorded",
            Self::MaxDuration => "it has to end after some time",
            Self::StepUp => "you have to confirm it by a second factor",
            Self::NotUnderstood => "it asks for what this version does not understand",
        }
    }
}

impl Bound {
    pub(crate) fn describe(&self, policy: &PolicySet) -> String {
        let role: &str = &self.role.name;
        match &self.within {
            Within::Cluster => role.into(),
            Within::AllNamespaces => format!("{role} in all namespaces"),
            Within::Labelled(_) => format!("{role} in namespaces by label"),
            Within::Namespaces(namespaces) => {
                let mut names: Vec<_> = namespaces.iter().map(|name| policy.index.words.text(*name)).collect();
                names.sort_unstable();
                let more = names.len().saturating_sub(3);
                names.truncate(3);
                let names = names.join(", ");
                match more {
                    0 => format!("{role} in {names}"),
                    _ => format!("{role} in {names} and {more} more"),
                }
            }
        }
    }
}
