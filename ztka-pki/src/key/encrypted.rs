//! Private keys that are of no use without a secret: PKCS#8 under a passphrase, or wrapped under a key.

use std::fmt;

use pkcs8::{
    EncryptedPrivateKeyInfoRef,
    der::{Decode as _, Encode as _, asn1::OctetStringRef},
    pkcs5::{
        EncryptionScheme,
        pbes2::{Kdf, Parameters},
        scrypt,
    },
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::KeyError;

/// What scrypt costs us (RFC 7914 §2): 16 MiB, five times over. More memory would be refused by openssl's own bound of
/// 32 MiB, and then nobody else could read the file.
const LOG_N: u8 = 14;
const R: u32 = 8;
const P: u32 = 5;

/// The most that a file may make us spend before its passphrase is known to be right.
const MAX_SCRYPT_BYTES: u64 = 256 << 20;
const MAX_SCRYPT_PASSES: u64 = 64;
const MAX_PBKDF2_ITERATIONS: u32 = 10_000_000;

const CONTEXT: &[u8] = b"ztka wrapped private key\0";
const FORM: u8 = 1;

/// A passphrase for private keys; wiped when it is dropped, and never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The passphrase of these bytes, without the line end that files and editors put behind it.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if nothing is left.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            return Err(KeyError::Unusable("the passphrase is empty; put one line of text in its place"));
        }
        Ok(Self(Zeroizing::new(text.to_vec())))
    }

    /// Encrypts a PKCS#8 key: PBES2 (RFC 8018 §6.2) with scrypt and AES-256-CBC, which openssl reads.
    pub(super) fn encrypt(&self, pkcs8: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let unencoded = |_| KeyError::Unusable("the private key cannot be encrypted");
        let (salt, iv) = (random::<16>()?, random::<16>()?);
        let cost = scrypt::Params::new(LOG_N, R, P).map_err(|_| KeyError::Unusable("scrypt refuses our parameters"))?;
        let parameters = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(unencoded)?;
        let data = parameters.encrypt(&*self.0, pkcs8).map_err(unencoded)?;
        let encrypted_data =
            OctetStringRef::new(&data).map_err(|_| KeyError::Unusable("the private key is too long"))?;
        let info = EncryptedPrivateKeyInfoRef { encryption_algorithm: parameters.into(), encrypted_data };
        Ok(Zeroizing::new(info.to_der().map_err(|_| KeyError::Unusable("the private key cannot be encoded"))?))
    }

    /// Opens what [`Self::encrypt`] or openssl made.
    pub(super) fn decrypt(&self, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let info = EncryptedPrivateKeyInfoRef::from_der(encrypted);
        let info = info.map_err(|_| KeyError::Unusable(UNKNOWN))?;
        check_cost(&info.encryption_algorithm)?;
        let opened = info.encryption_algorithm.decrypt(&*self.0, info.encrypted_data.as_bytes());
        opened.map(Zeroizing::new).map_err(|error| match error {
            pkcs8::pkcs5::Error::DecryptFailed => KeyError::Passphrase,
            _ => KeyError::Unusable(UNKNOWN),
        })
    }
}

const UNKNOWN: &str =
    "the private key is encrypted in a way that is not known here; use: openssl pkcs8 -topk8 -v2 aes256";

fn check_cost(scheme: &EncryptionScheme) -> Result<(), KeyError> {
    let kdf = &scheme.pbes2().ok_or(KeyError::Unusable(UNKNOWN))?.kdf;
    let fits = match kdf {
        Kdf::Scrypt(cost) => {
            let bytes = u64::from(cost.block_size).saturating_mul(128).saturating_mul(cost.cost_parameter);
            bytes <= MAX_SCRYPT_BYTES && u64::from(cost.parallelization) <= MAX_SCRYPT_PASSES
        }
        Kdf::Pbkdf2(cost) => cost.iteration_count <= MAX_PBKDF2_ITERATIONS,
        _ => return Err(KeyError::Unusable(UNKNOWN)),
    };
    let refused = "the encrypted private key asks for more memory or time than a key file needs; encrypt it anew";
    if fits { Ok(()) } else { Err(KeyError::Unusable(refused)) }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrase").finish_non_exhaustive()
    }
}

/// An AES-256 key that other keys are wrapped under; from wherever the caller keeps its secrets.
pub struct WrappingKey(LessSafeKey);

impl WrappingKey {
    /// The key of these bytes, which should be random.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn new(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| KeyError::Unusable("not a wrapping key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Wraps `secret` to be kept as `name`: AES-256-GCM, bound to the name so that files cannot be exchanged.
    pub(super) fn wrap(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, KeyError> {
        // Random nonces are safe for 2^32 messages under one key (SP 800-38D §8.3).
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = secret.to_vec();
        let done = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(name), &mut sealed);
        done.map_err(|_| KeyError::Unusable("the private key cannot be wrapped"))?;
        Ok([&[FORM][..], &nonce, &sealed].concat())
    }

    pub(super) fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let rest = wrapped.strip_prefix(&[FORM]).and_then(|rest| rest.split_first_chunk::<NONCE_LEN>());
        let (nonce, sealed) = rest.ok_or(KeyError::Unusable("the wrapped private key is cut short"))?;
        let mut content = Zeroizing::new(sealed.to_vec());
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), aad(name), &mut content);
        let length = opened.map_err(|_| KeyError::Passphrase)?.len();
        content.truncate(length);
        Ok(content)
    }
}

fn aad(name: &str) -> Aad<Vec<u8>> {
    Aad::from([CONTEXT, name.as_bytes()].concat())
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappingKey").finish_non_exhaustive()
    }
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| KeyError::Unusable("the system gives no randomness"))?;
    Ok(bytes)
}
