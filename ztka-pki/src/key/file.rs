//! Keys as files of a directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;

use super::{KeyError, KeyName, KeyStore, Signer, SoftwareKey};
use crate::file::{self, FileError};

/// Keeps each key as `<name>.key`, PKCS#8 in PEM, mode 0600, in one directory of mode 0700.
///
/// The files are small, and are read and written on the calling thread.
#[derive(Debug)]
pub struct FileKeyStore {
    provider: Arc<CryptoProvider>,
    directory: PathBuf,
}

impl FileKeyStore {
    /// Uses `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be made or is open to other users.
    pub fn open(directory: impl Into<PathBuf>, provider: Arc<CryptoProvider>) -> Result<Self, FileError> {
        let directory = directory.into();
        file::private_directory(&directory)?;
        Ok(Self { provider, directory })
    }

    fn path(&self, name: &KeyName) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    fn read(&self, path: &Path, name: &KeyName) -> Result<SoftwareKey, KeyError> {
        match file::read_private(path)? {
            Some(pem) => Ok(SoftwareKey::from_pem(&pem, &self.provider)?),
            None => Err(KeyError::Absent(name.clone())),
        }
    }
}

#[async_trait]
impl KeyStore for FileKeyStore {
    async fn create(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let made = SoftwareKey::generate(&self.provider)?;
        match file::write_private_new(&self.path(name), made.to_pem().as_bytes()) {
            Ok(()) => Ok(Arc::new(made)),
            Err(error) if error.kind() == Some(io::ErrorKind::AlreadyExists) => Err(KeyError::Exists(name.clone())),
            Err(error) => Err(error.into()),
        }
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(self.read(&self.path(name), name)?))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        match file::remove(&self.path(name))? {
            true => Ok(()),
            false => Err(KeyError::Absent(name.clone())),
        }
    }
}
