//! Evidence that a tunnel's agent has acknowledged: each is sent once, before a request refers to it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::OnceCell;
use ztka_core::{Evidence, EvidenceId, Reply, body};

use super::tunnel::Tunnel;
use crate::{EVIDENCE_PATH, Problem, Refusals, TunnelError, wire};

/// Larger evidence is not carried.
const MAX_BYTES: usize = 64 << 10;
/// So many are remembered per tunnel; to forget is harmless, it is only sent again.
const MAX_KNOWN: usize = 16_384;

/// Those that wait for one acknowledgement share its outcome.
type Outcome = Arc<OnceCell<Result<(), Unproven>>>;

/// What the agent holds, as far as this side knows.
#[derive(Debug, Default)]
pub(super) struct Proven(Mutex<HashMap<EvidenceId, Outcome>>);

/// The agent did not take the evidence.
#[derive(Clone, Debug)]
pub(super) enum Unproven {
    /// Its answer, which is the user's.
    Refused(Arc<Response<bytes::Bytes>>),
    /// It never answered; the tunnel is of no use.
    Lost,
    /// It has not answered in time, but may live.
    Late,
    /// It is too large to be sent.
    TooLarge,
}

impl Unproven {
    /// What the user is told; `None` if another tunnel may do better.
    pub(super) fn reply(self, refusals: Refusals) -> Option<Reply> {
        let say = |problem| Some(Reply::Response(refusals.answer(problem)));
        match self {
            Self::Lost => None,
            Self::Late => {
                let text = "the cluster's agent is slow to check who you are; try again";
                say(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1))
            }
            Self::TooLarge => {
                let text = "the proof of who you are is larger than 64 KiB; leave groups, or ask for a shorter chain";
                say(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text))
            }
            Self::Refused(answer) if answer.status().is_success() => {
                let text = "the cluster's agent did not say whether it accepts who you are; update the agent";
                say(Problem::new(StatusCode::BAD_GATEWAY, text))
            }
            Self::Refused(answer) => {
                let mut response = Response::new(body(answer.body().clone()));
                *response.status_mut() = answer.status();
                *response.headers_mut() = answer.headers().clone();
                wire::strip_hop_by_hop(response.headers_mut());
                wire::strip_internal(response.headers_mut());
                Some(Reply::Response(response))
            }
        }
    }
}

impl Proven {
    fn known(&self) -> MutexGuard<'_, HashMap<EvidenceId, Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has said that it does not hold `id` (any more).
    pub(super) fn forget(&self, id: &EvidenceId) {
        self.known().remove(id);
    }

    fn outcome(&self, id: &EvidenceId) -> Outcome {
        let mut known = self.known();
        if let Some(outcome) = known.get(id) {
            return outcome.clone();
        }
        if known.len() >= MAX_KNOWN {
            known.retain(|_, outcome| !outcome.initialized());
        }
        known.entry(id.clone()).or_default().clone()
    }
}

impl<P: fmt::Debug> Tunnel<P> {
    /// Makes sure that the agent holds `evidence`. Cancel safe: another request that waits takes over.
    pub(super) async fn prove(&self, evidence: &Evidence) -> Result<(), Unproven> {
        let outcome = self.proven.outcome(evidence.id());
        let result = outcome.get_or_init(|| self.show(evidence)).await.clone();
        if result.is_err() {
            // The next request tries again, unless one has done so already.
            let mut known = self.proven.known();
            if known.get(evidence.id()).is_some_and(|held| Arc::ptr_eq(held, &outcome)) {
                known.remove(evidence.id());
            }
        }
        result
    }

    async fn show(&self, evidence: &Evidence) -> Result<(), Unproven> {
        if evidence.bytes().len() > MAX_BYTES {
            return Err(Unproven::TooLarge);
        }
        let name = HeaderValue::from_str(evidence.id().as_str()).map_err(|_| Unproven::Lost)?;
        let headers = HeaderMap::from_iter([(ztka_core::EVIDENCE.clone(), name)]);
        match self.own(EVIDENCE_PATH, headers, evidence.bytes().clone()).await {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => Ok(()),
            Ok(answer) => Err(Unproven::Refused(Arc::new(answer))),
            Err(error) => {
                tracing::warn!(peer = ?self.peer, %error, "evidence was not acknowledged");
                Err(if let TunnelError::Late(_) = error { Unproven::Late } else { Unproven::Lost })
            }
        }
    }
}
