//! A CSR gives its public key and the proof that the sender holds the private half. Its subject is not even read; one
//! that asks for what nobody gets by asking, names or an authority of its own, is refused as a whole.

use rustls_pki_types::{CertificateSigningRequestDer, SignatureVerificationAlgorithm, pem::PemObject as _};
use x509_cert::{
    der::{
        self, Decode as _, Encode as _, ErrorKind, Reader as _, SliceReader,
        asn1::{AnyRef, BitStringRef, ObjectIdentifier},
        oid::{AssociatedOid as _, db::rfc5912::ID_EXTENSION_REQ},
    },
    ext::{
        Extensions,
        pkix::{BasicConstraints, KeyUsage, SubjectAltName},
    },
    request::CertReqInfo,
};

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

/// Microsoft's own attribute for the same (`szOID_RSA_certExtensions`), which some tools write.
const CERT_EXTENSIONS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14");

/// What is left of a certification request (RFC 2986) once it has been checked: a strong key, proved to be held.
#[derive(Clone, Debug)]
pub struct ValidCsr {
    key: PublicKey,
}

/// Why a CSR is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Not a request.
    #[error("not a certificate signing request in PEM or DER form (RFC 2986)")]
    Unreadable,
    /// Over 16 KiB.
    #[error("the certificate signing request is larger than 16 KiB; leave its extensions out: only its key is used")]
    TooLarge,
    /// Cut short.
    #[error("the certificate signing request ends early; send the whole of it")]
    Truncated,
    /// BER, or DER with something that DER has one other form for (X.690 §10).
    #[error("the certificate signing request is not in DER, the canonical form; make it with another tool")]
    NotCanonical,
    /// The key is refused.
    #[error("the key of the certificate signing request is refused: {0}")]
    Key(WeakKey),
    /// An algorithm that proves nothing.
    #[error("the certificate signing request is signed with an algorithm that is not accepted; use SHA-256 or better")]
    Algorithm,
    /// Whoever sent it does not hold the key.
    #[error("the signature of the certificate signing request is not by its own key; make the request again")]
    Signature,
    /// It asks to be a CA.
    #[error(
        "the certificate signing request asks for a certificate authority; ask without basicConstraints and keyCertSign"
    )]
    Authority,
    /// It asks for names.
    #[error("the certificate signing request asks for names, which the issuer gives; ask without subjectAltName")]
    Names,
}

impl ValidCsr {
    /// Checks a request in DER.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let (csr, asks) = Self::proved(der)?;
        asks.map(|()| csr)
    }

    /// The key of the one request of a PEM text, whatever it asks for: for who makes authorities.
    pub(crate) fn authority_key(pem: &[u8]) -> Result<PublicKey, CsrError> {
        Ok(Self::proved(&only(pem)?)?.0.key)
    }

    /// Holds the key, and what it asks for.
    fn proved(der: &[u8]) -> Result<(Self, Result<(), CsrError>), CsrError> {
        if der.len() > MAX_BYTES {
            return Err(CsrError::TooLarge);
        }
        let parts = parts(der).map_err(unreadable)?;
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
        Ok((Self { key }, parts.asks))
    }

    /// Checks the one request of a PEM text.
    ///
    /// # Errors
    /// As [`Self::from_der`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        Self::from_der(&only(pem)?)
    }

    /// The key to certify.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// The one request of a PEM text.
fn only(pem: &[u8]) -> Result<CertificateSigningRequestDer<'static>, CsrError> {
    if pem.len() > 2 * MAX_BYTES {
        return Err(CsrError::TooLarge);
    }
    let mut requests = CertificateSigningRequestDer::pem_slice_iter(pem);
    match (requests.next(), requests.next()) {
        (Some(Ok(request)), None) => Ok(request),
        _ => Err(CsrError::Unreadable),
    }
}

struct Parts<'a> {
    signed: Vec<u8>,
    spki: Vec<u8>,
    algorithm: &'a [u8],
    signature: &'a [u8],
    asks: Result<(), CsrError>,
}

fn unreadable(error: der::Error) -> CsrError {
    match error.kind() {
        ErrorKind::Incomplete { .. } => CsrError::Truncated,
        ErrorKind::IndefiniteLength
        | ErrorKind::Length { .. }
        | ErrorKind::Noncanonical { .. }
        | ErrorKind::Overlength
        | ErrorKind::SetOrdering => CsrError::NotCanonical,
        _ => CsrError::Unreadable,
    }
}

fn parts(der: &[u8]) -> der::Result<Parts<'_>> {
    let mut outer = SliceReader::new(der)?;
    let mut reader = SliceReader::new(x509::sequence(&mut outer)?)?;
    outer.finish()?;
    // DER has one encoding, so that what is encoded again is what was signed; a request in any other is refused here.
    let signed = AnyRef::decode(&mut reader)?.to_der()?;
    let info = CertReqInfo::from_der(&signed)?;
    if info.to_der()? != signed {
        return Err(ErrorKind::SetOrdering.into());
    }
    let algorithm = x509::sequence(&mut reader)?;
    let signature = BitStringRef::decode(&mut reader)?;
    reader.finish()?;
    let signature = signature.as_bytes().unwrap_or_default();
    let asks = asks(&info)?;
    Ok(Parts { signed, spki: info.public_key.to_der()?, algorithm, signature, asks })
}

/// Looks for extensions that nobody gets by asking (RFC 2985 §5.4.2); usages and unknown ones are passed over.
fn asks(info: &CertReqInfo) -> der::Result<Result<(), CsrError>> {
    let mut asks = Ok(());
    let requests = info.attributes.iter().filter(|one| one.oid == ID_EXTENSION_REQ || one.oid == CERT_EXTENSIONS);
    for value in requests.flat_map(|request| request.values.iter()) {
        for extension in Extensions::from_der(&value.to_der()?)? {
            let content = extension.extn_value.as_bytes();
            let authority = match extension.extn_id {
                BasicConstraints::OID => BasicConstraints::from_der(content)?.ca,
                KeyUsage::OID => KeyUsage::from_der(content)?.key_cert_sign(),
                _ => false,
            };
            if authority {
                return Ok(Err(CsrError::Authority));
            }
            if extension.extn_id == SubjectAltName::OID {
                asks = Err(CsrError::Names);
            }
        }
    }
    Ok(asks)
}
