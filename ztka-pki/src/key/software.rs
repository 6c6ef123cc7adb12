//! A private key in this process's memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{SignatureScheme, crypto::CryptoProvider, sign::SigningKey};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::{Zeroize as _, Zeroizing};

use super::{KeyError, PublicKey, Signer};
use crate::certify;

/// How each kind of key signs; see [`PublicKey::is_signed`].
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// A private key held in memory; our copy of its bytes is wiped when it is dropped.
pub struct SoftwareKey {
    der: Zeroizing<Vec<u8>>,
    label: &'static str,
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl SoftwareKey {
    /// Makes an ECDSA P-256 key.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the system has no randomness or `provider` does not know the curve.
    pub fn generate(provider: &CryptoProvider) -> Result<Self, KeyError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| KeyError::Unusable("no key could be made: the system gives no randomness"))?;
        Self::from_der(&PrivateKeyDer::Pkcs8(made.as_ref().into()), provider)
    }

    /// Reads a key in PKCS#8, SEC1 or PKCS#1 form.
    ///
    /// # Errors
    /// [`KeyError::Unusable`], [`KeyError::Weak`]
    pub fn from_der(der: &PrivateKeyDer<'_>, provider: &CryptoProvider) -> Result<Self, KeyError> {
        let label = match der {
            PrivateKeyDer::Pkcs8(_) => "PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            _ => return Err(KeyError::Unusable("private keys have to be in PKCS#8 form")),
        };
        let signing = provider.key_provider.load_private_key(der.clone_key());
        let signing = signing.map_err(|_| KeyError::Unusable("not a private key of a known kind; use PKCS#8"))?;
        let public = signing.public_key().ok_or(KeyError::Unusable("the key does not tell its public half"))?;
        let public = PublicKey::from_spki(public.as_ref())?;
        Ok(Self { der: Zeroizing::new(der.secret_der().to_vec()), label, signing, public })
    }

    /// Reads the one private key of a PEM text; certificates beside it are passed over.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if there is none or more than one; [`KeyError::Weak`]
    pub fn from_pem(pem: &[u8], provider: &CryptoProvider) -> Result<Self, KeyError> {
        let mut keys = PrivateKeyDer::pem_slice_iter(pem);
        match (keys.next(), keys.next()) {
            (Some(Ok(mut key)), None) => {
                let read = Self::from_der(&key, provider);
                key.zeroize();
                read
            }
            (None, _) => Err(KeyError::Unusable("no private key (a PRIVATE KEY block of PEM) is in it")),
            (Some(Ok(_)), Some(Ok(_))) => Err(KeyError::Unusable("two private keys are in it; leave one")),
            _ => Err(KeyError::Unusable("it is not well-formed PEM")),
        }
    }

    /// The key as PEM, to be kept secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        // A fixed label and bytes always encode.
        Zeroizing::new(encode_string(self.label, LineEnding::LF, &self.der).unwrap_or_default())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A CSR for this key (RFC 2986, DER) that asks for no name: the issuer decides it.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] if signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        certify::request(self)
    }

    /// As [`Self::csr`], in PEM.
    ///
    /// # Errors
    /// As [`Self::csr`].
    pub fn csr_pem(&self) -> Result<String, KeyError> {
        let der = self.csr()?;
        encode_string("CERTIFICATE REQUEST", LineEnding::LF, &der).map_err(|error| KeyError::Unavailable(error.into()))
    }

    pub(crate) fn signing(&self) -> Arc<dyn SigningKey> {
        self.signing.clone()
    }

    pub(crate) fn sign_now(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        sign(&*self.signing, message)
    }
}

/// Signs with whatever the provider holds; its keys are in memory, so this takes no time.
pub(crate) fn sign(key: &dyn SigningKey, message: &[u8]) -> Result<Vec<u8>, KeyError> {
    let signer = key.choose_scheme(&SCHEMES);
    let signer = signer.ok_or(KeyError::Unusable("the key signs in no way that is known here"))?;
    signer.sign(message).map_err(|error| KeyError::Unavailable(error.into()))
}

#[async_trait]
impl Signer for SoftwareKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_now(message)
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey").field("public", &self.public).finish_non_exhaustive()
    }
}
