//! The proxy's end: agents' tunnels in a registry, permitted requests dispatched into them, and links to other proxies.

mod bare;
mod board;
mod dispatch;
mod evidence;
mod exchange;
mod lease;
mod peers;
mod refuse;
mod registry;
mod session;
mod tunnel;

pub use self::{
    bare::Bare,
    board::Audience,
    dispatch::Dispatch,
    peers::{KnownPeer, LastHop, PeerSettings, Peered, Peers},
    refuse::refuse,
    registry::Registry,
    tunnel::TunnelPeer,
};
