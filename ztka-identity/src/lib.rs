//! Users, groups, credentials and login sessions.
//!
//! A **credential** is the certificate in one kubeconfig; a **login session** says until when the user behind it may
//! act. They live apart: a certificate may be good for a month while its user has to log in every morning. An
//! organisation whose users do not log in anywhere gives each session the life of its credential.
//!
//! [`Directory`] has the rules, an [`IdentityStore`] keeps what they decide:
//!
//! - names have one spelling only ([`UserName`](ztka_core::UserName)) and are unique in their organisation;
//! - whoever is disabled loses every session in the same transaction, and gets no new credential;
//! - a session never outlives its credential;
//! - there are two administrative roles: [`AdminRole::OrgAdmin`] of one's own organisation, and
//!   [`AdminRole::SystemAdmin`], which only users of the installation's own organisation hold.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use jiff::SignedDuration;
//! use ztka_core::{Clock, ManualClock};
//! use ztka_identity::{Directory, MemoryIdentityStore};
//!
//! let clock = ManualClock::at("2026-01-01T00:00:00Z".parse()?);
//! let directory = Directory::new(Arc::new(MemoryIdentityStore::default()), Arc::new(clock.clone()));
//!
//! let acme = directory.create_org("acme".parse()?).await?;
//! let alice = directory.create_user(&acme.id, "alice@example.com".parse()?, None).await?;
//! let credential = directory.issue_credential(&alice.id, SignedDuration::from_hours(720)).await?;
//! assert!(directory.whoami(&alice.id, &credential.id).await.is_ok());
//!
//! directory.disable(&alice.id).await?;
//! assert!(directory.whoami(&alice.id, &credential.id).await.is_err());
//! # Ok(())
//! # }
//! ```
#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod error;
mod memory;
mod model;
mod outage;
mod store;

pub use self::{
    directory::{Caller, Directory, NotActive},
    error::StoreError,
    memory::MemoryIdentityStore,
    model::{AdminRole, Credential, Group, LoginSession, Org, User},
    outage::{Outage, OutageKind},
    store::IdentityStore,
};
