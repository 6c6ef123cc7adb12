//! Private keys of certificate authorities, sealed under the master key, so that any controller can sign.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, Signer, SoftwareKey};

use crate::{MasterKey, Store, sql::sql};

/// Keeps keys in a [`Store`].
#[derive(Debug)]
pub struct SealedKeyStore {
    store: Store,
    master: MasterKey,
    provider: Arc<CryptoProvider>,
}

impl SealedKeyStore {
    /// Keeps keys in `store`, sealed under `master`.
    pub fn new(store: Store, master: MasterKey, provider: Arc<CryptoProvider>) -> Self {
        Self { store, master, provider }
    }
}

fn unavailable(error: impl Into<ztka_core::BoxError>) -> KeyError {
    KeyError::Unavailable(error.into())
}

#[async_trait]
impl KeyStore for SealedKeyStore {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        let key = SoftwareKey::generate_of(kind, &self.provider)?;
        let sealed = self.master.seal(name.as_str(), key.to_pem().as_bytes()).map_err(unavailable)?;
        let mut write = self.store.write().await.map_err(unavailable)?;
        let insert = sql("INSERT INTO private_keys (name, sealed) VALUES ($1, $2)").bind(name.as_str()).bind(sealed);
        write.execute(insert).await.map_err(|failed| match failed.is_duplicate() {
            true => KeyError::Exists(name.clone()),
            false => unavailable(failed),
        })?;
        write.commit().await.map_err(unavailable)?;
        Ok(Arc::new(key))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let query = sql("SELECT sealed FROM private_keys WHERE name = $1").bind(name.as_str());
        let row = self.store.readers().fetch_optional(query).await.map_err(unavailable)?;
        let row = row.ok_or_else(|| KeyError::Absent(name.clone()))?;
        let sealed = row.bytes("sealed").map_err(unavailable)?;
        let pem = self.master.open(name.as_str(), sealed).map_err(unavailable)?;
        Ok(Arc::new(SoftwareKey::from_pem(&pem, &self.provider)?))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let mut write = self.store.write().await.map_err(unavailable)?;
        let delete = sql("DELETE FROM private_keys WHERE name = $1").bind(name.as_str());
        if write.execute(delete).await.map_err(unavailable)? == 0 {
            return Err(KeyError::Absent(name.clone()));
        }
        write.commit().await.map_err(unavailable)
    }
}
