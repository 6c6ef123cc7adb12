//! The store traits of the other crates over SQLite and PostgreSQL.
//!
//! | [`Location`] | for | writers |
//! |---|---|---|
//! | an SQLite file, in WAL mode | one controller, nothing to install | one connection, whole transactions one after the other |
//! | a PostgreSQL database | any number of controllers | several; those of one organisation one after the other |
//!
//! Every change is one transaction that is on the disk before it is answered. It raises the version of its organisation,
//! which is the version of each document that it touches, and has the organisation to itself until it ends: on both
//! databases what a change checks stays true until its commit, and versions become visible in their order. A store that is
//! unlocked ([`Store::unlock`]) seals what is secret or personal under data keys of each organisation, which are wrapped by
//! a master key ([`KeyEncryption`]) that never enters the database. A database of a newer schema is refused and left alone. `docs/data-model.md` shows the tables, `docs/decisions/0006-two-databases.md` says why it is so.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use jiff::SignedDuration;
//! use ztka_controller::{Controller, Settings, store::Stores};
//! use ztka_core::SystemClock;
//! use ztka_pki::Names;
//! use ztka_store::{MasterKey, Masters, SealedKeyStore, Store};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let provider = Arc::new(rustls::crypto::ring::default_provider());
//! let master = MasterKey::load_or_create(&directory.join("master.key"))?;
//! let store = Store::sqlite(&directory.join("ztka.db")).await?.unlock(Masters::of(master)).await?;
//! let keys = Arc::new(SealedKeyStore::new(store.clone(), provider.clone()));
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
mod backup;
mod bodies;
mod change;
mod changes;
mod delete;
mod documents;
mod encryption;
mod enrolment;
mod error;
mod hints;
mod identity;
mod jobs;
mod keys;
mod location;
mod log;
mod members;
mod migrate;
mod pages;
mod policy;
mod postgres;
mod purge;
mod recordings;
mod resources;
mod revocations;
mod room;
mod row;
mod sql;
mod sqlite;
mod store;

#[cfg(feature = "pkcs11")]
pub use self::encryption::TokenKey;
pub(crate) use self::error::Failed;
pub use self::{
    backup::{BackupError, BackupKey, Contents, Plan, Replaced, back_up, check, fits, new_history, restore},
    encryption::{KeyEncryption, MasterKey, MasterKeyError, Masters, NotOpened, UnlockError},
    keys::SealedKeyStore,
    location::{BadLocation, Location, OpenError, Unsuitable},
    migrate::{MigrateError, SCHEMA_VERSION},
    store::{Patience, Store},
};
