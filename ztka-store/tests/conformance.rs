//! Every store trait's suite, on SQLite.

use tempfile::TempDir;
use ztka_store::SqliteStore;

async fn store() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("ztka.db")).await.unwrap();
    (store, directory)
}

#[tokio::test]
async fn identity() {
    let (store, _directory) = store().await;
    ztka_identity::conformance::identity(&store).await;
}

#[tokio::test]
async fn resources() {
    let (store, _directory) = store().await;
    ztka_controller::conformance::resources(&store).await;
}

#[tokio::test]
async fn documents() {
    let (store, _directory) = store().await;
    ztka_controller::conformance::documents(&store).await;
}

#[tokio::test]
async fn keys() {
    use std::sync::Arc;
    use ztka_pki::{KeyError, KeyStore};
    use ztka_store::{MasterKey, SealedKeyStore};

    let (store, _directory) = store().await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keys = |byte| SealedKeyStore::new(store.clone(), MasterKey::new(&[byte; 32]).unwrap(), provider.clone());
    let (name, other) = ("root".parse().unwrap(), "users".parse().unwrap());
    assert!(matches!(keys(1).open(&name).await, Err(KeyError::Absent(_))));
    let made = keys(1).create(&name).await.unwrap();
    assert!(matches!(keys(1).create(&name).await, Err(KeyError::Exists(_))));
    let opened = keys(1).open(&name).await.unwrap();
    assert_eq!(made.public_key(), opened.public_key());
    let signature = opened.sign(b"message").await.unwrap();
    assert!(made.public_key().is_signed(b"message", &signature));
    assert!(matches!(keys(2).open(&name).await, Err(KeyError::Unavailable(_))), "another master key");
    let file = std::fs::read(_directory.path().join("ztka.db-wal")).unwrap();
    assert!(!file.windows(11).any(|part| part == b"PRIVATE KEY"), "never unsealed on the disk");
    keys(1).destroy(&name).await.unwrap();
    assert!(matches!(keys(1).destroy(&name).await, Err(KeyError::Absent(_))));
    assert!(matches!(keys(1).open(&other).await, Err(KeyError::Absent(_))));
}
