//! Private keys of certificate authorities, sealed under data keys, so that any controller can sign.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, Signer, SoftwareKey};

use crate::{
    Failed, Store,
    encryption::{INSTALLATION, Place},
    sql::sql,
};

/// Keeps keys in a [`Store`] that is unlocked, each under the data key of the organisation that it is of.
#[derive(Debug)]
pub struct SealedKeyStore {
    store: Store,
    provider: Arc<CryptoProvider>,
}

impl SealedKeyStore {
    /// Keeps keys in `store`, which has to be unlocked: others keep none.
    pub fn new(store: Store, provider: Arc<CryptoProvider>) -> Self {
        Self { store, provider }
    }
}

/// The organisation whose key this is: `agents.<org>` and `users.<org>`, perhaps with the number of a rotation in front.
pub(crate) fn org_of(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((above, org)) if ["agents", "users"].contains(&above.rsplit('.').next().unwrap_or_default()) => org,
        _ => INSTALLATION,
    }
}

/// Where a key is.
pub(crate) fn place(name: &str) -> Place<'_> {
    Place { org: org_of(name), table: "private_keys", column: "sealed", row: name }
}

fn unavailable(error: impl Into<ztka_core::BoxError>) -> KeyError {
    KeyError::Unavailable(error.into())
}

#[async_trait]
impl KeyStore for SealedKeyStore {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        let key = SoftwareKey::generate_of(kind, &self.provider)?;
        let (place, pem) = (place(name.as_str()), key.to_pem());
        let sealer = self.store.sealer(place.org).await.map_err(unavailable)?;
        let (_, sealed) = sealer.seal_bytes(place, pem.as_bytes()).map_err(unavailable)?;
        let sealed = sealed.ok_or_else(|| unavailable(Failed::Locked))?;
        let mut write = self.store.write().await.map_err(unavailable)?;
        let insert =
            sql("INSERT INTO private_keys (name, sealed) VALUES ($1, $2)").bind(name.as_str()).bind(&sealed[..]);
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
        let keyring = self.store.keyring.as_ref().ok_or_else(|| unavailable(Failed::Locked))?;
        let pem = keyring.unseal_private(&self.store, place(name.as_str()), sealed).await.map_err(unavailable)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_the_organisation_in_its_name() {
        for (name, org) in [
            ("root", ""),
            ("users", ""),
            ("3.users", ""),
            ("agents.acme", "acme"),
            ("7.users.acme", "acme"),
            ("agents.users", "users"),
        ] {
            assert_eq!(org_of(name), org, "{name}");
        }
    }
}
