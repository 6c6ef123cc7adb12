//! What enrolment and renewal report for the record.

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use http::StatusCode;
use jiff::Timestamp;
use ztka_core::{KeyId, Status, Subject};

use super::{store::StoreError, token::TokenId};
use crate::csr::CsrError;

/// Told of a token that is unknown, and of one that is used from somewhere else than it may: who is there learns nothing.
const TOKEN: &str = "the enrolment token is not valid here; copy the whole token, use it from where it may be used, or \
                     make a new one";

/// Why an enrolment or a renewal was refused. The text is what the other side is told, save of [`Self::Source`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
#[non_exhaustive]
pub enum EnrolmentRefusal {
    #[error("the request is not the JSON object that is expected here: {0}")]
    Request(String),
    #[error("the request is larger than 64 KiB")]
    TooLarge,
    #[error("{TOKEN}")]
    Token,
    #[error("the enrolment token may not be used from this address; make one that may, or use it from where it may")]
    Source,
    #[error("the enrolment token has been revoked; ask an administrator for a new one")]
    TokenRevoked,
    #[error("an administrator has refused this enrolment; ask them why, and for a new token")]
    Rejected,
    #[error("the enrolment token has expired; make a new one")]
    Expired,
    #[error("the enrolment token belongs to another key already; make a new token, and find out who used this one")]
    OtherKey,
    #[error("the enrolment token has been used; make a new one to join again")]
    Used,
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("the key is bound to another name already; make a new key, and ask for a new token")]
    KeyBound,
    #[error("renewal needs the certificate that is to be renewed; connect with it")]
    NoCertificate,
    #[error("the certificate is revoked; join again with a new enrolment token")]
    Revoked,
    #[error("the certificate has expired; join again with a new enrolment token")]
    CertificateExpired,
    #[error("certificates of this kind are not renewed here")]
    Kind,
    #[error("this agent was let in by another one of its cluster, and lets nobody in; use the cluster's credential")]
    NotByToken,
    #[error(
        "the cluster has as many agents as it may have; those that are gone are forgotten when their certificates end"
    )]
    Replicas,
}

impl EnrolmentRefusal {
    pub(super) fn status(&self) -> Status {
        let code = match self {
            Self::Request(_) | Self::Csr(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Token | Self::Source | Self::TokenRevoked | Self::Expired | Self::NoCertificate => {
                StatusCode::UNAUTHORIZED
            }
            Self::OtherKey | Self::Used | Self::KeyBound => StatusCode::CONFLICT,
            Self::Replicas => StatusCode::TOO_MANY_REQUESTS,
            Self::Rejected | Self::Revoked | Self::CertificateExpired | Self::Kind | Self::NotByToken => {
                StatusCode::FORBIDDEN
            }
        };
        match self {
            Self::Source => Status::new(code, TOKEN),
            Self::Replicas => Status::new(code, self.to_string()).retry_after(60),
            told => Status::new(code, told.to_string()),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EnrolmentOutcome {
    /// A token was spent and a certificate issued.
    Enrolled,
    /// A token was spent, and its key waits for approval. The same key is answered so again and again, of which only
    /// the first time is on record.
    Waiting,
    /// The same key asked again and got the same certificate.
    Repeated,
    /// A certificate was renewed.
    Renewed,
    /// Refused.
    Refused(EnrolmentRefusal),
    /// It could not be done now (store or key store); the other side will try again.
    Failed(String),
}

/// One enrolment or renewal, as far as it went.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EnrolmentEvent {
    /// When.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: EnrolmentOutcome,
    /// The token presented; of a refused one, as claimed.
    pub token: Option<TokenId>,
    /// Who it is, once that is known.
    pub subject: Option<Subject>,
    /// Whose certificate it was asked for with, if not its own: another agent's of the same cluster.
    pub asked_by: Option<Subject>,
    /// The key to be certified, once it is known to be held.
    pub key: Option<KeyId>,
    /// Address of the other side: the request's extension of type [`IpAddr`].
    pub source: Option<IpAddr>,
}

/// Hears of every enrolment and renewal, granted or refused.
#[async_trait]
pub trait EnrolmentAudit: Send + Sync + fmt::Debug {
    /// Puts it on record, and returns when it is there: the other side is answered after that.
    ///
    /// Anybody can be refused as often as they like. Of events without a [subject](EnrolmentEvent::subject), which no
    /// token and no certificate stands behind, an implementation may leave out as many as it likes.
    ///
    /// # Errors
    /// It cannot be recorded now. Nothing is handed out then; the same key may ask again.
    async fn record(&self, event: &EnrolmentEvent) -> Result<(), StoreError>;
}
