//! Where the private keys of the certificate authorities are.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::crypto::CryptoProvider;
use ztka_pki::{KeyStore, Pkcs11KeyStore, Pkcs11Token};
use ztka_store::{MasterKey, SealedKeyStore, Store};

use crate::{Config, Token};

/// The database's, sealed under the master key, or a token's.
pub(crate) async fn open(
    config: &Config,
    store: &Store,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn KeyStore>> {
    let Some(Token { module, label, pin_file, sessions }) = &config.keys.token else {
        let master = MasterKey::load_or_create(&config.data_dir.join("master.key"))?;
        return Ok(Arc::new(SealedKeyStore::new(store.clone(), master, provider.clone())));
    };
    let mut token = Pkcs11Token::new(module, label, pin_file);
    if let Some(sessions) = sessions {
        token = token.sessions(*sessions);
    }
    let opened = Pkcs11KeyStore::open(token).await;
    Ok(Arc::new(opened.with_context(|| format!("keys.token: the token {label:?} cannot be used"))?))
}
