//! The controller as a library: documents, change feed, enrolment, REST.
//!
//! ```text
//!  API (users CA, requested) ──► change ─┐ one transaction: the change, and the new version of what it touches
//!                                        ▼
//!                     stores ──► what is due ──► signed ──► feed ──► proxies: all  (proxies CA, required)
//!                                                                └─► agents: their organisation's  (agents CA, required)
//!  agents: renewal, receipts ─┐
//!  proxies: renewal, events ──┴► compared: findings
//!  newcomers: one-time token ──► certificate  (no client certificate)
//! ```
//!
//! A [`Controller`] is made from [stores](store::Stores), the certificate authorities in them, and a clock. Its four
//! routers ([`Controller::api`], [`Controller::agents`], [`Controller::enrol`], [`Controller::proxies`]) are plain
//! `axum` routers that expect a [`Verified`](ztka_core::Verified)`<`[`Peer`](ztka_pki::Peer)`>` as request extension;
//! [`serve`] has the listeners that put it there. [`Controller::run`] signs what is due and follows what others signed.
//! Nothing here is on the way of a user's request: with every controller down, proxies and agents go on by the documents
//! that they have.
mod announcements;
mod api;
mod audit;
mod authority;
mod changes;
#[cfg(feature = "conformance")]
pub mod conformance;
mod controller;
mod crls;
mod enrolment;
mod feed;
mod figures;
mod findings;
mod first;
mod heads;
mod ingest;
mod jobs;
mod manifest;
mod policy;
mod publish;
mod recordings;
mod rotation;
pub mod serve;
mod server_certificate;
pub mod store;
mod tree_heads;
mod uses;

pub use ztka_api::SecretPem;

pub use self::{
    api::{Needs, ROUTES, Route},
    changes::ChangeWatch,
    controller::{Controller, OpenError, Settings},
    crls::CrlError,
    figures::{Figures, Records, StoreFailing},
    first::{FirstAdmin, FirstAdminError},
    manifest::{AgentAccess, Manifest, NoSuchRole, render},
    publish::PublishError,
    serve::PeerKey,
    tree_heads::TreeHeadError,
};
