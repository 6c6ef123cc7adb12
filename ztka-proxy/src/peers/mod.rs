//! Requests that other proxies pass on: who they are really from, and the listener that takes them; and links to those
//! proxies that take ours.

mod accept;
mod links;
mod witness;

pub use self::{
    accept::PeerAcceptor,
    links::{PeerCheck, follow_peers},
    witness::{PeerEvidence, PeerEvidenceLayer, PeerWitness},
};
