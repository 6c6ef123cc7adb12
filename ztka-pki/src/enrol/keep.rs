//! Where a member keeps its credential between starts.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;
use ztka_core::BoxError;

use super::token::TokenId;
use crate::{
    credential::Credential,
    file::{self, FileError},
    key::SoftwareKey,
    trust::TrustBundle,
    x509,
};

/// A credential as stored: the key is a secret.
#[derive(Clone)]
pub struct StoredCredential {
    /// The private key in PEM.
    pub key: Zeroizing<String>,
    /// The chain in PEM, the leaf first.
    pub chain: String,
    /// Whom to trust.
    pub trust: TrustBundle,
    /// The token that it was had by. A renewal does not say: what it replaces goes back to the same one.
    pub token: Option<TokenId>,
}

impl StoredCredential {
    /// A credential with its key, as a renewal gives it.
    pub fn of(credential: &Credential, key: &SoftwareKey, trust: TrustBundle) -> Self {
        Self { key: key.to_pem(), chain: x509::to_pem(credential.chain()), trust, token: None }
    }

    /// Puts key and chain together again.
    ///
    /// # Errors
    /// [`CredentialStoreError`] if they do not fit, or are not what they should be.
    pub fn credential(&self, provider: &CryptoProvider) -> Result<Credential, CredentialStoreError> {
        let key = SoftwareKey::from_pem(self.key.as_bytes(), provider).map_err(CredentialStoreError::new)?;
        Credential::from_pem(self.chain.as_bytes(), &key).map_err(CredentialStoreError::new)
    }
}

impl fmt::Debug for StoredCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCredential")
            .field("chain", &self.chain)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// The stored credential cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CredentialStoreError(BoxError);

impl CredentialStoreError {
    /// Wraps the store's own error, whose text is shown.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

impl From<FileError> for CredentialStoreError {
    fn from(error: FileError) -> Self {
        Self::new(error)
    }
}

/// Keeps one credential, and keys that are on their way to be certified. Each call is durable when it returns, and a
/// reader sees a credential of before or after, never a mixture.
#[async_trait]
pub trait CredentialStore: Send + Sync + fmt::Debug {
    /// The credential, if there is one.
    ///
    /// # Errors
    /// [`CredentialStoreError`], also if what is there is no credential.
    async fn load(&self) -> Result<Option<StoredCredential>, CredentialStoreError>;

    /// Replaces the credential. If it was had by a token, pending keys are forgotten; otherwise they stay, as does the
    /// token of the credential that it replaces.
    ///
    /// Where several members share a store, a newer credential of the same name stays, and so does one of another name
    /// that is to be replaced by a renewal.
    ///
    /// # Errors
    /// [`CredentialStoreError`]; what was kept stays then.
    async fn save(&self, credential: &StoredCredential) -> Result<(), CredentialStoreError>;

    /// The key that was made for this token, in PEM.
    ///
    /// # Errors
    /// [`CredentialStoreError`]
    async fn pending_key(&self, token: &TokenId) -> Result<Option<Zeroizing<String>>, CredentialStoreError>;

    /// Keeps a key that is about to be sent with this token, unless one is kept for it; returns the one kept. So several
    /// members that share a store and a token send the same key. For a token whose credential is there none is kept, and
    /// `key` is returned.
    ///
    /// # Errors
    /// [`CredentialStoreError`]
    async fn keep_pending_key(
        &self,
        token: &TokenId,
        key: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, CredentialStoreError>;
}

/// A credential that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryCredentialStore(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    credential: Option<StoredCredential>,
    pending: Option<(TokenId, Zeroizing<String>)>,
}

#[async_trait]
impl CredentialStore for MemoryCredentialStore {
    async fn load(&self) -> Result<Option<StoredCredential>, CredentialStoreError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).credential.clone())
    }

    async fn save(&self, credential: &StoredCredential) -> Result<(), CredentialStoreError> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = memory.credential.take().and_then(|before| before.token);
        let token = credential.token.clone().or(before);
        memory.credential = Some(StoredCredential { token, ..credential.clone() });
        if credential.token.is_some() {
            memory.pending = None;
        }
        Ok(())
    }

    async fn pending_key(&self, token: &TokenId) -> Result<Option<Zeroizing<String>>, CredentialStoreError> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(memory.pending.as_ref().filter(|(of, _)| of == token).map(|(_, key)| key.clone()))
    }

    async fn keep_pending_key(
        &self,
        token: &TokenId,
        key: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, CredentialStoreError> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = memory.credential.as_ref().and_then(|credential| credential.token.as_ref());
        match &memory.pending {
            Some((of, kept)) if of == token => Ok(kept.clone()),
            _ if done == Some(token) => Ok(key),
            _ => {
                memory.pending = Some((token.clone(), key.clone()));
                Ok(key)
            }
        }
    }
}

