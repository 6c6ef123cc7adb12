//! How proxies and agents are members of an installation: how they join, hear from the controller, and what they know.
//!
//! [`Member::join`] enrols with a one-time token, once; from then on the credential renews itself.
//!
//! ```text
//! controller ── GET /v1/documents?from=N, one JSON line each ──► Follower ──► Documents ──► trust, policy in force
//!                                                                                │          sessions by credential
//!                                                                                └────────► state directory (0600)
//! ```
//!
//! [`Documents`] believes a document only if a trusted signing key signed it, it has not expired, and none newer of its
//! series is held. What was believed is kept on disk, and believed again at the next start by the same rules: with every
//! controller down, a restarted proxy goes on.
mod channel;
mod disk;
mod documents;
mod follower;
mod join;
mod member;
mod own;
mod renewal;
mod share;
mod ship;
#[cfg(test)]
mod tests;
mod views;

pub use self::{
    channel::{Channel, ChannelError},
    documents::{BootstrapError, Documents},
    follower::{Follower, Line},
    member::{JoinError, Member, Membership},
    renewal::Renewal,
    ship::ToController,
};
