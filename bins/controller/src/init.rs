//! Makes the certificate authorities before the first start, where the root is not to be kept with the others.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use ztka_controller::store::AuthorityStore as _;
use ztka_core::{Clock as _, SystemClock};
use ztka_pki::{Hierarchy, HierarchyState, Names, Passphrase, Purpose, Root, SoftwareKey, file};
use ztka_store::Store;

use crate::{Config, keys};

/// Where the root's key is.
#[derive(Clone, Debug)]
pub enum RootKey {
    /// With the others: authorities can be replaced without anybody.
    Here,
    /// In this file, under a passphrase; to be taken away afterwards.
    File(PathBuf, Passphrase),
    /// With somebody else, who is to sign the requests that are written to this directory.
    Requested(PathBuf),
    /// With somebody else, who has signed them.
    Elsewhere {
        /// The root (PEM).
        root: String,
        /// For each purpose the certificate with those between it and the root (PEM).
        chains: BTreeMap<Purpose, String>,
    },
}

/// What was done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Initialised {
    /// The authorities are there.
    Done,
    /// Their certificates are awaited; these are the requests.
    Requested(Vec<PathBuf>),
}

/// Makes the certificate authorities of the installation that `config` is of.
///
/// # Errors
/// There are some, or they cannot be made; what there was stays as it is then.
pub async fn init(config: &Config, root: RootKey) -> anyhow::Result<Initialised> {
    let provider = Arc::new(ztka_runtime::crypto());
    file::private_directory(&config.data_dir).context("data_dir cannot be used")?;
    let store = keys::unlock(config, Store::open(&config.database()?).await?).await?;
    ensure!(
        store.hierarchy().await?.is_none(),
        "there are certificate authorities already, which were left as they are; replace them with: ztka pki rotate"
    );
    let keys = keys::open(config, &store, &provider).await?;
    let (names, lifetimes, clock) = (Names::of(&config.domain), config.settings().lifetimes, Arc::new(SystemClock));
    let state: HierarchyState = match root {
        RootKey::Here => Hierarchy::create(names, lifetimes, keys, clock).await?.state(),
        RootKey::File(path, passphrase) => {
            let key = SoftwareKey::generate(&provider)?;
            let pem = key.to_encrypted_pem(&passphrase)?;
            // First: a root without a key could never sign again.
            file::write_private_new(&path, pem.as_bytes())
                .with_context(|| format!("{} cannot be written; it must not be there yet", path.display()))?;
            let root = Root::create(Arc::new(key), &lifetimes, clock.now()).await?;
            Hierarchy::create_below(names, lifetimes, &root, keys, clock).await?.state()
        }
        RootKey::Requested(directory) => {
            let mut written = Vec::new();
            fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
            for (purpose, request) in Hierarchy::requests(&names, &*keys).await? {
                let path = directory.join(format!("{purpose}.csr"));
                fs::write(&path, request).with_context(|| format!("{} cannot be written", path.display()))?;
                written.push(path);
            }
            store.close().await;
            return Ok(Initialised::Requested(written));
        }
        RootKey::Elsewhere { root, chains } => {
            Hierarchy::import(names, &root, &chains, &*keys, &provider, clock.now()).await?
        }
    };
    if let Err(error) = store.create_hierarchy(&state).await {
        bail!("the certificate authorities cannot be stored: {error}");
    }
    store.close().await;
    Ok(Initialised::Done)
}
