//! What policy says to one question: exhaustive, and borrowed from the policy so that nothing is allocated.

use jiff::SignedDuration;
use std::sync::Arc;
use ztka_core::{Grant, Recording, Revision};

use crate::{AuditLevel, Gate, Obligations, ProtectedAccess, Supported};

/// The answer of a policy.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'p> {
    /// Allowed by this, if the obligations are seen to.
    Allow {
        /// What allows it.
        grant: Granted<'p>,
        /// What has to be seen to.
        obligations: Obligations,
    },
    /// Denied.
    Deny {
        /// Why.
        reason: Refused<'p>,
    },
}

/// What allows a request.
#[derive(Clone, Copy, Debug)]
pub struct Granted<'p> {
    pub(crate) binding: &'p Arc<str>,
    pub(crate) role: &'p Arc<str>,
    pub(crate) policy: Revision,
}

impl Granted<'_> {
    /// The binding.
    pub fn binding(&self) -> &str {
        self.binding
    }

    /// The role that it gives.
    pub fn role(&self) -> &str {
        self.role
    }

    /// The same as it is written into records, with what of `obligations` is about its record. Allocates nothing.
    pub fn grant(&self, obligations: &Obligations) -> Grant {
        let (recording, audit) = (obligations.record, obligations.audit);
        Grant { binding: self.binding.clone(), role: self.role.clone(), policy: self.policy, recording, audit }
    }
}

/// Why a policy denies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused<'p> {
    /// There is no such cluster in the user's organisation.
    NoCluster,
    /// The namespace of the agent.
    AgentNamespace,
    /// RBAC objects that the agent makes.
    AgentObjects,
    /// Objects of RBAC as a collection, those of the agent among them.
    AgentCollection,
    /// A denial.
    Denial {
        /// Its name.
        name: &'p str,
        /// What it says itself.
        reason: &'p str,
    },
    /// A protected namespace.
    Protected(ProtectedAccess),
    /// No binding names the user there.
    NoRole,
    /// Bindings name the user, and none gives this.
    NotGiven,
    /// The secrets of all namespaces take a role that allows everything.
    EverybodysSecrets,
    /// A role would give it, and its gate is shut to that role.
    Gate(Gate),
    /// A role would give it, and is a read-only one.
    ReadOnly {
        /// The binding.
        binding: &'p str,
    },
    /// A binding would give it under a condition that is not fulfilled.
    Unmet {
        /// The binding.
        binding: &'p str,
        /// The condition.
        condition: Unmet<'p>,
    },
    /// A binding would give it under an obligation that nobody here can see to.
    Unsupported {
        /// The binding.
        binding: &'p str,
        /// The obligation.
        obligation: Obligation,
    },
}

/// A condition that is not fulfilled, or not known to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmet<'p> {
    /// The binding does not count yet.
    NotYet,
    /// The binding counts no longer.
    Over,
    /// Outside of its hours.
    Hours,
    /// From another network, or nobody knows from where.
    Network,
    /// Without a second factor, or it was too long ago, or too weak.
    Mfa,
    /// On a cluster without these labels.
    ClusterLabels,
    /// In a namespace without these labels.
    NamespaceLabels,
    /// An attribute of the user.
    User(&'p str),
    /// It is for other requests.
    Request,
    /// It is for other commands.
    Command,
    /// An expression of Cedar was false.
    Cedar,
    /// An expression of Cedar could not be evaluated.
    CedarError,
    /// This version does not understand the condition.
    NotUnderstood,
}

/// One thing that has to be seen to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Obligation {
    /// [`Obligations::audit`].
    Audit,
    /// [`Obligations::record`].
    Record,
    /// [`Obligations::max_duration`].
    MaxDuration,
    /// [`Obligations::step_up`].
    StepUp,
    /// One that this version does not understand.
    NotUnderstood,
}

impl Obligations {
    /// True if there is nothing to see to.
    pub fn is_none(&self) -> bool {
        let Self { audit, record, max_duration, step_up } = self;
        audit.is_none() && *record == Recording::Off && max_duration.is_none() && !step_up
    }

    /// Those that are about such a request.
    pub(crate) fn due(self, session: bool, lasting: bool) -> Self {
        let max_duration: Option<SignedDuration> = self.max_duration.filter(|_| lasting);
        let record = if session { self.record } else { Recording::Off };
        Self { record, max_duration, ..self }
    }

    /// The first of them that `supported` does not see to.
    pub(crate) fn beyond(&self, supported: &Supported) -> Option<Obligation> {
        let enough = |wanted: AuditLevel| supported.audit.is_some_and(|level| wanted <= level);
        if self.audit.is_some_and(|wanted| !enough(wanted)) {
            return Some(Obligation::Audit);
        }
        [
            (self.record == Recording::Required && !supported.record, Obligation::Record),
            (self.max_duration.is_some() && !supported.max_duration, Obligation::MaxDuration),
            (self.step_up && !supported.step_up, Obligation::StepUp),
        ]
        .into_iter()
        .find_map(|(beyond, obligation)| beyond.then_some(obligation))
    }
}
