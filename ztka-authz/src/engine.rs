//! The policies in force, of every organisation, and how to wait for a newer one.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use ztka_core::{
    Clock, ClusterId, Decision, Grant, OrgId, Principal, Reason, RequestAttributes, Revision, SignedDocument, Verified,
};

use crate::{
    AGENT_NAMESPACE, Action, Cluster, Facts, Limits, Obligations, PolicyError, PolicySet, Port, Rendered, Supported,
    compile::Table, freshness::View, lateness::Lateness,
};

/// Answers every question from the newest policy that it was given. Clones share it.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    orgs: ArcSwap<Table<OrgId, InForce>>,
    changes: watch::Sender<u64>,
    writing: Mutex<()>,
    /// How old what is known of each organisation is.
    views: Mutex<HashMap<OrgId, Arc<View>>>,
    /// Which projections are older than their policies.
    lateness: Lateness,
    /// Microseconds that it may be old.
    max_staleness: AtomicI64,
    clock: Arc<dyn Clock>,
    closed: String,
    /// Of the cluster's owner; none on a proxy.
    limits: ArcSwap<Vec<Limits>>,
    limited: watch::Sender<()>,
}

#[derive(Clone, Debug)]
enum InForce {
    Policy(Arc<PolicySet>, Arc<View>),
    /// The newest document means nothing to us, so nobody knows what it would forbid.
    Unusable(Revision),
}

impl InForce {
    fn revision(&self) -> Revision {
        match self {
            Self::Policy(policy, _) => policy.revision(),
            Self::Unusable(revision) => *revision,
        }
    }
}

