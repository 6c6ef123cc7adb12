//! A certificate chain with its key, and the place that TLS configurations read it from.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use ztka_core::SpiffeId;

use crate::{
    authority::SKEW,
    key::{KeyError, SoftwareKey, sign},
    trust::chain_id,
    x509,
    x509::Facts,
};

/// A chain (leaf first) with the private key of its leaf.
#[derive(Clone)]
pub struct Credential {
    certified: Arc<CertifiedKey>,
    facts: Arc<Facts>,
}

/// Why chain and key make no credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// No certificates, or not certificates.
    #[error("the certificate chain is not one or more certificates in PEM")]
    Unreadable,
    /// They do not belong together.
    #[error("the private key is not the certificate's; put the matching pair in place, or enrol again")]
    KeyMismatch,
    /// They are all there, in another order.
    #[error("the certificates are not in order; put the key's own first, then its issuer, and so on upwards")]
    Order,
}

impl Credential {
    /// Puts chain and key together. The chain is not verified, that is for whoever it is shown to; but it has to be in
    /// order (RFC 8446 §4.4.2).
    ///
    /// # Errors
    /// [`CredentialError`]
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &SoftwareKey) -> Result<Self, CredentialError> {
        let read: Option<Vec<Facts>> = chain.iter().map(Facts::read).collect();
        let read = read.ok_or(CredentialError::Unreadable)?;
        let (facts, above) = read.split_first().ok_or(CredentialError::Unreadable)?;
        if facts.spki != key.public().der() {
            let elsewhere = above.iter().any(|other| other.spki == key.public().der());
            return Err(if elsewhere { CredentialError::Order } else { CredentialError::KeyMismatch });
        }
        // Each issues one before it. Not always the one just before: a root may be there with its cross-certificate.
        let mut awaited = vec![&facts.issuer];
        for authority in above {
            if !awaited.contains(&&authority.subject) {
                return Err(CredentialError::Order);
            }
            awaited.push(&authority.issuer);
        }
        let facts = facts.clone();
        let certified = Arc::new(CertifiedKey::new(chain, key.signing()));
        Ok(Self { certified, facts: Arc::new(facts) })
    }

    /// As [`Self::new`], with the chain in PEM.
    ///
    /// # Errors
    /// [`CredentialError`]
    pub fn from_pem(chain: &[u8], key: &SoftwareKey) -> Result<Self, CredentialError> {
        Self::new(x509::from_pem(chain).ok_or(CredentialError::Unreadable)?, key)
    }

    /// Signs `message` with the private key; verified by [`PublicKey::is_signed`](crate::PublicKey::is_signed).
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        sign(&*self.certified.key, message)
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Names what is above the leaf, as [`TrustBundle::server_chain_id`](crate::TrustBundle::server_chain_id) does.
    pub fn above_id(&self) -> String {
        chain_id(self.chain().iter().skip(1).cloned())
    }

    /// The SPIFFE id in the leaf, unverified: it is our own.
    pub fn id(&self) -> Option<SpiffeId> {
        match self.facts.uris.as_slice() {
            [uri] => uri.parse().ok(),
            _ => None,
        }
    }

    /// Serial number of the leaf in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    /// When the leaf was issued, as far as can be told: certificates of ours begin five minutes earlier.
    pub fn issued(&self) -> Timestamp {
        let (from, until) = (self.facts.not_before, self.facts.not_after);
        from.checked_add(SKEW).unwrap_or(until).min(until)
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("uris", &self.facts.uris)
            .field("dns", &self.facts.dns)
            .field("serial", &self.facts.serial)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

/// The credential in use. TLS configurations read it at every handshake and rotation swaps it. A handle: clones share
/// what is set.
#[derive(Clone, Debug)]
pub struct CredentialSource(Arc<watch::Sender<Arc<Credential>>>);

impl CredentialSource {
    /// Begins with `credential`.
    pub fn new(credential: Credential) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(credential))))
    }

    /// The credential in use.
    pub fn current(&self) -> Arc<Credential> {
        self.0.borrow().clone()
    }

    /// Uses `credential` for all handshakes from now on; connections that are up stay as they are.
    pub fn rotate(&self, credential: Credential) {
        self.0.send_replace(Arc::new(credential));
    }

    /// Resolves at the next rotation after the call. To miss none between calls, keep [`Self::changes`].
    pub async fn changed(&self) {
        self.changes().changed().await;
    }

    /// Wakes at every rotation from now on.
    pub fn changes(&self) -> CredentialChanges {
        CredentialChanges(self.0.subscribe())
    }
}

/// See [`CredentialSource::changes`].
#[derive(Debug)]
pub struct CredentialChanges(watch::Receiver<Arc<Credential>>);

impl CredentialChanges {
    /// Resolves at the next rotation since this was made or last resolved; never once the source is gone.
    ///
    /// Cancel safe: a rotation is not lost when the future is dropped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl ResolvesServerCert for CredentialSource {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified.clone())
    }
}

impl ResolvesClientCert for CredentialSource {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current();
        // A key that the server cannot verify is not offered (RFC 8446 §4.4.2.3).
        current.certified.key.choose_scheme(schemes).is_some().then(|| current.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