/// A credential in a directory of mode 0700: `credential.pem` (key and chain in one file, mode 0600, so that they are
/// replaced together), `trust.json`, `token-id`, and `pending-<token id>.key`.
///
/// The files are small, and are read and written on the calling thread.
#[derive(Clone, Debug)]
pub struct CredentialDirectory {
    directory: PathBuf,
    provider: Arc<CryptoProvider>,
}

impl CredentialDirectory {
    /// Uses `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be made or other users may change it.
    pub fn open(directory: impl Into<PathBuf>, provider: Arc<CryptoProvider>) -> Result<Self, FileError> {
        let directory = directory.into();
        file::private_directory(&directory)?;
        Ok(Self { directory, provider })
    }

    /// Where key and chain are.
    pub fn path(&self) -> PathBuf {
        self.directory.join("credential.pem")
    }

    fn trust(&self) -> PathBuf {
        self.directory.join("trust.json")
    }

    fn token(&self) -> PathBuf {
        self.directory.join("token-id")
    }

    /// What is no id is as good as none: it is only held against others.
    fn token_of_credential(&self) -> Result<Option<TokenId>, FileError> {
        let id = file::read_private(&self.token())?;
        Ok(id.and_then(|id| str::from_utf8(&id).ok()?.trim().parse().ok()))
    }

    fn pending(&self, token: &TokenId) -> PathBuf {
        self.directory.join(format!("pending-{token}.key"))
    }

    fn forget_pending(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with("pending-") && name.ends_with(".key")) {
                // A key that stays is of no use to anybody: its token is spent.
                let _ = file::remove(&entry.path());
            }
        }
    }

    fn read(&self) -> Result<Option<StoredCredential>, FileError> {
        let path = self.path();
        let Some(pem) = file::read_private(&path)? else { return Ok(None) };
        let broken = |path: &Path, error: &dyn fmt::Display| FileError::content(path, error.to_string());
        let key = SoftwareKey::from_pem(&pem, &self.provider).map_err(|error| broken(&path, &error))?;
        let credential = Credential::from_pem(&pem, &key).map_err(|error| broken(&path, &error))?;
        let path = self.trust();
        let trust = file::read_private(&path)?;
        let trust = trust.ok_or_else(|| FileError::content(&path, "is missing beside the credential; enrol again"))?;
        let trust = serde_json::from_slice(&trust)
            .map_err(|_| FileError::content(&path, "is not a trust bundle in JSON; enrol again"))?;
        let token = self.token_of_credential()?;
        Ok(Some(StoredCredential { token, ..StoredCredential::of(&credential, &key, trust) }))
    }
}

#[async_trait]
impl CredentialStore for CredentialDirectory {
    async fn load(&self) -> Result<Option<StoredCredential>, CredentialStoreError> {
        Ok(self.read()?)
    }

    async fn save(&self, credential: &StoredCredential) -> Result<(), CredentialStoreError> {
        let trust = serde_json::to_vec_pretty(&credential.trust).map_err(CredentialStoreError::new)?;
        // The trust first: it is good for the old credential too, while a credential without it is good for nothing.
        file::write_private(&self.trust(), &trust)?;
        let both = Zeroizing::new(format!("{}{}", *credential.key, credential.chain));
        file::write_private(&self.path(), both.as_bytes())?;
        // Behind the credential: without it, the same token with the same key gets the same answer again.
        if let Some(token) = &credential.token {
            file::write_private(&self.token(), token.as_str().as_bytes())?;
            self.forget_pending();
        }
        Ok(())
    }

    async fn pending_key(&self, token: &TokenId) -> Result<Option<Zeroizing<String>>, CredentialStoreError> {
        let path = self.pending(token);
        let Some(pem) = file::read_private(&path)? else { return Ok(None) };
        let pem = str::from_utf8(&pem).map_err(|_| FileError::content(&path, "is not PEM; remove it"))?;
        Ok(Some(Zeroizing::new(pem.into())))
    }

    async fn keep_pending_key(
        &self,
        token: &TokenId,
        key: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, CredentialStoreError> {
        if let Some(kept) = self.pending_key(token).await? {
            return Ok(kept);
        }
        if self.token_of_credential()?.as_ref() != Some(token) {
            file::write_private(&self.pending(token), key.as_bytes())?;
        }
        Ok(key)
    }
}
