//! Certificates and requests in DER, signed by a key that may be elsewhere.

use std::{cell::RefCell, fmt};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, Issuer, PublicKeyData, SignatureAlgorithm,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::key::{KeyError, PublicKey, Signer, SoftwareKey};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the certificate cannot be encoded")]
    Encoding(#[from] rcgen::Error),
    #[error("the key store gave a signature that is not by the key it names; check the key store")]
    WrongSignature,
}

/// Makes a certificate for `subject` by `issuer` (none: self-signed), which `signer` holds the key of.
///
/// The encoder wants its signature at once while a signer takes its time. So it runs twice: first to learn what is to
/// be signed, then, with the same parameters, to put the signature in.
pub(crate) async fn certificate(
    params: &CertificateParams,
    subject: &PublicKey,
    issuer: Option<&CertificateDer<'_>>,
    signer: &dyn Signer,
) -> Result<CertificateDer<'static>, CertifyError> {
    let message = {
        let rehearsal = Prompted::new(signer.public_key(), None)?;
        encode(params, subject, issuer, &rehearsal)?;
        rehearsal.message.into_inner()
    };
    let signature = signer.sign(&message).await?;
    if !signer.public_key().is_signed(&message, &signature) {
        return Err(CertifyError::WrongSignature);
    }
    let prompted = Prompted::new(signer.public_key(), Some(signature))?;
    let certificate = encode(params, subject, issuer, &prompted)?;
    match *prompted.message.borrow() == message {
        true => Ok(certificate),
        false => Err(CertifyError::WrongSignature),
    }
}

fn encode(
    params: &CertificateParams,
    subject: &PublicKey,
    issuer: Option<&CertificateDer<'_>>,
    key: &Prompted,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let certificate = match issuer {
        Some(issuer) => {
            let subject = SubjectPublicKeyInfo::from_der(subject.der())?;
            params.signed_by(&subject, &Issuer::from_ca_cert_der(issuer, key)?)?
        }
        None => params.self_signed(key)?,
    };
    Ok(certificate.into())
}

/// Makes a CSR that asks for what `params` say, as [`certificate`] does.
pub(crate) async fn authority_request(
    params: &CertificateParams,
    signer: &dyn Signer,
) -> Result<Vec<u8>, CertifyError> {
    let message = {
        let rehearsal = Prompted::new(signer.public_key(), None)?;
        params.serialize_request(&rehearsal)?;
        rehearsal.message.into_inner()
    };
    let signature = signer.sign(&message).await?;
    if !signer.public_key().is_signed(&message, &signature) {
        return Err(CertifyError::WrongSignature);
    }
    let prompted = Prompted::new(signer.public_key(), Some(signature))?;
    Ok(params.serialize_request(&prompted)?.der().to_vec())
}

/// Makes a list of revoked certificates by `issuer`, which `signer` holds the key of; in two runs as well.
pub(crate) async fn crl(
    params: &CertificateRevocationListParams,
    issuer: &CertificateDer<'_>,
    signer: &dyn Signer,
) -> Result<CertificateRevocationListDer<'static>, CertifyError> {
    let message = {
        let rehearsal = Prompted::new(signer.public_key(), None)?;
        params.signed_by(&Issuer::from_ca_cert_der(issuer, &rehearsal)?)?;
        rehearsal.message.into_inner()
    };
    let signature = signer.sign(&message).await?;
    if !signer.public_key().is_signed(&message, &signature) {
        return Err(CertifyError::WrongSignature);
    }
    let prompted = Prompted::new(signer.public_key(), Some(signature))?;
    let list = params.signed_by(&Issuer::from_ca_cert_der(issuer, &prompted)?)?;
    match *prompted.message.borrow() == message {
        true => Ok(list.into()),
        false => Err(CertifyError::WrongSignature),
    }
}

/// Makes a CSR without names.
pub(crate) fn request(key: &SoftwareKey) -> Result<Vec<u8>, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let public = SubjectPublicKeyInfo::from_der(key.public().der());
    let made = public.and_then(|public| params.serialize_request(&Held { key, public }));
    Ok(made.map_err(|error| KeyError::Unavailable(error.into()))?.der().to_vec())
}

/// Notes what it is asked to sign and gives the signature it was made with.
struct Prompted {
    public: SubjectPublicKeyInfo,
    signature: Option<Vec<u8>>,
    message: RefCell<Vec<u8>>,
}

impl Prompted {
    fn new(public: &PublicKey, signature: Option<Vec<u8>>) -> Result<Self, rcgen::Error> {
        let public = SubjectPublicKeyInfo::from_der(public.der())?;
        Ok(Self { public, signature, message: RefCell::default() })
    }
}

impl PublicKeyData for Prompted {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Prompted {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.message.replace(message.to_vec());
        Ok(self.signature.clone().unwrap_or_default())
    }
}

/// Signs at once.
struct Held<'a> {
    key: &'a SoftwareKey,
    public: SubjectPublicKeyInfo,
}

impl PublicKeyData for Held<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Held<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign_now(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl fmt::Debug for Prompted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompted").finish_non_exhaustive()
    }
}
