//! A master key in a PKCS#11 token, which it never leaves.

use async_trait::async_trait;
use zeroize::Zeroizing;
use ztka_pki::{KeyName, Pkcs11KeyStore, Pkcs11WrappingKey};

use super::{KeyEncryption, MasterKeyError};

/// A master key in a token: an HSM, or SoftHSM.
#[derive(Clone, Debug)]
pub struct TokenKey {
    key: Pkcs11WrappingKey,
    id: String,
}

impl TokenKey {
    /// The key called `name`, made if there is none and `make` says so.
    ///
    /// # Errors
    /// The token cannot be used, or has no such key.
    pub async fn open(token: &Pkcs11KeyStore, name: &KeyName, make: bool) -> Result<Self, MasterKeyError> {
        let key = token.wrapping_key(name, make).await.map_err(unavailable)?;
        let id = format!("pkcs11:{}", key.id());
        Ok(Self { key, id })
    }
}

fn unavailable(error: ztka_pki::KeyError) -> MasterKeyError {
    MasterKeyError::Unavailable(error.into())
}

#[async_trait]
impl KeyEncryption for TokenKey {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, context: &[u8], key: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        self.key.wrap(context, key).await.map_err(unavailable)
    }

    async fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        self.key.unwrap(context, wrapped).await.map_err(unavailable)
    }
}
