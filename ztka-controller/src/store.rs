//! What a controller keeps, as traits, so that any number of controllers can share one store.
//!
//! A change and the new version of every document that it touches are one transaction. Controllers then sign what is
//! due: whoever comes first publishes, the others find it done.
mod documents;
mod resources;

pub use ztka_identity::StoreError;

pub use self::{
    documents::{Content, DocumentStore, FeedEntry, FeedScope, Published, RevokedFacts, Snapshot},
    resources::{Cluster, Instance, Proxy, ResourceStore},
};
