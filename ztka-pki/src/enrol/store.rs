//! What the enrolment service remembers.

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{BoxError, Cidr, ClusterId, InstanceId, KeyId, OrgId, ProxyId, Subject};

use super::token::TokenId;

/// Whom a token lets in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Enrollee {
    /// An agent of this cluster, which keeps its id however often an agent joins again.
    Agent {
        /// Owner of the cluster.
        org: OrgId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// This proxy.
    Proxy {
        /// The proxy.
        proxy: ProxyId,
    },
}

/// Who has spent a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spent {
    /// The key that it belongs to from now on.
    pub key: KeyId,
    /// The name that the key was given.
    pub subject: Subject,
    /// When.
    pub at: Timestamp,
    /// The chain that was issued, in PEM; none until it is kept.
    pub chain: Option<String>,
    /// The certificate has been used: the answer has arrived, and is not given again.
    pub used: bool,
}

/// What an administrator says of the key that has come with a token first. There is one, and it stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is to be certified.
    Approved,
    /// It is not, and nothing else will be by this token.
    Refused,
}

/// A token as stored: everything but the secret.
#[derive(Clone, Eq, PartialEq)]
pub struct TokenRecord {
    /// Names it.
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// Whom it lets in.
    pub enrollee: Enrollee,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// From where it may be used; from anywhere if there is none.
    pub sources: Vec<Cidr>,
    /// Whether the first key has to be approved before it is certified.
    pub approval: bool,
    /// What was said of that key.
    pub verdict: Option<Verdict>,
    /// Since when it is refused.
    pub revoked: Option<Timestamp>,
    /// Who has spent it.
    pub spent: Option<Spent>,
}

impl TokenRecord {
    /// True if it may be used from `source`, also where that is not known.
    pub(super) fn is_for(&self, source: Option<IpAddr>) -> bool {
        self.sources.is_empty() || source.is_some_and(|source| self.sources.iter().any(|range| range.contains(source)))
    }
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("enrollee", &self.enrollee)
            .field("expires", &self.expires)
            .field("sources", &self.sources)
            .field("approval", &self.approval)
            .field("verdict", &self.verdict)
            .field("revoked", &self.revoked)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

/// One more agent of a cluster, on the word of another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replica {
    /// Owner of the cluster.
    pub org: OrgId,
    /// The cluster.
    pub cluster: ClusterId,
    /// What it is to be called.
    pub instance: InstanceId,
    /// Who asks for it.
    pub let_in: InstanceId,
    /// Its key.
    pub key: KeyId,
    /// When it is asked for.
    pub now: Timestamp,
    /// When its first certificate ends.
    pub ends: Timestamp,
}

impl Replica {
    /// Its name.
    pub fn subject(&self) -> Subject {
        Subject::Agent { org: self.org.clone(), cluster: self.cluster.clone(), instance: self.instance.clone() }
    }
}

/// What a store says to a [`Replica`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admission {
    /// The key has the name.
    Admitted,
    /// The same agent has asked for the same key before, and this is the name it was given.
    Known(InstanceId),
    /// There are as many of the cluster as there may be.
    Full,
    /// The key has another name.
    KeyBound,
    /// Who asks was let in by another agent, or the cluster is gone.
    NotByToken,
}

/// The store cannot do it now.
#[derive(Debug, thiserror::Error)]
#[error("the enrolment store cannot be used now; see the cause and try again")]
pub struct StoreError(#[source] BoxError);

impl StoreError {
    /// Wraps the store's own error.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

/// Tokens, and which key belongs to which name. Each call is atomic and durable when it returns, also among several
/// processes over one store. An embedder's own passes `conformance::enrolment_store` (feature
/// `conformance`).
#[async_trait]
pub trait EnrolmentStore: Send + Sync + fmt::Debug {
    /// Keeps a new token.
    ///
    /// # Errors
    /// [`StoreError`], also if there is one with its id.
    async fn add_token(&self, record: TokenRecord) -> Result<(), StoreError>;

    /// The token with this id; none also when what it lets in is gone (a deleted cluster).
    ///
    /// # Errors
    /// [`StoreError`]
    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError>;

    /// The tokens of an enrollee, newest first, at most 500 of them.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn tokens(&self, enrollee: &Enrollee) -> Result<Vec<TokenRecord>, StoreError>;

    /// Lets nothing be had by a token any more; what was had stays. The first time is kept. `false` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn revoke_token(&self, id: &TokenId, at: Timestamp) -> Result<bool, StoreError>;

    /// Says what is to become of `key`, which has spent a token that asks for approval. The first verdict stays, and is
    /// returned; none if the token is not there, revoked, not spent by this key, or asks for no approval.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn decide(&self, id: &TokenId, key: &KeyId, verdict: Verdict) -> Result<Option<Verdict>, StoreError>;

    /// Spends a token that nobody has spent or revoked; the first one wins. Returns who has spent it now; none if it is
    /// not there, or revoked unspent.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn spend(&self, id: &TokenId, spent: Spent) -> Result<Option<Spent>, StoreError>;

    /// Keeps the chain issued for a spent token, unless one is kept; returns the one kept.
    ///
    /// # Errors
    /// [`StoreError`], also if the token is not there, not spent, revoked, or not approved where that is asked for.
    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError>;

    /// Notes that the holder of `key` has connected with its certificate: its tokens' answers are not given again.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError>;

    /// Binds the key of one more agent of a cluster to its name, if there are fewer than `most` of them whose certificates
    /// have not ended. One whose certificate was renewed may count until that has ended.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn add_replica(&self, replica: &Replica, most: usize) -> Result<Admission, StoreError>;

    /// Binds `key` to `subject` if it is not bound; `false` if it is bound to another.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError>;
}
