//! A CSR gives its public key and the proof that the sender holds the private half; its names are not even read.

use rustls_pki_types::{CertificateSigningRequestDer, SignatureVerificationAlgorithm, pem::PemObject as _};
use x509_cert::der::{
    Decode as _, Encode as _, Reader as _, SliceReader,
    asn1::{AnyRef, BitStringRef},
};
use x509_cert::request::CertReqInfo;

use crate::{
    key::{PublicKey, WeakKey},
    x509,
};

/// Larger than any request with an RSA key of 8192 bits.
const MAX_BYTES: usize = 16 * 1024;

/// The signature algorithms that a request may be signed with; SHA-1 and MD5 are not among them.
static ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 8] = [
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
];

/// What is left of a certification request (RFC 2986) once it has been checked: a strong key, proved to be held.
#[derive(Clone, Debug)]
pub struct ValidCsr {
    key: PublicKey,
}

/// Why a CSR is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CsrError {
    /// Not a request, or cut short.
    #[error("not a certificate signing request in PEM or DER form (RFC 2986)")]
    Unreadable,
    /// The key is refused.
    #[error("the key of the certificate signing request is refused: {0}")]
    Key(WeakKey),
    /// An algorithm that proves nothing.
    #[error("the certificate signing request is signed with an algorithm that is not accepted; use SHA-256 or better")]
    Algorithm,
    /// Whoever sent it does not hold the key.
    #[error("the signature of the certificate signing request is not by its own key; make the request again")]
    Signature,
}

impl ValidCsr {
    /// Checks a request in DER.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_BYTES {
            return Err(CsrError::Unreadable);
        }
        let parts = parts(der).map_err(|_| CsrError::Unreadable)?;
        let key = PublicKey::from_spki(&parts.spki).map_err(|weak| match weak {
            WeakKey::Unreadable => CsrError::Unreadable,
            weak => CsrError::Key(weak),
        })?;
        let algorithm = ALGORITHMS
            .iter()
            .find(|known| key.is_for(**known) && known.signature_alg_id().as_ref() == parts.algorithm)
            .ok_or(CsrError::Algorithm)?;
        let proof = algorithm.verify_signature(key.bits(), &parts.signed, parts.signature);
        proof.map_err(|_| CsrError::Signature)?;
        Ok(Self { key })
    }

    /// Checks the one request of a PEM text.
    ///
    /// # Errors
    /// As [`Self::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        if pem.len() > 2 * MAX_BYTES {
            return Err(CsrError::Unreadable);
        }
        let mut requests = CertificateSigningRequestDer::pem_slice_iter(pem);
        match (requests.next(), requests.next()) {
            (Some(Ok(request)), None) => Self::from_der(&request),
            _ => Err(CsrError::Unreadable),
        }
    }

    /// The key to certify.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

struct Parts<'a> {
    signed: Vec<u8>,
    spki: Vec<u8>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

fn parts(der: &[u8]) -> x509_cert::der::Result<Parts<'_>> {
    let mut outer = SliceReader::new(der)?;
    let mut reader = SliceReader::new(x509::sequence(&mut outer)?)?;
    outer.finish()?;
    // DER has one encoding, so that what is encoded again is what was signed; a request in any other is refused here.
    let signed = AnyRef::decode(&mut reader)?.to_der()?;
    let info = CertReqInfo::from_der(&signed)?;
    let algorithm = x509::sequence(&mut reader)?;
    let signature = BitStringRef::decode(&mut reader)?;
    reader.finish()?;
    let signature = signature.as_bytes().unwrap_or_default();
    Ok(Parts { signed, spki: info.public_key.to_der()?, algorithm, signature })
}
