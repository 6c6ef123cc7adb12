//! The side that wants a certificate.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use ztka_core::{Clock, SignedDocument, SpiffeId, Subject, Verified};

use super::{
    exchange::{Connect, Exchange, ExchangeError, HttpsExchange},
    keep::{CredentialStore, CredentialStoreError, StoredCredential},
    token::EnrolmentToken,
    wire::{ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, WaitingAnswer},
};
use crate::{
    Purpose,
    credential::Credential,
    key::{KeyError, SoftwareKey},
    peer::PeerVerifier,
    tls,
    trust::TrustBundle,
};

/// What came of an enrolment or a renewal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Enrolled {
    /// Chain and key.
    pub credential: Credential,
    /// The name that the issuer has given.
    pub id: SpiffeId,
    /// Whom to trust from now on.
    pub trust: TrustBundle,
    /// The `trust` document, once the controller has one.
    pub document: Option<Verified<SignedDocument>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The controller says no; asking again does not help.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The controller's words.
        message: String,
    },
    /// The controller cannot do it now; ask again.
    #[error("the controller cannot issue a certificate now: {0}")]
    Unavailable(String),
    /// An administrator has to approve the key; ask again with it after a while.
    #[error("the enrolment waits for an administrator to approve the key {key}")]
    Waiting {
        /// SHA-256 of the key's SubjectPublicKeyInfo in hexadecimal, for the administrator to compare.
        key: String,
        /// When to ask again.
        again: Duration,
    },
    /// The controller cannot be reached; ask again.
    #[error("the controller cannot be reached")]
    Unreachable(#[from] ExchangeError),
    /// The answer is not what a controller answers.
    #[error("the controller's answer cannot be used: {0}; check that versions fit")]
    Answer(&'static str),
    /// The key cannot be made or used.
    #[error("the private key cannot be used")]
    Key(#[from] KeyError),
    /// The certificate cannot be stored.
    #[error("the credential cannot be stored")]
    Store(#[from] CredentialStoreError),
    /// The TLS configuration cannot be made.
    #[error("TLS cannot be set up with this crypto provider")]
    Tls(#[from] rustls::Error),
}

impl EnrolError {
    /// True if asking again with the same token or certificate cannot succeed.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Enrols with a one-time token.
#[derive(Debug)]
pub struct EnrolmentClient {
    token: EnrolmentToken,
    exchange: Arc<dyn Exchange>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

impl EnrolmentClient {
    /// Sends `token` by `exchange`, which has to verify the server by the token's pin.
    pub fn new(
        token: EnrolmentToken,
        exchange: Arc<dyn Exchange>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { token, exchange, provider, clock }
    }

    /// Sends `token` by TLS to the server `server_name` (`enroll.<domain>`), verified by the token's pin.
    ///
    /// # Errors
    /// [`EnrolError::Tls`]
    pub fn over_tls(
        token: EnrolmentToken,
        connect: Arc<dyn Connect>,
        server_name: ServerName<'static>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EnrolError> {
        let tls = tls::pinned(provider.clone(), token.pin(), clock.clone(), &[b"http/1.1"])?;
        let exchange = Arc::new(HttpsExchange::new(connect, tls, server_name));
        Ok(Self::new(token, exchange, provider, clock))
    }

    /// Asks for a certificate for `key`. May be repeated with the same key until the certificate has been used.
    ///
    /// # Errors
    /// [`EnrolError`]; see [`EnrolError::is_final`].
    pub async fn enrol(&self, key: &SoftwareKey) -> Result<Enrolled, EnrolError> {
        let request = EnrolmentRequest { token: self.token.to_text().to_string(), csr: key.csr_pem()? };
        let answer = ask(&*self.exchange, ENROL_PATH, &request).await.map_err(|error| match error {
            // What an administrator is to compare is what this side knows itself.
            EnrolError::Waiting { again, .. } => EnrolError::Waiting { key: key.public().id().0.clone(), again },
            other => other,
        })?;
        accept(answer, key, &self.provider, &*self.clock, None)
    }

    /// What the token has given to somebody who shares the store, since this was begun.
    async fn kept(&self, store: &dyn CredentialStore) -> Result<Option<Enrolled>, EnrolError> {
        let Some(stored) = store.load().await?.filter(|stored| stored.token.as_ref() == Some(self.token.id())) else {
            return Ok(None);
        };
        let credential = stored.credential(&self.provider)?;
        let id = credential.id().filter(|_| credential.not_after() > self.clock.now());
        Ok(id.map(|id| Enrolled { credential, id, trust: stored.trust, document: None }))
    }

    /// Enrols and stores what comes of it; what the token has given already is not asked for again while it is good. The key is stored before it is sent, so that a process that ends before the
    /// answer arrives asks for the same again when it is started anew.
    ///
    /// # Errors
    /// [`EnrolError`]; see [`EnrolError::is_final`].
    pub async fn enrol_into(&self, store: &dyn CredentialStore) -> Result<Enrolled, EnrolError> {
        let token = self.token.id();
        let pem = match store.pending_key(token).await? {
            Some(pem) => pem,
            None => store.keep_pending_key(token, SoftwareKey::generate(&self.provider)?.to_pem()).await?,
        };
        let key = SoftwareKey::from_pem(pem.as_bytes(), &self.provider)?;
        if let Some(kept) = self.kept(store).await? {
            return Ok(kept);
        }
        let enrolled = self.enrol(&key).await?;
        let stored = StoredCredential::of(&enrolled.credential, &key, enrolled.trust.clone());
        store.save(&StoredCredential { token: Some(token.clone()), ..stored }).await?;
        Ok(enrolled)
    }
}

/// Whatever a controller says, it is asked again within this.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct StatusMessage {
    message: String,
}

/// Posts `request` and reads the answer.
pub(super) async fn ask(
    exchange: &dyn Exchange,
    path: &str,
    request: &(impl Serialize + Sync),
) -> Result<EnrolmentAnswer, EnrolError> {
    let body = serde_json::to_vec(request).map_err(|_| EnrolError::Answer("the request cannot be written"))?;
    let (status, body) = exchange.post(path, Bytes::from(body)).await?;
    if status == StatusCode::ACCEPTED {
        let waiting: WaitingAnswer =
            serde_json::from_slice(&body).map_err(|_| EnrolError::Answer("it is not the JSON expected"))?;
        let again = Duration::from_secs(waiting.retry_after_seconds.into());
        return Err(EnrolError::Waiting { key: waiting.key.0, again: again.clamp(SOONEST, LATEST) });
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| EnrolError::Answer("it is not the JSON expected"));
    }
    let message = serde_json::from_slice::<StatusMessage>(&body).map(|status| status.message);
    let message = message.unwrap_or_else(|_| format!("HTTP status {status}"));
    Err(if is_a_no(status) { EnrolError::Refused { status, message } } else { EnrolError::Unavailable(message) })
}

/// What the services themselves refuse with. All else is said by something in between, or by a controller that is slow
/// or of another version: whoever took that for a no would give up a certificate that is good.
fn is_a_no(status: StatusCode) -> bool {
    [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::CONFLICT,
        StatusCode::PAYLOAD_TOO_LARGE,
    ]
    .contains(&status)
}

/// Checks that the answer is a certificate for our key, by who is to be trusted from now on, and (for a renewal) of the
/// same name.
pub(super) fn accept(
    answer: EnrolmentAnswer,
    key: &SoftwareKey,
    provider: &Arc<CryptoProvider>,
    clock: &dyn Clock,
    expected: Option<&SpiffeId>,
) -> Result<Enrolled, EnrolError> {
    let credential = Credential::from_pem(answer.chain.as_bytes(), key);
    let credential = credential.map_err(|_| EnrolError::Answer("the certificate is not for the key that was sent"))?;
    let id: SpiffeId = answer.id.parse().map_err(|_| EnrolError::Answer("the name is not one of ours"))?;
    if expected.is_some_and(|expected| *expected != id) {
        return Err(EnrolError::Answer("the renewed certificate has another name"));
    }
    let purpose = match &id.subject {
        Subject::Agent { .. } => Purpose::Agents,
        Subject::User { .. } => Purpose::Users,
        Subject::Proxy(_) => Purpose::Proxies,
        Subject::Controller(_) => Purpose::Controllers,
    };
    let now = clock.now();
    let verifier = PeerVerifier::new(&answer.trust, purpose, provider.clone());
    let verifier = verifier.map_err(|_| EnrolError::Answer("an anchor in it is not a certificate"))?;
    let peer = verifier.verify(credential.chain(), now);
    let peer = peer.map_err(|_| EnrolError::Answer("the certificate is not valid here and now; check the clocks"))?;
    if peer.id != id {
        return Err(EnrolError::Answer("the certificate has another name than the answer"));
    }
    let document = answer.document.map(|wire| {
        let document = SignedDocument::from_wire(wire.get().as_bytes());
        document.and_then(|document| document.accept(&answer.trust, None, now))
    });
    let document =
        document.transpose().map_err(|_| EnrolError::Answer("its trust document is not signed or not valid"))?;
    Ok(Enrolled { credential, id, trust: answer.trust, document })
}
