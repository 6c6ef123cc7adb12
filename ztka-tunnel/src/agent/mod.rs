//! The agent's end: tunnels dialled to some of the proxies, and a service that answers what comes through them.

mod answer;
mod attempt;
mod connect;
mod dialer;
mod hold;
mod serve;
mod splice;
mod tls;

pub(crate) use self::serve::{End, Phase, serve};
pub use self::{
    connect::{Connect, ConnectFn, InvalidAddress, ProxyAddress, connect_fn},
    dialer::{DialSettings, Dialer, TunnelState},
    hold::KnownProxy,
    tls::{PeerCheck, Tls},
};
