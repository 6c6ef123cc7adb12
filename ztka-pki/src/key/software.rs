//! A private key in this process's memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm},
};
use rustls::{SignatureScheme, crypto::CryptoProvider, sign::SigningKey};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use x509_cert::der::pem::{self, LineEnding, encode_string};
use zeroize::{Zeroize as _, Zeroizing};

use super::{KeyError, KeyKind, Passphrase, PublicKey, Signer, blocking::blocking};
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
        Self::generate_of(KeyKind::P256, provider)
    }

    /// Makes a key of `kind`.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the system has no randomness or `provider` does not know the kind.
    pub fn generate_of(kind: KeyKind, provider: &CryptoProvider) -> Result<Self, KeyError> {
        let made = match kind {
            KeyKind::P256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            KeyKind::P384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
            KeyKind::Ed25519 => ed25519()?,
        };
        Self::from_der(&PrivateKeyDer::Pkcs8(made.as_slice().into()), provider)
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
    /// [`KeyError::Unusable`] if there is none or more than one; [`KeyError::Encrypted`]; [`KeyError::Weak`]
    pub fn from_pem(pem: &[u8], provider: &CryptoProvider) -> Result<Self, KeyError> {
        let mut blocks = private_blocks(pem)?;
        match blocks.pop() {
            Some(Block::Plain(mut key)) => {
                let read = Self::from_der(&key, provider);
                key.zeroize();
                read
            }
            Some(Block::Encrypted(_)) => Err(KeyError::Encrypted),
            None => Err(KeyError::Unusable("no private key (a PRIVATE KEY block of PEM) is in it")),
        }
    }

    /// As [`Self::from_pem`], of a key that is encrypted (`ENCRYPTED PRIVATE KEY`, RFC 5958 §3): PBES2 with scrypt, or
    /// PBKDF2 and HMAC-SHA-2, and AES. This takes a tenth of a second, and is to be done where that is no harm.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] if it is another's; [`KeyError::Unusable`], also for a key that is not encrypted
    pub fn from_encrypted_pem(
        pem: &[u8],
        passphrase: &Passphrase,
        provider: &CryptoProvider,
    ) -> Result<Self, KeyError> {
        match private_blocks(pem)?.pop() {
            Some(Block::Encrypted(Some(encrypted))) => {
                let der = passphrase.decrypt(&encrypted)?;
                Self::from_der(&PrivateKeyDer::Pkcs8(der.as_slice().into()), provider)
            }
            Some(Block::Encrypted(None)) => Err(KeyError::Unusable(LEGACY)),
            Some(Block::Plain(_)) => Err(KeyError::Unusable(
                "the private key in it is not encrypted, but a passphrase is configured; use: openssl pkcs8 -topk8 -scrypt",
            )),
            None => Err(KeyError::Unusable("no private key (an ENCRYPTED PRIVATE KEY block of PEM) is in it")),
        }
    }

    /// The key as PEM, to be kept secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        // A fixed label and bytes always encode.
        Zeroizing::new(encode_string(self.label, LineEnding::LF, &self.der).unwrap_or_default())
    }

    /// The key as PEM, encrypted: PBES2 with scrypt (2^14, 8, 5) and AES-256-CBC, which openssl reads.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the key was read in another form than PKCS#8.
    pub fn to_encrypted_pem(&self, passphrase: &Passphrase) -> Result<Zeroizing<String>, KeyError> {
        if self.label != "PRIVATE KEY" {
            return Err(KeyError::Unusable("only keys in PKCS#8 form can be encrypted; use: openssl pkcs8 -topk8"));
        }
        let pem = encode_string("ENCRYPTED PRIVATE KEY", LineEnding::LF, &passphrase.encrypt(&self.der)?);
        pem.map(Zeroizing::new).map_err(|_| KeyError::Unusable("the private key cannot be encoded"))
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

/// A private key of a PEM text.
enum Block {
    Plain(PrivateKeyDer<'static>),
    /// In PKCS#8; none for what OpenSSL did before 1.0.
    Encrypted(Option<Zeroizing<Vec<u8>>>),
}

const LEGACY: &str =
    "the private key is encrypted in OpenSSL's old form (Proc-Type); use: openssl pkcs8 -topk8 -scrypt";

/// The private keys of a PEM text: none or one.
fn private_blocks(pem: &[u8]) -> Result<Vec<Block>, KeyError> {
    let has = |text: &[u8]| pem.windows(text.len()).any(|window| window == text);
    if has(b"Proc-Type: 4,ENCRYPTED") {
        return Ok(vec![Block::Encrypted(None)]);
    }
    let mut blocks = Vec::new();
    for block in PrivateKeyDer::pem_slice_iter(pem) {
        blocks.push(Block::Plain(block.map_err(|_| KeyError::Unusable(MALFORMED))?));
    }
    let text = str::from_utf8(pem).unwrap_or_default();
    for (start, _) in text.match_indices(ENCRYPTED_BEGIN) {
        let rest = text.get(start..).unwrap_or_default();
        let end = rest.find(ENCRYPTED_END).ok_or(KeyError::Unusable(MALFORMED))?;
        let (_, der) = pem::decode_vec(rest.get(..end + ENCRYPTED_END.len()).unwrap_or_default().as_bytes())
            .map_err(|_| KeyError::Unusable(MALFORMED))?;
        blocks.push(Block::Encrypted(Some(Zeroizing::new(der))));
    }
    match blocks.len() {
        0 | 1 => Ok(blocks),
        _ => Err(KeyError::Unusable("two private keys are in it; leave one")),
    }
}

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
const MALFORMED: &str = "it is not well-formed PEM";

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let made = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| KeyError::Unusable(NO_KEY))?;
    Ok(Zeroizing::new(made.as_ref().to_vec()))
}

/// RFC 8410 §7 in version 1: openssl does not read version 2, which has the public key as well.
fn ed25519() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = Zeroizing::new(vec![0; HEAD.len() + 32]);
    let (head, seed) = der.split_at_mut(HEAD.len());
    head.copy_from_slice(&HEAD);
    SystemRandom::new().fill(seed).map_err(|_| KeyError::Unusable(NO_KEY))?;
    Ok(der)
}

const NO_KEY: &str = "no key could be made: the system gives no randomness";

/// Signs with whatever the provider holds, at once.
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
        if self.public.kind().is_some() {
            return self.sign_now(message);
        }
        // RSA: milliseconds.
        let (signing, message) = (self.signing.clone(), message.to_vec());
        blocking(move || sign(&*signing, &message)).await
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey").field("public", &self.public).finish_non_exhaustive()
    }
}
