//! The store traits of the other crates over SQLite.
//!
//! One file, in WAL mode: one connection writes, a few read. Every change is one transaction that is on the disk before
//! it is answered, and that raises the version of each document it touches. Private keys are stored sealed only, under a
//! [`MasterKey`] that never enters the database. A database of a newer schema is refused and left alone.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use jiff::SignedDuration;
//! use ztka_controller::{Controller, Settings, store::Stores};
//! use ztka_core::SystemClock;
//! use ztka_pki::Names;
//! use ztka_store::{MasterKey, SealedKeyStore, SqliteStore};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let provider = Arc::new(rustls::crypto::ring::default_provider());
//! let store = SqliteStore::open(&directory.join("ztka.db")).await?;
//! let master = MasterKey::load_or_create(&directory.join("master.key"))?;
//! let keys = Arc::new(SealedKeyStore::new(store.clone(), master, provider.clone()));
//! let stores = Stores::of(Arc::new(store), keys);
//!
//! let settings = Settings::of("example.com", 443);
//! let clock = Arc::new(SystemClock);
//! let controller = Controller::open(stores, Names::of("example.com"), settings, provider, clock).await?;
//! let admin = controller.admin_credential("admin".parse()?, SignedDuration::from_hours(24)).await?;
//! assert!(admin.chain.starts_with("-----BEGIN CERTIFICATE-----"));
//! # Ok(())
//! # }
//! ```
mod audit;
mod authorities;
mod database;
mod documents;
mod enrolment;
mod identity;
mod keys;
mod master;
mod migrate;
mod resources;
mod row;

pub use self::{
    database::{OpenError, SqliteStore},
    keys::SealedKeyStore,
    master::{MasterKey, MasterKeyError, NotOpened},
    migrate::SCHEMA_VERSION,
};
