//! Keys as files of a directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use x509_cert::der::pem::{self, LineEnding};
use zeroize::Zeroizing;

use super::{KeyError, KeyKind, KeyName, KeyStore, Passphrase, Signer, SoftwareKey, WrappingKey, blocking::blocking};
use crate::file::{self, FileError};

const WRAPPED: &str = "ZTKA WRAPPED PRIVATE KEY";

/// Keeps each key as `<name>.key`, PKCS#8 in PEM, mode 0600, in one directory of mode 0700: as it is, under a
/// passphrase ([`Self::with_passphrase`]), or under a key of the caller's ([`Self::wrapped_under`]).
///
/// Files are read, written and decrypted on threads that may wait; an opened key is in memory.
#[derive(Clone, Debug)]
pub struct FileKeyStore(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    provider: Arc<CryptoProvider>,
    directory: PathBuf,
    protection: Protection,
}

#[derive(Clone, Debug)]
enum Protection {
    Mode,
    Passphrase(Passphrase),
    Wrapped(Arc<WrappingKey>),
}

impl FileKeyStore {
    /// Uses `directory`, which is made if it is not there; the mode of its files is their only protection.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be made or is open to other users.
    pub fn open(directory: impl Into<PathBuf>, provider: Arc<CryptoProvider>) -> Result<Self, FileError> {
        let directory = directory.into();
        file::private_directory(&directory)?;
        Ok(Self(Arc::new(Inner { provider, directory, protection: Protection::Mode })))
    }

    /// Encrypts the keys it makes (`ENCRYPTED PRIVATE KEY`: PBES2 with scrypt and AES-256-CBC, which openssl reads), and
    /// opens no other. Keys that openssl encrypted with PBKDF2 and HMAC-SHA-2 are opened too.
    #[must_use]
    pub fn with_passphrase(self, passphrase: Passphrase) -> Self {
        self.protected(Protection::Passphrase(passphrase))
    }

    /// Wraps the keys it makes under `key` (AES-256-GCM, bound to the name of the key), and opens no other.
    #[must_use]
    pub fn wrapped_under(self, key: WrappingKey) -> Self {
        self.protected(Protection::Wrapped(Arc::new(key)))
    }

    fn protected(self, protection: Protection) -> Self {
        Self(Arc::new(Inner { protection, ..Arc::unwrap_or_clone(self.0) }))
    }
}

impl Inner {
    fn path(&self, name: &KeyName) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    fn create(&self, name: &KeyName, kind: KeyKind) -> Result<SoftwareKey, KeyError> {
        let path = self.path(name);
        let made = SoftwareKey::generate_of(kind, &self.provider)?;
        let pem = match &self.protection {
            Protection::Mode => made.to_pem(),
            Protection::Passphrase(passphrase) => made.to_encrypted_pem(passphrase)?,
            Protection::Wrapped(key) => {
                let wrapped = key.wrap(name.as_str(), made.to_pem().as_bytes())?;
                let pem = pem::encode_string(WRAPPED, LineEnding::LF, &wrapped);
                Zeroizing::new(pem.map_err(|_| KeyError::Unusable("the wrapped private key cannot be encoded"))?)
            }
        };
        match file::write_private_new(&path, pem.as_bytes()) {
            Ok(()) => Ok(made),
            Err(error) if error.kind() == Some(io::ErrorKind::AlreadyExists) => Err(KeyError::Exists(name.clone())),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: &KeyName) -> Result<SoftwareKey, KeyError> {
        let path = self.path(name);
        let pem = file::read_private(&path)?.ok_or_else(|| KeyError::Absent(name.clone()))?;
        self.read(name, &pem).map_err(|error| in_file(&path, error))
    }

    fn read(&self, name: &KeyName, pem: &[u8]) -> Result<SoftwareKey, KeyError> {
        match &self.protection {
            Protection::Mode => SoftwareKey::from_pem(pem, &self.provider),
            Protection::Passphrase(passphrase) => SoftwareKey::from_encrypted_pem(pem, passphrase, &self.provider),
            Protection::Wrapped(key) => {
                let (label, wrapped) =
                    pem::decode_vec(pem).map_err(|_| KeyError::Unusable("it is not well-formed PEM"))?;
                if label != WRAPPED {
                    return Err(KeyError::Unusable(
                        "the private key in it is not wrapped, but a wrapping key is configured",
                    ));
                }
                SoftwareKey::from_pem(&key.unwrap(name.as_str(), &wrapped)?, &self.provider)
            }
        }
    }
}

/// Says which file it is.
fn in_file(path: &Path, error: KeyError) -> KeyError {
    match error {
        KeyError::Encrypted | KeyError::Passphrase | KeyError::Unusable(_) | KeyError::Weak(_) => {
            FileError::content(path, error.to_string()).into()
        }
        other => other,
    }
}

#[async_trait]
impl KeyStore for FileKeyStore {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        let (store, name) = (self.0.clone(), name.clone());
        Ok(Arc::new(blocking(move || store.create(&name, kind)).await?))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let (store, name) = (self.0.clone(), name.clone());
        Ok(Arc::new(blocking(move || store.open(&name)).await?))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let (path, name) = (self.0.path(name), name.clone());
        blocking(move || match file::remove(&path)? {
            true => Ok(()),
            false => Err(KeyError::Absent(name)),
        })
        .await
    }
}
