//! What the enrolment service remembers.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ztka_core::{BoxError, ClusterId, KeyId, OrgId, ProxyId, Subject};

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
    /// Who has spent it.
    pub spent: Option<Spent>,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("enrollee", &self.enrollee)
            .field("expires", &self.expires)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
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

    /// Spends a token that nobody has spent; the first one wins. Returns who has spent it now; none if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn spend(&self, id: &TokenId, spent: Spent) -> Result<Option<Spent>, StoreError>;

    /// Keeps the chain issued for a spent token, unless one is kept; returns the one kept.
    ///
    /// # Errors
    /// [`StoreError`], also if the token is not there or not spent.
    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError>;

    /// Notes that the holder of `key` has connected with its certificate: its tokens' answers are not given again.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError>;

    /// Binds `key` to `subject` if it is not bound; `false` if it is bound to another.
    ///
    /// # Errors
    /// [`StoreError`]
    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError>;
}
