//! Compiled policy of one organisation, and the pure evaluation of one question.

use std::ops::ControlFlow;

use jiff::Timestamp;
use ztka_core::{
    ClusterId, Decision, DocumentKind, Grant, OrgId, Principal, Reason, RequestAttributes, Revision, SignedDocument,
    Verified,
};

use crate::{
    Action, Clause, Cluster, Facts, Gate, Gates, Granted, InvalidPolicy, Obligation, Obligations, Opening,
    PolicyDocument, Port, ProtectedAccess, Refused, Settings, Target, Unmet, Verdict,
    candidates::{ByWho, Entry},
    compile::{Bound, Index, REACH, ROLE, TERMS, WITHIN, index},
    condition::{Holds, Request, has_command},
    matcher::{Asked, Rules},
    words::NONE,
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

/// The policy of one organisation, ready to be asked.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) org: OrgId,
    revision: Revision,
    expires: Timestamp,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) index: Index,
    pub(crate) gates: Gates,
    pub(crate) settings: Settings,
    pub(crate) closed: String,
}

/// What a binding says to a question.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'p> {
    /// Allowed, with this to see to.
    Gives(Obligations),
    /// It is about something else.
    Elsewhere,
    /// It would allow it but for this.
    Not(Refused<'p>),
}

/// A binding that allows something, and what is to be seen to; or why none does, if one would but for that.
type Given<'p> = Result<(&'p Bound, Obligations), Option<Refused<'p>>>;

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
        Ok(Self { revision: header.revision, expires: header.expires, ..Self::of(org, body)? })
    }

    /// Compiles what nobody has signed: for trying out a policy, never for letting anybody in.
    ///
    /// # Errors
    /// [`InvalidPolicy`] if it means nothing definite.
    pub fn candidate(org: OrgId, document: PolicyDocument) -> Result<Self, InvalidPolicy> {
        Self::of(org, document)
    }

    fn of(org: OrgId, document: PolicyDocument) -> Result<Self, InvalidPolicy> {
        let index = index(&document)?;
        let PolicyDocument { clusters, guardrails, settings, .. } = document;
        let (revision, expires, gates, closed) =
            (Revision::default(), Timestamp::MAX, guardrails.gates, AGENT_NAMESPACE.into());
        Ok(Self { org, revision, expires, clusters, index, gates, settings, closed })
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

    /// True if an answer may change while nothing but time passes: what is open has to be asked about again and again.
    pub fn is_timed(&self) -> bool {
        self.index.timed
    }

    /// The cluster with this id, if it is the organisation's.
    pub fn cluster(&self, id: &ClusterId) -> Option<&Cluster> {
        self.clusters.get(self.numbered(id)? as usize)
    }

    #[inline]
    fn numbered(&self, id: &ClusterId) -> Option<u32> {
        let text = |number: u32| self.clusters.get(number as usize).map_or("", |cluster| cluster.id.as_str());
        Some(self.index.numbers.find(id.as_str(), text)?.number)
    }

    /// The organisation's clusters, as the document lists them.
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The clusters on which `who` is bound, by name; whether anything is given there now is another question.
    pub fn clusters_of(&self, who: &Principal) -> Vec<&Cluster> {
        let bound = |cluster: &&Cluster| self.bound(who, &cluster.id).next().is_some();
        let mut clusters: Vec<_> = self.clusters.iter().filter(bound).collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters
    }

    /// The number of a cluster that `who` may ask about at all.
    pub(crate) fn number(&self, who: &Principal, cluster: &ClusterId) -> Option<u32> {
        self.numbered(cluster).filter(|_| self.org == *who.org())
    }

    /// Bindings that name `who` on `cluster`: the user's own first, then those of groups.
    pub(crate) fn bound<'p>(&'p self, who: &Principal, cluster: &ClusterId) -> impl Iterator<Item = &'p Bound> {
        let number = self.number(who, cluster);
        number.into_iter().flat_map(move |number| self.bound_on(who, number))
    }

    pub(crate) fn bound_on<'p>(&'p self, who: &Principal, cluster: u32) -> impl Iterator<Item = &'p Bound> {
        self.those_reaching(self.index.by_who.of_whom(who, cluster), cluster)
    }

    pub(crate) fn those_reaching(
        &self,
        numbers: impl Iterator<Item = u32>,
        cluster: u32,
    ) -> impl Iterator<Item = &Bound> {
        let bound = numbers.filter_map(|number| self.index.bindings.get(number as usize));
        bound.filter(move |bound| bound.reach.has(cluster))
    }

    /// Decides one question, and says to people why not. Pure: no clock, no I/O, no state.
    pub fn decide(&self, who: &Principal, cluster: &ClusterId, action: &Action<'_>, facts: &Facts<'_>) -> Decision {
        match self.weigh(who, cluster, action, facts) {
            Verdict::Allow { grant, obligations } => Decision::Allow(grant.grant(&obligations)),
            Verdict::Deny { reason } => Decision::Deny(Reason::Denied(self.refusal(&reason, who, cluster, action))),
        }
    }

    /// Decides on a request just as on a question, with the command that it would run and what is known of its port.
    pub fn decide_request(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        facts: &Facts<'_>,
        port: Port,
    ) -> Decision {
        match self.weigh_request(who, cluster, asked, facts, port) {
            Ok((grant, _)) => Decision::Allow(grant),
            Err(reason) => Decision::Deny(reason),
        }
    }

    /// The same, with what has to be seen to.
    ///
    /// # Errors
    /// Why not, as the user is to see it.
    pub(crate) fn weigh_request(
        &self,
        who: &Principal,
        cluster: &ClusterId,
        asked: &RequestAttributes,
        facts: &Facts<'_>,
        port: Port,
    ) -> Result<(Grant, Obligations), Reason> {
        let action = Action::from(asked).on_port(port);
        let weighed = |facts: &Facts<'_>| match self.weigh(who, cluster, &action, facts) {
            Verdict::Allow { grant, obligations } => Ok((grant.grant(&obligations), obligations)),
            Verdict::Deny { reason } => Err(Reason::Denied(self.refusal(&reason, who, cluster, &action))),
        };
        if !self.index.commands || !has_command(&action.target) {
            return weighed(facts);
        }
        let command = asked.query("command");
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        weighed(&facts.running(&command))
    }

    /// Decides one question, with what has to be seen to. Pure, and allocates nothing.
    pub fn weigh<'p>(
        &'p self,
        who: &Principal,
        cluster: &ClusterId,
        action: &Action<'_>,
        facts: &Facts<'_>,
    ) -> Verdict<'p> {
        let deny = |reason| Verdict::Deny { reason };
        let Some(number) = self.number(who, cluster) else { return deny(Refused::NoCluster) };
        let Some(found) = self.clusters.get(number as usize) else { return deny(Refused::NoCluster) };
        if let Some(closed) = self.is_closed(action) {
            return deny(closed);
        }
        let asked = Asked::new(&self.index.words, action);
        let request = Request { who, action, asked: &asked, cluster: found, facts };
        if let Some(denied) = self.denied(number, &request).or_else(|| self.protected(number, &request)) {
            return deny(denied);
        }
        let (given, first) = self.given(number, &request);
        match (given, first, self.index.roles.role(self.index.basic)) {
            (Ok((bound, obligations)), ..) => self.allow(bound, &bound.role, obligations),
            // Whoever is bound may ask what there is, and about themselves.
            (_, Some(bound), Some(basic)) if self.index.is_basic(&asked) => {
                self.allow(bound, basic, Obligations::default())
            }
            (Err(why), Some(_), _) => deny(why.unwrap_or(Refused::NotGiven)),
            (Err(why), None, _) => deny(why.unwrap_or(Refused::NoRole)),
        }
    }

    /// The first binding that allows it without anything to see to, else the first that allows it; or why not. And the first of all
    /// that is not out of its term, unless it comes later: what has run out gives nothing, discovery included.
    #[inline]
    fn given<'p>(&'p self, cluster: u32, request: &Request<'_>) -> (Given<'p>, Option<&'p Bound>) {
        let asked = request.asked;
        let gate = asked.gate();
        // What no role gives but by more than its rules.
        let special = gate.is_some() || asked.is_everybodys_secrets();
        let (mut best, mut why, mut first) = (None, None, None);
        let mut counts = |entry: &Entry| {
            let Some(bound) = self.index.bindings.get(entry.number as usize) else { return ControlFlow::Continue(()) };
            let reaches = entry.what & REACH == 0 || bound.reach.has(cluster);
            let counts = entry.what & TERMS == 0 || bound.is_in_term(request.facts.now);
            if reaches && counts { ControlFlow::Break(bound) } else { ControlFlow::Continue(()) }
        };
        let mut visit = |entry: &Entry| {
            let Some(bound) = self.index.bindings.get(entry.number as usize) else { return ControlFlow::Continue(()) };
            if (entry.what & REACH != 0 && !bound.reach.has(cluster))
                || (entry.what & WITHIN != 0 && !bound.within.has(cluster, asked))
            {
                return ControlFlow::Continue(());
            }
            let answer = match self.index.roles.covers(entry.what & ROLE, asked) {
                None => return ControlFlow::Continue(()),
                Some(false) if !special && entry.what & TERMS == 0 => Answer::Gives(Obligations::default()),
                Some(_) => self.answer_covered(bound, request, gate),
            };
            match answer {
                Answer::Gives(obligations) if obligations.is_none() => return ControlFlow::Break((bound, obligations)),
                Answer::Gives(obligations) => _ = best.get_or_insert((bound, obligations)),
                Answer::Elsewhere => {}
                Answer::Not(refused) => _ = why.get_or_insert(refused),
            }
            ControlFlow::Continue(())
        };
        let given = self.index.by_who.each_run(request.who, cluster, |run| {
            if first.is_none() {
                first = run.each(&mut counts).break_value();
            }
            // Bindings in other namespaces say nothing to the question.
            run.each_at(asked.namespace(), &mut visit)
        });
        match given {
            ControlFlow::Break(given) => (Ok(given), first),
            ControlFlow::Continue(()) => (best.ok_or(why), first),
        }
    }

    fn allow<'p>(&self, bound: &'p Bound, role: &'p Rules, obligations: Obligations) -> Verdict<'p> {
        let grant = Granted { binding: &bound.name, role: &role.name, policy: self.revision };
        Verdict::Allow { grant, obligations }
    }

    /// What one binding says, for somebody whom it names on a cluster that it reaches.
    pub(crate) fn answer<'p>(
        &self,
        bound: &'p Bound,
        cluster: u32,
        request: &Request<'_>,
        gate: Option<Gate>,
    ) -> Answer<'p> {
        let (asked, role) = (request.asked, &bound.role);
        if !bound.within.has(cluster, asked) || !role.covers(asked) {
            return Answer::Elsewhere;
        }
        self.answer_covered(bound, request, gate)
    }

    /// The same where it reaches what is asked about, and its role covers it.
    fn answer_covered<'p>(&self, bound: &'p Bound, request: &Request<'_>, gate: Option<Gate>) -> Answer<'p> {
        let (asked, role) = (request.asked, &bound.role);
        if role.role.read_only && !asked.is_for_looking(&self.settings) {
            return Answer::Not(Refused::ReadOnly { binding: &bound.name });
        }
        if asked.is_everybodys_secrets() && !role.unlimited {
            return Answer::Not(Refused::EverybodysSecrets);
        }
        if let Some(gate) = gate
            && !self.passes(gate, role)
        {
            return Answer::Not(Refused::Gate(gate));
        }
        if let Some(terms) = &bound.terms {
            match terms.hold(request) {
                Holds::Yes => {}
                Holds::No(condition) | Holds::Unknown(condition) => {
                    return Answer::Not(Refused::Unmet { binding: &bound.name, condition });
                }
            }
        }
        let Some(duties) = &bound.duties else { return Answer::Gives(Obligations::default()) };
        let Clause::Known(duties) = **duties else {
            let obligation = Obligation::NotUnderstood;
            return Answer::Not(Refused::Unsupported { binding: &bound.name, obligation });
        };
        let due = duties.due(asked.is_session(), asked.is_lasting());
        match due.beyond(&request.facts.supported) {
            Some(obligation) => Answer::Not(Refused::Unsupported { binding: &bound.name, obligation }),
            None => Answer::Gives(due),
        }
    }

    pub(crate) fn passes(&self, gate: Gate, role: &Rules) -> bool {
        match self.gates.opening(gate) {
            Opening::Closed => false,
            Opening::Admins => role.unlimited,
            Opening::Roles => true,
        }
    }

    /// The first denial that is about the request, or may be.
    pub(crate) fn denied(&self, cluster: u32, request: &Request<'_>) -> Option<Refused<'_>> {
        if self.index.denials.is_empty() {
            return None;
        }
        let visit = |entry: &Entry| {
            // Nearly all are about other verbs.
            if entry.what & request.asked.bit == 0 {
                return ControlFlow::Continue(());
            }
            let denied = self.index.denials.get(entry.number as usize);
            match denied.filter(|denied| denied.is_about(cluster, request, &self.index.by_who)) {
                Some(denied) => ControlFlow::Break(denied),
                None => ControlFlow::Continue(()),
            }
        };
        let found = self.index.denied_to.each_on(request.who, cluster, visit).break_value()?;
        Some(Refused::Denial { name: &found.name, reason: &found.reason })
    }

    /// What a protected namespace keeps from the request.
    pub(crate) fn protected(&self, cluster: u32, request: &Request<'_>) -> Option<Refused<'_>> {
        let asked = request.asked;
        let object = asked.object()?;
        for rail in self.index.protected.iter().filter(|rail| rail.reach.has(cluster)) {
            // Across all namespaces, this one is among them, unless it is about what is in no namespace at all.
            let meant = match object.namespace {
                NONE => asked.is_wide() && !is_cluster_scoped(&request.action.target),
                named => crate::words::has(&rail.namespaces, named),
            };
            let left = rail.access == ProtectedAccess::Read && asked.is_harmless();
            if meant && !left && !rail.except.have(request.who, &self.index.by_who) {
                return Some(Refused::Protected(rail.access));
            }
        }
        None
    }

    /// What stays shut whatever a role says: the agent's namespace, and the RBAC that carries out policy.
    pub(crate) fn is_closed(&self, action: &Action<'_>) -> Option<Refused<'static>> {
        let Target::Resource { group, resource, namespace, name, .. } = action.target else {
            return None;
        };
        if namespace == Some(&self.closed) {
            return Some(Refused::AgentNamespace);
        }
        if group != RBAC {
            return None;
        }
        // The agent's objects would go with the others, whatever the selector. (`create` has its name in the body,
        // which nobody reads here; the agent puts its own content over whatever it finds under its names.)
        if action.verb == "deletecollection" && RBAC_KINDS.contains(&resource) {
            return Some(Refused::AgentCollection);
        }
        let writes = !["get", "list", "watch"].contains(&action.verb);
        (writes && name.is_some_and(|name| name.starts_with(AGENT_PREFIX))).then_some(Refused::AgentObjects)
    }
}

impl crate::compile::Denied {
    /// True if it denies the request, as far as that can be known.
    pub(crate) fn is_about(&self, cluster: u32, request: &Request<'_>, people: &ByWho) -> bool {
        self.reach.has(cluster)
            && self.within.touches(cluster, request.asked)
            && self.rules.iter().any(|rule| rule.touches(request.asked))
            && !self.except.have(request.who, people)
            && !self.terms.as_ref().is_some_and(|terms| matches!(terms.hold(request), Holds::No(_)))
    }
}

/// Kinds of Kubernetes' own that are in no namespace.
fn is_cluster_scoped(target: &Target<'_>) -> bool {
    let Target::Resource { group, resource, .. } = target else { return true };
    match *group {
        "" => ["nodes", "namespaces", "persistentvolumes", "componentstatuses"].contains(resource),
        RBAC => ["clusterroles", "clusterrolebindings"].contains(resource),
        "storage.k8s.io" => *resource != "csistoragecapacities",
        "networking.k8s.io" => ["ingressclasses", "ipaddresses", "servicecidrs"].contains(resource),
        "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "apiregistration.k8s.io"
        | "certificates.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io"
        | "scheduling.k8s.io" => true,
        _ => false,
    }
}

impl Unmet<'_> {
    /// What the condition wants, in a few words.
    pub(crate) fn describe(&self) -> String {
        let text = match self {
            Self::NotYet => "it does not count yet",
            Self::Over => "it has run out",
            Self::Hours => "it counts at other hours",
            Self::Network => "it counts from other networks, or yours is not known",
            Self::Mfa => "it takes a second factor that is newer or stronger; log in again with one",
            Self::ClusterLabels => "it counts on clusters with other labels",
            Self::NamespaceLabels => "it counts in namespaces with other labels",
            Self::User(attribute) => return format!("it is for users with another {attribute}"),
            Self::Request => "it is for other requests",
            Self::Command => "it is for other commands",
            Self::Cedar => "its Cedar expression is not true",
            Self::CedarError => "its Cedar expression could not be evaluated",
            Self::NotUnderstood => "it has a condition that this version does not understand; update this component",
        };
        text.into()
    }
}
