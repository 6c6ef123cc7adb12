//! Where the master key is, and the private keys of the certificate authorities.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;
use ztka_pki::{KeyStore, Pkcs11KeyStore, Pkcs11Token};
use ztka_store::{KeyEncryption, MasterKey, MasterKeyError, Masters, SealedKeyStore, Store, TokenKey};

use crate::{
    Config, Token,
    config::{Master, MasterToken},
};

/// The database, which encrypts under the master key that is configured.
pub(crate) async fn unlock(config: &Config, store: Store) -> anyhow::Result<Store> {
    let default = || Master::File(config.data_dir.join("master.key"));
    // One that is made anew would not open what is there.
    let make = !store.needs_master_key().await?;
    let master = config.encryption.master.clone().unwrap_or_else(default);
    let mut masters = Masters::of(open_master(&master, make).await.context("encryption.master")?);
    for other in &config.encryption.other {
        masters = masters.and(open_master(other, false).await.context("encryption.other")?);
    }
    Ok(store.unlock(masters).await?)
}

async fn open_master(master: &Master, make: bool) -> anyhow::Result<Arc<dyn KeyEncryption>> {
    match master {
        Master::File(path) if make => Ok(Arc::new(MasterKey::load_or_create(path)?)),
        Master::File(path) => Ok(Arc::new(MasterKey::load(path)?)),
        Master::Environment(name) => {
            let text = std::env::var(name).map(Zeroizing::new);
            let text = text.with_context(|| format!("the environment variable {name} is not set, or not text"))?;
            let key: Result<MasterKey, MasterKeyError> = MasterKey::parse(&text);
            Ok(Arc::new(key.with_context(|| format!("the environment variable {name}"))?))
        }
        Master::Token(MasterToken { module, label, pin_file, key }) => {
            let unusable = || format!("the token {label:?} cannot be used");
            let token = Pkcs11KeyStore::open(Pkcs11Token::new(module, label, pin_file)).await.with_context(unusable)?;
            Ok(Arc::new(TokenKey::open(&token, &key.parse()?, make).await.with_context(unusable)?))
        }
    }
}

/// The database's, encrypted there, or a token's.
pub(crate) async fn open(
    config: &Config,
    store: &Store,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn KeyStore>> {
    let Some(Token { module, label, pin_file, sessions }) = &config.keys.token else {
        return Ok(Arc::new(SealedKeyStore::new(store.clone(), provider.clone())));
    };
    let mut token = Pkcs11Token::new(module, label, pin_file);
    if let Some(sessions) = sessions {
        token = token.sessions(*sessions);
    }
    let opened = Pkcs11KeyStore::open(token).await;
    Ok(Arc::new(opened.with_context(|| format!("keys.token: the token {label:?} cannot be used"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_is_opened_with_its_own_master_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().display();
        let config = |more: &str| -> Config {
            let text =
                format!("domain = 'example.com'\ndata_dir = '{data}'\nfront = 'a:1'\nlisten = '127.0.0.1:1'\n{more}");
            toml::from_str(&text).unwrap()
        };
        let open = async |config: Config| unlock(&config, Store::open(&config.database()?).await?).await;
        open(config("")).await.unwrap().close().await;
        let master = directory.path().join("master.key");
        let kept = std::fs::read(&master).unwrap();

        // In another place, it is the same key.
        let elsewhere = directory.path().join("elsewhere.key");
        std::fs::rename(&master, &elsewhere).unwrap();
        let named = format!("[encryption]\nmaster = {{ file = '{}' }}", elsewhere.display());
        open(config(&named)).await.unwrap().close().await;

        // Without it nothing starts, and no other one is made.
        let refused = open(config("")).await.unwrap_err();
        assert!(format!("{refused:#}").contains("restore the file from its backup"), "{refused:#}");
        assert!(!master.exists());
        ztka_pki::file::write_private(&master, "0".repeat(64).as_bytes()).unwrap();
        let refused = open(config("")).await.unwrap_err();
        assert!(format!("{refused:#}").contains("encrypted under the master key"), "{refused:#}");
        let both = format!("{named}\nother = [{{ file = '{}' }}]", master.display());
        open(config(&both)).await.unwrap().close().await;
        let unset = "[encryption]\nmaster = { environment = 'ZTKA_TEST_IS_NOT_SET' }";
        assert!(format!("{:#}", open(config(unset)).await.unwrap_err()).contains("is not set"));
        ztka_pki::file::write_private(&master, &kept).unwrap();
        open(config("")).await.unwrap();
    }
}
