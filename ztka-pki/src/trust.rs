//! What verifiers trust: the body of the `trust` document.
mod revocations;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ztka_core::{KeyId, SignatureCheck};

use crate::{
    Purpose,
    key::{PublicKey, hex, key_id},
    x509,
};

pub use self::{
    revocations::Revocations,
    source::{TrustChanges, TrustSource},
};

/// A certificate in DER; base64 on the wire.
#[derive(Clone, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Der(Vec<u8>);

impl Der {
    /// The certificate.
    pub fn certificate(&self) -> CertificateDer<'_> {
        CertificateDer::from_slice(&self.0)
    }
}

impl From<CertificateDer<'_>> for Der {
    fn from(certificate: CertificateDer<'_>) -> Self {
        Self(certificate.to_vec())
    }
}

/// A text that is not base64.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a certificate: DER in base64 is expected")]
pub struct InvalidDer;

impl TryFrom<String> for Der {
    type Error = InvalidDer;

    fn try_from(text: String) -> Result<Self, InvalidDer> {
        BASE64_STANDARD.decode(text).map(Self).map_err(|_| InvalidDer)
    }
}

impl From<Der> for String {
    fn from(der: Der) -> Self {
        BASE64_STANDARD.encode(der.0)
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Der({} bytes)", self.0.len())
    }
}

/// An intermediate that a verifier of its purpose anchors at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Anchor {
    /// The intermediate's certificate.
    pub certificate: Der,
    /// The beginning of every SPIFFE id that may be issued below it; none where names are DNS names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_prefix: Option<String>,
}

/// A key that documents are signed with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SigningKey {
    /// Its name.
    pub id: KeyId,
    /// Its SubjectPublicKeyInfo.
    pub key: Der,
}

impl SigningKey {
    pub(crate) fn of_spki(spki: &[u8]) -> Self {
        Self { id: key_id(spki), key: Der(spki.to_vec()) }
    }

    pub(crate) fn of(key: &PublicKey) -> Self {
        Self { id: key.id().clone(), key: Der(key.der().to_vec()) }
    }
}

/// Body of the `trust` document: anchors by purpose, and the keys that documents are signed with.
///
/// Lists, so that old and new stand side by side while an authority is rotated.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TrustBundle {
    /// Trust domain that every SPIFFE id must be of.
    pub trust_domain: String,
    /// Root certificates: for kubeconfigs, never anchors of a verifier of ours.
    pub roots: Vec<Der>,
    /// Intermediates by purpose.
    pub anchors: BTreeMap<Purpose, Vec<Anchor>>,
    /// Keys that documents are signed with.
    pub signing_keys: Vec<SigningKey>,
    /// Keys of authorities, at any level, that are believed and sign no more: who has a certificate by them renews it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retiring: BTreeSet<KeyId>,
    /// Keys of authorities below an anchor that are not believed any more; connections that are up go on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retired: BTreeSet<KeyId>,
    /// Keys of authorities, at any level, that are not believed any more, and whose connections end.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked: BTreeSet<KeyId>,
    /// What servers present above their own certificate, their issuer first. One that presents something else asks for a
    /// new certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_chain: Vec<Der>,
}

impl TrustBundle {
    /// The roots as PEM: `certificate-authority-data` of a kubeconfig, before base64.
    pub fn roots_pem(&self) -> String {
        let roots: Vec<_> = self.roots.iter().map(Der::certificate).collect();
        x509::to_pem(&roots)
    }

    /// Names what servers present above their own certificate: SHA-256 in hexadecimal.
    pub fn server_chain_id(&self) -> String {
        chain_id(self.server_chain.iter().map(Der::certificate))
    }

    pub(crate) fn anchors(&self, purpose: Purpose) -> &[Anchor] {
        self.anchors.get(&purpose).map_or(&[], Vec::as_slice)
    }
}

/// Names the certificates above a leaf; none are named by the empty text.
pub(crate) fn chain_id<'a>(above: impl Iterator<Item = CertificateDer<'a>>) -> String {
    let mut hash = Sha256::new();
    let mut any = false;
    for certificate in above {
        any = true;
        // A certificate in DER says how long it is.
        hash.update(&certificate);
    }
    if any { hex(&hash.finalize()) } else { String::new() }
}

impl SignatureCheck for TrustBundle {
    fn is_signed(&self, key: &KeyId, message: &[u8], signature: &[u8]) -> bool {
        self.signing_keys.iter().filter(|trusted| trusted.id == *key).any(|trusted| {
            // The name is computed again: a bundle cannot give a key another one's name.
            PublicKey::from_spki(&trusted.key.0)
                .is_ok_and(|known| known.id() == key && known.is_signed(message, signature))
        })
    }
}
