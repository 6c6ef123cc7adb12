//! Keys that end with the process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;

use super::{KeyError, KeyKind, KeyName, KeyStore, Signer, SoftwareKey};

/// Keeps keys in memory only: for tests and for short-lived installations.
#[derive(Debug)]
pub struct MemoryKeyStore {
    provider: Arc<CryptoProvider>,
    keys: Mutex<HashMap<KeyName, Arc<SoftwareKey>>>,
}

impl MemoryKeyStore {
    /// Without keys.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, keys: Mutex::default() }
    }
}

#[async_trait]
impl KeyStore for MemoryKeyStore {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        let made = Arc::new(SoftwareKey::generate_of(kind, &self.provider)?);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(name) {
            return Err(KeyError::Exists(name.clone()));
        }
        keys.insert(name.clone(), made.clone());
        Ok(made)
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.get(name).cloned().ok_or_else(|| KeyError::Absent(name.clone()))?;
        Ok(key)
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(name).map(drop).ok_or_else(|| KeyError::Absent(name.clone()))
    }
}
