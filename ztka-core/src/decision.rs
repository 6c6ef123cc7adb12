//! What was decided, why a request was refused, and where a refusal is reported.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::{Malformed, Principal, Revision, SpiffeId, Verified};

/// Whether a session of exec or attach is recorded. Later ones say more.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Recording {
    /// It is not.
    #[default]
    Off,
    /// It is, if it can be.
    On,
    /// It is, or it does not take place.
    Required,
}

/// What policy granted. Cheap to clone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The binding that allowed the request.
    pub binding: Arc<str>,
    /// The role that the binding gives.
    pub role: Arc<str>,
    /// The policy that was asked.
    pub policy: Revision,
    /// How much of a session has to be recorded; [`Recording::Off`] of anything else.
    pub recording: Recording,
    /// The binding gives it only if the audit event says at least this much.
    pub audit: Option<AuditLevel>,
}

/// How much an audit event has to say, in Kubernetes' own words; later ones say more.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum AuditLevel {
    Metadata,
    Request,
    RequestResponse,
}

/// Why a request was refused. Exhaustive: every refusal of ours is one of these.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Reason {
    /// It is not known who asks, or their session is over: 401. The text says what to do.
    #[error("{0}")]
    Unauthenticated(String),
    /// Server name, host, path and certificate do not name one cluster of one organisation: 421.
    #[error("{0}")]
    Misdirected(&'static str),
    /// What is asked cannot be read in one way only: 400, or 414 for a target that is too long.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The audit record could not be opened: 503.
    #[error("the request could not be recorded, and nothing goes on unrecorded: {0}")]
    Unrecorded(String),
    /// There is no current policy to ask: 503.
    #[error("{0}")]
    NoPolicy(&'static str),
    /// What is known of policy is too old to let anybody in by it: 503, and no time to try again, so that clients show the
    /// text at once. It says what to do.
    #[error("{0}")]
    Stale(String),
    /// Policy says no: 403.
    #[error("{0}")]
    Denied(String),
    /// A limit is reached: 429.
    #[error("{0}")]
    Overloaded(&'static str),
}

impl Reason {
    /// The bytes of a connection are not one well-formed message after the other: [`Self::Malformed`], without a target.
    pub fn framing(why: &'static str) -> Self {
        Self::Malformed(Malformed::new(&Uri::from_static("/"), why))
    }
}

/// The result of one policy evaluation.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Allowed.
    Allow(Grant),
    /// Denied, with the reason that the user sees.
    Deny(Reason),
}

/// Lets the audit layer see the decision made further down the stack.
#[derive(Clone, Debug, Default)]
pub struct DecisionSlot(Arc<OnceLock<Decision>>);

impl DecisionSlot {
    pub(crate) fn fill(&self, decision: Decision) {
        let _ = self.0.set(decision);
    }

    /// The decision, if one was made.
    pub fn get(&self) -> Option<&Decision> {
        self.0.get()
    }
}

/// Whom a refused request came from, as far as that was verified. A name that is only claimed cannot be put in.
#[derive(Clone, Debug)]
pub enum Caller {
    /// By certificate and session document.
    Principal(Verified<Principal>),
    /// By the certificate alone: there is no session, or it is over.
    Certificate(Verified<SpiffeId>),
}

/// A request refused before a record could be opened for it.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// The target as received; none when the refusal came before a request was read.
    pub target: Option<&'a Uri>,
    /// Address of the peer, where known.
    pub source: Option<IpAddr>,
    /// Who it was, where that much is known.
    pub principal: Option<&'a Caller>,
    /// Why.
    pub reason: &'a Reason,
}

/// Hears of refusals made before a record could be opened: of a handshake, of an unauthenticated request.
/// The audit recorder is one, so that these leave an event as well.
pub trait RefusalSink: Send + Sync + std::fmt::Debug + 'static {
    /// Notes the refusal; returns at once.
    fn refused(&self, refusal: Refusal<'_>);
}
