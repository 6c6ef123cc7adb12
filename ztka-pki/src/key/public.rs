//! A public key that is strong enough to certify.

use std::{fmt, sync::Arc};

use rustls_pki_types::SignatureVerificationAlgorithm;
use sha2::{Digest as _, Sha256};
use x509_cert::der::{
    Decode as _, Reader as _, SliceReader,
    asn1::{BitStringRef, UintRef},
};
use ztka_core::KeyId;

use super::KeyKind;
use crate::x509;

/// Each kind of key with the one way in which its holder signs for us.
static KINDS: [&dyn SignatureVerificationAlgorithm; 4] = [
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
];

/// A SubjectPublicKeyInfo (RFC 5280 §4.1): P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits with an exponent of at
/// least 65537.
#[derive(Clone)]
pub struct PublicKey {
    der: Arc<[u8]>,
    id: KeyId,
    kind: &'static dyn SignatureVerificationAlgorithm,
    bits: Arc<[u8]>, // the subjectPublicKey
}

/// A key that is not certified, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakKey {
    /// Not DER, or something follows it.
    #[error("not a public key in DER form (SubjectPublicKeyInfo)")]
    Unreadable,
    /// Another algorithm or curve.
    #[error("keys of this kind are not accepted; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more")]
    Kind,
    /// RSA of the wrong size.
    #[error("RSA keys need 2048 to 8192 bits; make a longer one, or ECDSA P-256")]
    Size,
    /// RSA with a small or even exponent.
    #[error("RSA keys need an odd exponent of at least 65537; make a new key")]
    Exponent,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// The rule that the key breaks.
    pub fn from_spki(der: &[u8]) -> Result<Self, WeakKey> {
        let (algorithm, bits) = parts(der).ok_or(WeakKey::Unreadable)?;
        let kind = KINDS.iter().find(|kind| kind.public_key_alg_id().as_ref() == algorithm);
        let kind = *kind.ok_or(WeakKey::Kind)?;
        if kind.public_key_alg_id() == webpki::ring::RSA_PKCS1_2048_8192_SHA256.public_key_alg_id() {
            check_rsa(bits)?;
        }
        Ok(Self { der: der.into(), id: key_id(der), kind, bits: bits.into() })
    }

    /// SHA-256 of the DER form.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// What kind of key it is; `None` for RSA, which is certified but not made here.
    pub fn kind(&self) -> Option<KeyKind> {
        let kinds = [
            (KeyKind::P256, webpki::ring::ECDSA_P256_SHA256),
            (KeyKind::P384, webpki::ring::ECDSA_P384_SHA384),
            (KeyKind::Ed25519, webpki::ring::ED25519),
        ];
        kinds.into_iter().find_map(|(kind, algorithm)| self.is_for(algorithm).then_some(kind))
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// True if the private half made `signature` over `message`, in the form that [`Signer`](crate::Signer) gives.
    pub fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.kind.verify_signature(&self.bits, message, signature).is_ok()
    }

    /// The bare key bits.
    pub(crate) fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Of the same kind as what `algorithm` verifies.
    pub(crate) fn is_for(&self, algorithm: &dyn SignatureVerificationAlgorithm) -> bool {
        self.kind.public_key_alg_id() == algorithm.public_key_alg_id()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id.0).finish()
    }
}

/// The name of the key with this SubjectPublicKeyInfo.
pub(crate) fn key_id(spki: &[u8]) -> KeyId {
    KeyId(hex(&Sha256::digest(spki)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' + value - 10 });
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

/// A reader of the one SEQUENCE that `der` is.
fn inside(der: &[u8]) -> Option<SliceReader<'_>> {
    let mut reader = SliceReader::new(der).ok()?;
    let content = x509::sequence(&mut reader).ok()?;
    reader.finish().ok()?;
    SliceReader::new(content).ok()
}

/// Content of the AlgorithmIdentifier, and the key bits.
fn parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = inside(der)?;
    let algorithm = x509::sequence(&mut reader).ok()?;
    let bits = BitStringRef::decode(&mut reader).ok()?;
    reader.finish().ok()?;
    Some((algorithm, bits.as_bytes()?))
}

/// RSAPublicKey (RFC 8017 §A.1.1). The exponent rule is that of SP 800-56B and the baseline requirements.
fn check_rsa(bits: &[u8]) -> Result<(), WeakKey> {
    let parse = || {
        let mut reader = inside(bits)?;
        let modulus = UintRef::decode(&mut reader).ok()?.as_bytes();
        let exponent = UintRef::decode(&mut reader).ok()?.as_bytes();
        reader.finish().ok()?;
        Some((modulus, exponent))
    };
    let (modulus, exponent) = parse().ok_or(WeakKey::Unreadable)?;
    let leading = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&(modulus.len() * 8).saturating_sub(leading)) {
        return Err(WeakKey::Size);
    }
    let value = exponent.iter().try_fold(0_u64, |value, byte| {
        value.checked_mul(256).map(|value| value + u64::from(*byte)) // larger than 2^64: not seen in practice
    });
    match value {
        Some(value) if value >= 65_537 && value % 2 == 1 => Ok(()),
        _ => Err(WeakKey::Exponent),
    }
}
