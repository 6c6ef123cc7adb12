//! The agent's end: tunnels dialled to each proxy, and a service that answers what comes through them.

mod answer;
mod backoff;
mod connect;
mod dialer;
mod serve;
mod slot;
mod splice;
mod tls;

pub use self::{
    connect::{Connect, ConnectFn, InvalidAddress, ProxyAddress, connect_fn},
    dialer::{DialSettings, Dialer, TunnelState},
    tls::{PeerCheck, Tls},
};
