//! The proxy's end: agents' tunnels in a registry, and permitted requests dispatched into them.

mod bare;
mod board;
mod dispatch;
mod evidence;
mod exchange;
mod lease;
mod registry;
mod session;
mod tunnel;

pub use self::{bare::Bare, dispatch::Dispatch, registry::Registry, tunnel::TunnelPeer};
