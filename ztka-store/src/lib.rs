//! The store traits of the other crates over SQLite.
//!
//! One file, in WAL mode: one connection writes, a few read. Every change is one transaction that is on the disk before
//! it is answered, and that raises the version of each document it touches. Private keys are stored sealed only.
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
