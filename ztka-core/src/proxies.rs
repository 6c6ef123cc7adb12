//! What is known of a proxy beside its certificate: where it is, and how to reach it and no other.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{ProxyId, Zone};

/// Header in which a proxy announces its [`Zone`] when it begins to follow the controller.
pub static PROXY_ZONE: HeaderName = HeaderName::from_static("ztka-proxy-zone");
/// Header in which a proxy announces the [`HostPort`] at which it, and no other, is reached.
pub static PROXY_ADDRESS: HeaderName = HeaderName::from_static("ztka-proxy-address");

/// Header in which a proxy announces the [`HostPort`] at which other proxies pass requests on to it.
pub static PROXY_PEERS: HeaderName = HeaderName::from_static("ztka-proxy-peers");

/// Header by which a proxy that stops says that it follows the controller to its end, and is not to be announced.
pub static PROXY_STOPS: HeaderName = HeaderName::from_static("ztka-proxy-stops");

/// A proxy as the directory knows it. Who it is, its certificate said to the controller; the rest it says itself, and who
/// connects to it looks at its certificate again.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ProxyEntry {
    /// The proxy.
    pub id: ProxyId,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// An address of its own, if it has one; the name to ask for there is `<proxy-id>.tunnel.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<HostPort>,
    /// Where other proxies pass requests on to it; only proxies are told. The name to ask for there is `peer.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<HostPort>,
}

/// `host:port`, the host a DNS name or an IP address (IPv6 in square brackets).
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

/// A text that is no [`HostPort`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not host:port with a DNS name or an IP address, an IPv6 address in square brackets")]
pub struct InvalidHostPort(String);

impl HostPort {
    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let invalid = || InvalidHostPort(text.chars().take(300).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or_else(invalid)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| invalid())?.to_string(),
            None if is_dns_name(host) => host.to_ascii_lowercase(),
            None => return Err(invalid()),
        };
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(text: String) -> Result<Self, InvalidHostPort> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> Self {
        address.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for (text, same) in [
            ("P1.tunnel.example.com:443", "p1.tunnel.example.com:443"),
            ("127.0.0.1:8443", "127.0.0.1:8443"),
            ("[::1]:443", "[::1]:443"),
            ("[0:0::1]:443", "[::1]:443"),
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), same);
        }
        for text in [
            "",
            "host",
            "host:",
            ":443",
            "host:0",
            "host:+443",
            "host:65536",
            "::1:443",
            "[host]:443",
            "a b:443",
            "a..b:443",
            "-a:443",
            "https://host:443",
            "a@b:443",
            "host/x:443",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_by_who_knows_more() {
        let wire = r#"{"id":"p1","zone":"eu-1a","address":"p1.tunnel.example.com:443"}"#;
        let entry: ProxyEntry = serde_json::from_str(wire).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), wire);
        let bare: ProxyEntry = serde_json::from_str(r#"{"id":"p1","later":1}"#).unwrap();
        assert_eq!((bare.zone, bare.address, bare.peers), (None, None, None));
        let wire = r#"{"id":"p1","peers":"10.0.0.7:8444"}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<ProxyEntry>(wire).unwrap()).unwrap(), wire);
        assert!(serde_json::from_str::<ProxyEntry>(r#"{"id":"p1","address":"nowhere"}"#).is_err());
    }
}