impl Engine {
    /// An engine without any policy: it denies everything.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::closing(clock, AGENT_NAMESPACE)
    }

    /// The same for agents that live in another namespace than [`AGENT_NAMESPACE`].
    pub fn closing(clock: Arc<dyn Clock>, namespace: impl Into<String>) -> Self {
        let (orgs, changes) = (ArcSwap::default(), watch::Sender::new(0));
        let (closed, limits, limited) = (namespace.into(), ArcSwap::default(), watch::Sender::default());
        let (writing, views, max_staleness) = (Mutex::default(), Mutex::default(), AtomicI64::new(i64::MAX));
        let lateness = Lateness::default();
        Self(Arc::new(Shared {
            orgs,
            changes,
            writing,
            views,
            lateness,
            max_staleness,
            clock,
            closed,
            limits,
            limited,
        }))
    }

    /// Puts these limits of the cluster's owner in force, in place of those before: whatever policy gives, it is narrowed by
    /// each of them. What is open is decided on again.
    pub fn limit(&self, limits: Vec<Limits>) {
        self.0.limits.store(Arc::new(limits));
        self.0.limited.send_replace(());
    }

    /// Wakes when other limits come into force.
    pub(crate) fn limited_anew(&self) -> watch::Receiver<()> {
        self.0.limited.subscribe()
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Vec<Limits>> {
        self.0.limits.load_full()
    }

    /// The namespace that is closed to every role.
    pub fn closed(&self) -> &str {
        &self.0.closed
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Puts a policy in force. `Ok(false)` if a newer one of its organisation is in force already.
    ///
    /// # Errors
    /// A document that cannot be used is an error *and* is in force: everything is denied in its organisation until a
    /// usable one comes, since the one before may allow what this one takes away. Documents of another kind change
    /// nothing.
    pub fn apply(&self, document: &Verified<SignedDocument>) -> Result<bool, PolicyError> {
        let Some(org) = document.header().series.org.clone() else {
            return Err(PolicyError::Kind);
        };
        let compiled = PolicySet::compile(document).map(|policy| policy.closing(self.0.closed.clone()));
        let (entry, error) = match compiled {
            Ok(policy) => (InForce::Policy(Arc::new(policy), self.view(&org)), None),
            Err(kind @ PolicyError::Kind) => return Err(kind),
            Err(error) => (InForce::Unusable(document.header().revision), Some(error)),
        };
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orgs = Table::clone(&self.0.orgs.load());
        if orgs.get(&org).is_some_and(|held| entry.revision() < held.revision()) {
            return Ok(false);
        }
        // Before anybody decides by it.
        self.0.lateness.policy(&org, entry.revision());
        orgs.insert(org, entry);
        self.0.orgs.store(Arc::new(orgs));
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
        error.map_or(Ok(true), Err)
    }

    /// The newest projection of the policy of `org` to `cluster` that can be handed on to its agents is of this revision; none:
    /// there is none any more. It is not what is decided by here.
    pub fn hands_on(&self, org: &OrgId, cluster: &ClusterId, revision: Option<Revision>) {
        self.0.lateness.projection(org, cluster, revision);
    }

    /// The revision of that projection if it is older than the policy in force: agents of the cluster cannot have a newer one
    /// from here, and are to decide by it rather than wait. None if it is not older, or none is known of.
    pub fn late(&self, org: &OrgId, cluster: &ClusterId) -> Option<Revision> {
        self.0.lateness.of(org, cluster)
    }

    /// Lets nobody in by what is older than `limit`. Without it, and in organisations of which [`Self::known_as_of`] was never
    /// said, it counts alone until when a policy itself is to be believed.
    pub fn set_max_staleness(&self, limit: SignedDuration) {
        self.0.max_staleness.store(i64::try_from(limit.as_micros()).unwrap_or(i64::MAX), Relaxed);
    }

    /// What is in force in `org`, and revoked there, is the newest that there was at `as_of`; `behind` if something newer is
    /// known to be signed. Said again and again as time goes on; no decision waits for it, and nothing is decided anew.
    pub fn known_as_of(&self, org: &OrgId, as_of: Timestamp, behind: bool) {
        self.view(org).set(as_of, behind);
    }

    fn view(&self, org: &OrgId) -> Arc<View> {
        let mut views = self.0.views.lock().unwrap_or_else(PoisonError::into_inner);
        match views.get(org) {
            Some(view) => view.clone(),
            None => views.entry(org.clone()).or_default().clone(),
        }
    }

    /// How old the oldest of what is in force is, and in how many organisations nobody is let in for its age.
    pub fn staleness(&self) -> (SignedDuration, usize) {
        let (now, limit) = (self.now(), self.0.max_staleness.load(Relaxed));
        let (mut oldest, mut stale) = (SignedDuration::ZERO, 0);
        for entry in self.0.orgs.load().values() {
            if let InForce::Policy(_, view) = entry
                && let Some(as_of) = view.as_of()
            {
                oldest = oldest.max(now.duration_since(as_of));
                stale += usize::from(view.until(limit) <= now.as_microsecond());
            }
        }
        (oldest, stale)
    }

    /// Until when the policy in force in `org` is believed, if nothing else comes.
    pub(crate) fn believed_until(&self, org: &OrgId) -> Timestamp {
        match self.0.orgs.load().get(org) {
            Some(InForce::Policy(policy, view)) => {
                let until = view.until(self.0.max_staleness.load(Relaxed));
                Timestamp::from_microsecond(until).map_or(policy.expires(), |until| until.min(policy.expires()))
            }
            Some(InForce::Unusable(_)) | None => Timestamp::MIN,
        }
    }

    /// The policy in force in `org`.
    ///
    /// # Errors
    /// [`Reason::NoPolicy`] if there is none, [`Reason::Stale`] if there is none that may still be believed.
    pub fn policy(&self, org: &OrgId) -> Result<Arc<PolicySet>, Reason> {
        match self.0.orgs.load().get(org) {
            Some(InForce::Policy(policy, view)) => {
                let (now, limit) = (self.0.clock.now(), self.0.max_staleness.load(Relaxed));
                match (now.as_microsecond() < view.until(limit), now < policy.expires()) {
                    (true, true) => Ok(policy.clone()),
                    (false, _) => Err(view.refusal(limit)),
                    (true, false) => Err(Reason::Stale(
                        "the policy has expired; check that the controller can be reached, and the clocks".into(),
                    )),
                }
            }
            Some(InForce::Unusable(_)) => {
                Err(Reason::NoPolicy("the newest policy cannot be used here; its administrator is to look at the log"))
            }
            None => Err(Reason::NoPolicy("there is no policy of this organisation yet; try again shortly")),
        }
    }

    /// Decides on a request of which nothing more is known, by default no.
    pub fn decide(&self, who: &Principal, cluster: &ClusterId, asked: &RequestAttributes) -> Decision {
        self.decide_from(who, cluster, asked, None)
    }

    /// Decides on a request that comes from the address `source`, by default no.
    ///
    /// Of obligations it supports those that every server sees to by itself ([`Supported::ALWAYS`]): what a binding gives
    /// under another one is denied.
    pub fn decide_from(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        source: Option<IpAddr>,
    ) -> Decision {
        self.decide_on_port(who, cluster, asked, source, Port::Unknown)
    }

    /// The same with what is known of the port of a port-forward.
    pub fn decide_on_port(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        source: Option<IpAddr>,
        port: Port,
    ) -> Decision {
        self.decide_supporting(Supported::ALWAYS, who, cluster, asked, source, port)
    }

    /// The same for whoever sees to these obligations.
    pub(crate) fn decide_supporting(
        &self,
        supported: Supported,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        source: Option<IpAddr>,
        port: Port,
    ) -> Decision {
        match self.weigh_request(supported, who, cluster, asked, source, port) {
            Ok((grant, _)) => Decision::Allow(grant),
            Err(reason) => Decision::Deny(reason),
        }
    }

    /// The same, with what has to be seen to.
    pub(crate) fn weigh_request(
        &self,
        supported: Supported,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        source: Option<IpAddr>,
        port: Port,
    ) -> Result<(Grant, Obligations), Reason> {
        // Nobody acts as somebody else, and asking for it is never overheard: the answer would be the wrong user's.
        let refused = match asked.impersonation() {
            None => {
                let facts = Facts::at(self.now()).from_source(source).supporting(supported);
                let weighed = self.policy(who.org())?.weigh_request(who, cluster, asked, &facts, port)?;
                let refusal = |limits: &Limits| limits.refusal_of(who, asked, &facts, port);
                return match self.0.limits.load().iter().find_map(refusal) {
                    Some(refusal) => Err(Reason::Denied(refusal)),
                    None => Ok(weighed),
                };
            }
            Some(Ok(_)) => "no role gives impersonation; leave out --as, --as-group and --as-uid".to_owned(),
            Some(Err(invalid)) => invalid.to_string(),
        };
        Err(Reason::Denied(refused))
    }

    /// Decides on a question about oneself just as on the request that it is about.
    pub fn review(&self, who: &Principal, cluster: &ClusterId, action: &Action<'_>) -> Decision {
        self.review_with(who, cluster, action, &Facts::at(self.now()).supporting(Supported::RECORDED))
    }

    /// The same from the address `source`, on which bindings may depend.
    pub fn review_from(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        action: &Action<'_>,
        source: Option<IpAddr>,
    ) -> Decision {
        let facts = Facts::at(self.now()).from_source(source).supporting(Supported::RECORDED);
        self.review_with(who, cluster, action, &facts)
    }

    /// The same, with all that is known.
    pub fn review_with(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        action: &Action<'_>,
        facts: &Facts<'_>,
    ) -> Decision {
        let decision = match self.policy(who.org()) {
            Ok(policy) => policy.decide(who, cluster, action, facts),
            Err(reason) => Decision::Deny(reason),
        };
        let refusal = |limits: &Limits| limits.refusal(who, action, facts);
        match self.0.limits.load().iter().find_map(refusal) {
            Some(refusal) if matches!(decision, Decision::Allow(_)) => Decision::Deny(Reason::Denied(refusal)),
            _ => decision,
        }
    }

    /// True if an answer in `policy` may change while nothing but time passes.
    pub(crate) fn is_timed(&self, policy: &PolicySet) -> bool {
        policy.is_timed() || self.0.limits.load().iter().any(Limits::is_timed)
    }

    /// True if `cluster` is `org`'s, by a policy that may still be believed.
    pub fn owns(&self, org: &OrgId, cluster: &ClusterId) -> bool {
        self.policy(org).is_ok_and(|policy| policy.cluster(cluster).is_some())
    }

    /// The clusters on which `who` has any role, by name.
    pub fn clusters_of(&self, who: &Principal) -> Vec<Cluster> {
        let Ok(policy) = self.policy(who.org()) else {
            return Vec::new();
        };
        policy.clusters_of(who).into_iter().cloned().collect()
    }

    /// Kubernetes RBAC that gives `who` on `cluster` what policy gives; `None` for somebody without any role there.
    ///
    /// # Errors
    /// As for [`Self::policy`].
    pub fn render(&self, who: &Principal, cluster: &ClusterId) -> Result<Option<Rendered>, Reason> {
        Ok(self.policy(who.org())?.render_at(who, cluster, self.now()))
    }

    /// True if policy may deny some of what [`Self::render`] lists ([`PolicySet::narrows`]), or a limit of the cluster's owner may;
    /// false without a policy.
    pub fn narrows(&self, who: &Principal, cluster: &ClusterId) -> bool {
        let limited = !self.0.limits.load().is_empty();
        self.policy(who.org()).is_ok_and(|policy| limited || policy.narrows(who, cluster, self.now()))
    }

    /// The revision in force in `org`, usable or not.
    pub fn revision(&self, org: &OrgId) -> Option<Revision> {
        self.0.orgs.load().get(org).map(InForce::revision)
    }

    /// Waits until a policy of at least this `revision` is in force in `org`; the caller sets the limit. Cancel safe.
    pub async fn at_least(&self, org: &OrgId, revision: Revision) {
        let mut changes = self.changes();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = changes.wait_for(|_| self.revision(org) >= Some(revision)).await;
    }

    /// Wakes at each change of any organisation's policy; what is long open is decided on again then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
