//! Private keys of certificate authorities, sealed under the master key, so that any controller can sign.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use sqlx::Row as _;
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, Signer, SoftwareKey};

use crate::{MasterKey, SqliteStore};

/// Keeps keys in a [`SqliteStore`].
#[derive(Debug)]
pub struct SealedKeyStore {
    store: SqliteStore,
    master: MasterKey,
    provider: Arc<CryptoProvider>,
}

impl SealedKeyStore {
    /// Keeps keys in `store`, sealed under `master`.
    pub fn new(store: SqliteStore, master: MasterKey, provider: Arc<CryptoProvider>) -> Self {
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
        let insert = sqlx::query("INSERT INTO private_keys (name, sealed) VALUES (?, ?)");
        let inserted = insert.bind(name.as_str()).bind(sealed).execute(&mut *write).await;
        inserted.map_err(|error| match error.as_database_error() {
            Some(database) if database.is_unique_violation() => KeyError::Exists(name.clone()),
            _ => unavailable(error),
        })?;
        write.commit().await.map_err(unavailable)?;
        Ok(Arc::new(key))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let query = sqlx::query("SELECT sealed FROM private_keys WHERE name = ?").bind(name.as_str());
        let row = query.fetch_optional(self.store.readers()).await.map_err(unavailable)?;
        let row = row.ok_or_else(|| KeyError::Absent(name.clone()))?;
        let sealed: &[u8] = row.try_get("sealed").map_err(unavailable)?;
        let pem = self.master.open(name.as_str(), sealed).map_err(unavailable)?;
        Ok(Arc::new(SoftwareKey::from_pem(&pem, &self.provider)?))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let mut write = self.store.write().await.map_err(unavailable)?;
        let delete = sqlx::query("DELETE FROM private_keys WHERE name = ?").bind(name.as_str());
        if delete.execute(&mut *write).await.map_err(unavailable)?.rows_affected() == 0 {
            return Err(KeyError::Absent(name.clone()));
        }
        write.commit().await.map_err(unavailable)
    }
}
