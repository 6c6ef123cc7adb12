//! Which audit policy counts for which organisation and cluster, and what is kept out of every record.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use ztka_core::{ClusterId, OrgId, Principal, RequestAttributes};

use crate::{
    Level, Policy,
    body::fields::{FieldRule, InvalidField},
    policy::Said,
};

/// Most bytes of a body that may be recorded.
const MAX_BODY: usize = 96 * 1024;

/// How much of each request a proxy records.
///
/// The policy of the cluster counts, else that of the organisation, else the one for all; without any everything is
/// recorded at `Metadata`. A binding of the access policy may ask for more, never for less ([`Grant::audit`]).
///
/// **What no policy leaves out.** Every request that goes on has its record, or a cluster could not be compared with the log:
/// at level `None` an event still says who made a request to which cluster, its digest, and how it ended, and leaves out path,
/// object, client and addresses. What changes something, streams, reads secrets, asks to act as somebody else, is malformed
/// or is refused is recorded at `Metadata` at least.
///
/// [`Grant::audit`]: ztka_core::Grant::audit
#[derive(Clone, Debug)]
pub struct Levels {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    all: Option<Policy>,
    orgs: HashMap<OrgId, Policy>,
    clusters: HashMap<(OrgId, ClusterId), Policy>,
    body: usize,
    fields: Vec<FieldRule>,
}

/// For whom a policy counts.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
pub enum Scope {
    /// Whoever has none of their own.
    All,
    /// An organisation.
    Org(OrgId),
    /// One cluster of an organisation.
    Cluster(OrgId, ClusterId),
}

impl Default for Levels {
    fn default() -> Self {
        let (orgs, clusters) = (HashMap::new(), HashMap::new());
        Self { inner: Arc::new(Inner { all: None, orgs, clusters, body: 32 * 1024, fields: Vec::new() }) }
    }
}

impl Levels {
    /// Everything at `Metadata`; bodies, where a binding asks for them, of at most 32 KiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// For `scope`, this policy.
    #[must_use]
    pub fn policy(mut self, scope: Scope, policy: Policy) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        match scope {
            Scope::All => inner.all = Some(policy),
            Scope::Org(org) => drop(inner.orgs.insert(org, policy)),
            Scope::Cluster(org, cluster) => drop(inner.clusters.insert((org, cluster), policy)),
        }
        self
    }

    /// At most so many bytes of each body, and never more than 96 KiB.
    #[must_use]
    pub fn body_bytes(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.inner).body = bytes.min(MAX_BODY);
        self
    }

    /// Takes the fields at `paths` out of recorded bodies, under the name `name`; of `resources` alone unless there are none.
    ///
    /// A path is `spec.containers[*].env[*].value`: names of members, with dots between them; `[*]` stands for every element of a
    /// list, `*` for every member, and `['a.b']` for a member whose name has a dot. A resource is `pods` or `deployments.apps`.
    ///
    /// # Errors
    /// A path that cannot be read.
    pub fn without_fields(mut self, name: &str, resources: &[String], paths: &[String]) -> Result<Self, InvalidField> {
        let rule = FieldRule::new(name, resources, paths)?;
        Arc::make_mut(&mut self.inner).fields.push(rule);
        Ok(self)
    }

    pub(crate) fn say(&self, who: &Principal, cluster: &ClusterId, asked: &RequestAttributes) -> Said {
        let Inner { all, orgs, clusters, .. } = &*self.inner;
        // Without a policy of their own nothing is looked up.
        let of_cluster = || clusters.get(&(who.org().clone(), cluster.clone()));
        let own = if clusters.is_empty() { None } else { of_cluster() };
        let Some(policy) = own.or_else(|| orgs.get(who.org())).or(all.as_ref()) else { return Said::METADATA };
        let said = policy.say(who, asked);
        let floor =
            asked.is_mutating() || asked.is_stream() || asked.reads_secrets() || asked.impersonation().is_some();
        Said { level: if floor { said.level.max(Level::Metadata) } else { said.level }, ..said }
    }

    pub(crate) fn body_limit(&self) -> usize {
        self.inner.body
    }

    pub(crate) fn fields(&self) -> &[FieldRule] {
        &self.inner.fields
    }
}
