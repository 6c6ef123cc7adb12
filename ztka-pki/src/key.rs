//! Private keys behind two traits: who makes and opens them, and who signs with them.
mod file;
mod memory;
mod public;
mod software;

use std::{fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;

pub use self::{
    file::FileKeyStore,
    memory::MemoryKeyStore,
    public::{PublicKey, WeakKey},
    software::SoftwareKey,
};
pub(crate) use self::{
    public::{hex, key_id},
    software::sign,
};

/// Signs with one private key, which may be elsewhere (a token, a service).
#[async_trait]
pub trait Signer: Send + Sync + fmt::Debug {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (hashing included): ASN.1 ECDSA with the curve's hash, Ed25519, or PKCS#1 v1.5 with SHA-256.
    ///
    /// Dropping the future gives up the signature and nothing else.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] when the key cannot be reached.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Makes, opens and destroys named keys. An embedder's own passes `conformance::key_store` (feature
/// `conformance`).
#[async_trait]
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// Makes a key (ECDSA P-256) and keeps it under `name` before this returns.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is one of that name, which stays as it is, even when two ask at once.
    async fn create(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError>;

    /// Opens the key kept under `name`.
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

/// Opens `name`, making it first if it is not there: whoever comes second gets the first one's key.
pub(crate) async fn open_or_create(keys: &dyn KeyStore, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
    match keys.open(name).await {
        Err(KeyError::Absent(_)) => match keys.create(name).await {
            Err(KeyError::Exists(_)) => keys.open(name).await,
            made => made,
        },
        opened => opened,
    }
}

/// What a key is kept under: 1 to 100 of `a-z`, `0-9`, `.` and `-`, first a letter or digit. Fits a file name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyName(String);

impl KeyName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=100).contains(&text.len())
            && text.bytes().all(|byte| alphanumeric(byte) || b".-".contains(&byte))
            && text.bytes().next().is_some_and(alphanumeric);
        if fits { Ok(Self(text.into())) } else { Err(KeyError::Name) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key cannot be had or used.
#[derive(Debug, thiserror::Error)]
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
    /// The text or file holds no usable private key.
    #[error("{0}")]
    Unusable(&'static str),
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
