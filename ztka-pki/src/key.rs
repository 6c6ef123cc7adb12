//! Private keys behind two traits: who makes and opens them, and who signs with them.
mod blocking;
mod encrypted;
mod file;
mod kind;
mod memory;
mod name;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod public;
mod software;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

#[cfg(feature = "pkcs11")]
pub use self::pkcs11::{Pkcs11KeyStore, Pkcs11Token, Pkcs11WrappingKey};
pub use self::{
    encrypted::{Passphrase, WrappingKey},
    file::FileKeyStore,
    kind::KeyKind,
    memory::MemoryKeyStore,
    name::KeyName,
    public::{PublicKey, WeakKey},
    software::SoftwareKey,
};
pub(crate) use self::{
    public::{hex, key_id},
    software::sign,
};

/// Signs with one private key, which may be elsewhere (a token, a service).
///
/// # Threads
/// `sign` is awaited on the threads that serve requests, so it must not hold them up. ECDSA and Ed25519 in memory take
/// some ten microseconds and are done in place, as handing them to another thread would cost as much; RSA in memory,
/// files and tokens go to threads that may wait ([`tokio::task::spawn_blocking`]). An embedder's own does the same.
#[async_trait]
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (hashing included): ECDSA with the curve's hash as `ECDSA-Sig-Value` (RFC 3279 §2.2.3), Ed25519
    /// (RFC 8410 §6), or RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 §8.2).
    ///
    /// Dropping the future gives up the signature and nothing else.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] when the key cannot be reached; the next call tries again.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Makes, opens and destroys named keys. An embedder's own passes `conformance::key_store` (feature
/// `conformance`).
#[async_trait]
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// Makes a key and keeps it under `name` before this returns.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is one of that name, which stays as it is, even when two ask at once;
    /// [`KeyError::Kind`] if the store cannot make such keys, which it can of [`KeyKind::P256`].
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError>;

    /// Opens the key kept under `name`, whatever kind it is of.
    ///
    /// # Errors
    /// [`KeyError::Absent`] if there is none.
    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError>;

    /// Forgets the key kept under `name`; it can never be opened again. Opened signers may go on.
    ///
    /// # Errors
    /// [`KeyError::Absent`] if there is none.
    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError>;
}

/// Opens `name`, making it first if it is not there: whoever comes second gets the first one's key. One that somebody
/// has put there, of another kind perhaps, is used.
pub(crate) async fn open_or_create(keys: &dyn KeyStore, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
    match keys.open(name).await {
        Err(KeyError::Absent(_)) => match keys.create(name, KeyKind::default()).await {
            Err(KeyError::Exists(_)) => keys.open(name).await,
            made => made,
        },
        opened => opened,
    }
}

/// Why a key cannot be had or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a key name.
    #[error("not a key name: use 1 to 100 of a-z, 0-9, '.' and '-', first a letter or digit")]
    Name,
    /// There is a key of that name already.
    #[error("there is a key named {0} already; it was left as it is")]
    Exists(KeyName),
    /// There is no key of that name.
    #[error("there is no key named {0}; check that the right key store is configured")]
    Absent(KeyName),
    /// The key store makes no keys of this kind.
    #[error("this key store cannot make {0} keys; use P-256")]
    Kind(KeyKind),
    /// The text or file holds no usable private key.
    #[error("{0}")]
    Unusable(&'static str),
    /// The private key is encrypted, and no passphrase was given.
    #[error("the private key is encrypted; configure its passphrase, or decrypt it: openssl pkcs8 -in FILE")]
    Encrypted,
    /// The private key does not open with what was given.
    #[error("the private key does not open with this passphrase or wrapping key; give the one it was encrypted with")]
    Passphrase,
    /// The public half is not strong enough, or of an unknown kind.
    #[error(transparent)]
    Weak(#[from] WeakKey),
    /// The file that holds it cannot be used.
    #[error(transparent)]
    File(#[from] crate::file::FileError),
    /// The key exists but cannot be used now.
    #[error("the key cannot be used now; see the cause and try again")]
    Unavailable(#[source] ztka_core::BoxError),
}
