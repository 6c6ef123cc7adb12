//! Why a tunnel ended or could not be had.

use std::time::Duration;

use ztka_core::BoxError;

/// Why a tunnel ended, or never came to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The connection broke or the peer broke the rules of HTTP/2.
    #[error("the tunnel's connection broke")]
    Connection(#[source] h2::Error),
    /// The transport failed below HTTP/2.
    #[error("the tunnel's transport broke")]
    Transport(#[from] std::io::Error),
    /// The peer has sent nothing for too long.
    #[error("the peer has sent nothing for {0:?}; its machine or the network between is down")]
    Dead(Duration),
    /// The peer is heard, but has not answered a PING for too long.
    #[error("the peer has not answered a PING for {0:?}; the network drops what is sent to it")]
    Deaf(Duration),
    /// The peer sends what none needs, and would cost more than it is worth.
    #[error("the peer sends what no peer of a tunnel needs, so its connection is closed")]
    BadFrames(#[from] crate::BadFrames),
    /// Set-up took too long.
    #[error("the tunnel was not ready in {0:?}; check that both ends run and are not overloaded")]
    SetUp(Duration),
    /// One request of the tunnel's own was not answered in time.
    #[error("the agent has not answered in {0:?}; check that it is not overloaded")]
    Late(Duration),
    /// The peer speaks another version of the contract, or is no ZTKA peer.
    #[error("the peer does not speak protocol {PROTOCOL}: {0}; update the older side", PROTOCOL = crate::PROTOCOL)]
    Protocol(&'static str),
    /// The cluster has as many tunnels here as it may have.
    #[error("the cluster has {0} tunnels already; check for agents that redial without end")]
    TooMany(usize),
    /// This side ended the tunnel: cluster removed, instance revoked, drained or shut down.
    #[error("the tunnel was ended on this side")]
    Ended,
}

impl TunnelError {
    /// The peer has said that it takes nothing new (RFC 9113 §6.8), which is no trouble.
    pub(crate) fn is_farewell(&self) -> bool {
        matches!(self, Self::Connection(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    }
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        Self::Connection(error)
    }
}

/// Why a proxy could not be reached or was not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection out of the network.
    #[error(transparent)]
    Egress(#[from] crate::EgressError),
    /// No TLS session.
    #[error("TLS with {address} failed; check the agent's certificate, the trust bundle and both clocks")]
    Tls {
        /// `host:port`
        address: String,
        /// What TLS said.
        source: std::io::Error,
    },
    /// TLS is up, but the peer is not a proxy we trust or does not speak HTTP/2.
    #[error("{address} is not a proxy of this installation")]
    Peer {
        /// `host:port`
        address: String,
        /// What the check said.
        source: BoxError,
    },
    /// It took too long.
    #[error("no connection to {address} in {after:?}; a firewall may drop packets to it")]
    Timeout {
        /// `host:port`
        address: String,
        /// The bound.
        after: Duration,
    },
    /// Another connector's own error.
    #[error("the connector failed")]
    Other(#[source] BoxError),
}
