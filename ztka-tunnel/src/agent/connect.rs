//! Getting an authenticated connection to a proxy, by whatever transport.

use std::{fmt, str::FromStr};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use ztka_core::{ProxyId, Verified};

use crate::ConnectError;

/// Where a proxy is and what it is called. As text `host:port`; the TLS server name is `host` unless set otherwise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyAddress {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

/// A text that is no proxy's address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not the address of a proxy; write host:port, an IPv6 address in square brackets")]
pub struct InvalidAddress(String);

impl ProxyAddress {
    /// The proxy at `host` (DNS name or IP address) and `port`.
    ///
    /// # Errors
    /// [`InvalidAddress`] if `host` is neither.
    pub fn new(host: impl Into<String>, port: u16) -> Result<Self, InvalidAddress> {
        let host = host.into();
        let server_name = ServerName::try_from(host.clone()).map_err(|_| InvalidAddress(host.clone()))?;
        Ok(Self { host, port, server_name })
    }

    /// Asks for `server_name` by TLS instead of the host.
    #[must_use]
    pub fn named(mut self, server_name: ServerName<'static>) -> Self {
        self.server_name = server_name;
        self
    }

    /// Host to connect to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Name that the proxy's certificate has to be for.
    pub fn server_name(&self) -> &ServerName<'static> {
        &self.server_name
    }
}

impl FromStr for ProxyAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) => host,
            None if host.contains(':') => return Err(invalid()),
            None => host,
        };
        let port = port.parse().map_err(|_| invalid())?;
        Self::new(host, port).map_err(|_| invalid())
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Makes connections to proxies on which both sides are authenticated. [`Tls`](crate::Tls) is TCP and TLS.
pub trait Connect: Send + Sync + 'static {
    /// What HTTP/2 is spoken on.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `proxy` and says who it has proved to be. The caller bounds the time; cancel safe.
    fn connect(
        &self,
        proxy: &ProxyAddress,
    ) -> impl Future<Output = Result<(Self::Io, Verified<ProxyId>), ConnectError>> + Send;
}

/// [`Connect`] by a function; see [`connect_fn`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectFn<F>(F);

/// A [`Connect`] out of an async function from address to connection.
pub fn connect_fn<F>(connect: F) -> ConnectFn<F> {
    ConnectFn(connect)
}

impl<F, R, T> Connect for ConnectFn<F>
where
    F: Fn(ProxyAddress) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(T, Verified<ProxyId>), ConnectError>> + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = T;

    fn connect(
        &self,
        proxy: &ProxyAddress,
    ) -> impl Future<Output = Result<(T, Verified<ProxyId>), ConnectError>> + Send {
        (self.0)(proxy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_written() {
        for text in ["tunnel.example.com:443", "127.0.0.1:8443", "[::1]:443"] {
            assert_eq!(text.parse::<ProxyAddress>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:", "host:65536", "::1:443", ":443", "a b:443", "https://host:443"] {
            assert!(text.parse::<ProxyAddress>().is_err(), "{text}");
        }
    }
}
