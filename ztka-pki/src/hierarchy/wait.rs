//! Whom a rotation waits for, and who knows that.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{BoxError, KeyId, OrgId};

use super::Signed;

/// What somebody has yet to do before the next step.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Awaited {
    /// Take the newest `trust` document.
    Trust,
    /// Renew a certificate by the authority that is on its way out.
    Certificate,
    /// Present the newest chain as a server.
    ServerChain,
    /// Refresh or lose a kubeconfig: its certificate is by the authority that is on its way out.
    Credential,
    /// Refresh or lose a kubeconfig: it knows the root that is on its way out, and no other.
    Root,
    /// Sign documents again, which we do ourselves.
    Documents,
    /// Be used, expire or be revoked: an enrolment token, which pins the root that is on its way out.
    Token,
}

/// Somebody who has to be waited for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Straggler {
    /// Who: the path of a SPIFFE id; of an enrolment token `token/<id>`.
    pub who: String,
    /// For what.
    pub awaited: Awaited,
    /// When they were last heard of, if ever.
    pub last_seen: Option<Timestamp>,
    /// When waiting is over at the latest: their certificate ends.
    pub until: Option<Timestamp>,
}

/// Knows the members of an installation, and what they have. A certificate that is over or revoked is nobody's.
#[async_trait]
pub trait Population: Send + Sync + std::fmt::Debug {
    /// Members, and controllers beside this one, that have not confirmed the `trust` document that says what is stored
    /// now.
    ///
    /// # Errors
    /// What the store says.
    async fn without_trust(&self) -> Result<Vec<Straggler>, BoxError>;

    /// Agents, proxies and controllers that have not shown a certificate issued by another authority than `authority`;
    /// of one organisation, if it is one's own.
    ///
    /// # Errors
    /// What the store says.
    async fn certified_by(
        &self,
        authority: &KeyId,
        purpose: crate::Purpose,
        org: Option<&OrgId>,
    ) -> Result<Vec<Straggler>, BoxError>;

    /// Servers that do not present the chain of this name yet; see [`TrustBundle::server_chain_id`](crate::TrustBundle).
    ///
    /// # Errors
    /// What the store says.
    async fn not_presenting(&self, chain: &str) -> Result<Vec<Straggler>, BoxError>;

    /// Users' credentials that were issued at that time.
    ///
    /// # Errors
    /// What the store says.
    async fn credentials(&self, issued: Signed, org: Option<&OrgId>) -> Result<Vec<Straggler>, BoxError>;

    /// Enrolment tokens that were made at that time and may still be used, or whose answer may still be asked for.
    ///
    /// # Errors
    /// What the store says.
    async fn tokens(&self, made: Signed) -> Result<Vec<Straggler>, BoxError>;

    /// How many documents are published that were signed before `at`.
    ///
    /// # Errors
    /// What the store says.
    async fn documents_before(&self, at: Timestamp) -> Result<usize, BoxError>;
}
