//! Reverse HTTP/2 tunnel: agents dial out, requests go in through them.
mod agent;
mod error;
mod io;
mod link;
mod proxy;
mod settings;
mod stream;
mod wire;

pub use self::{
    agent::{
        Connect, ConnectFn, DialSettings, Dialer, InvalidAddress, PeerCheck, ProxyAddress, Tls, TunnelState, connect_fn,
    },
    error::{ConnectError, TunnelError},
    io::ReadAhead,
    proxy::{Dispatch, Registry, TunnelPeer},
    settings::Settings,
    stream::Channel,
    wire::{
        ALPN, AUDIT_ID, DOCUMENT, DOCUMENTS_PATH, DRAIN_PATH, EVIDENCE_PATH, HELLO_PATH, OWN_PATHS, PROTOCOL,
        PROTOCOL_HEADER, READY_PATH, UNKNOWN,
    },
};
