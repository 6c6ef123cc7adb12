//! Where an egress proxy is: a URL as in `HTTPS_PROXY`.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

/// `http://host:port` or `https://host:port`, with `user:password@` before the host if the proxy wants them.
///
/// As curl reads it: without a scheme it is `http`; the port is 1080 for `http` and 443 for `https` unless said; user and
/// password are percent-decoded; a path is ignored. Shown without credentials.
#[derive(Clone, Eq, PartialEq)]
pub struct ProxyUrl {
    is_tls: bool,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

#[derive(Clone, Eq, PartialEq)]
struct Credentials {
    user: String,
    password: Zeroizing<String>,
}

/// A text that is no proxy's URL. It is not repeated here: it may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the URL of an HTTP proxy: {0}; write http://host:port or https://host:port")]
pub struct InvalidProxyUrl(&'static str);

impl ProxyUrl {
    /// The same with Basic credentials (RFC 7617).
    ///
    /// # Errors
    /// [`InvalidProxyUrl`]: a user must not contain a colon, and neither a control character.
    pub fn with_credentials(self, user: &str, password: &str) -> Result<Self, InvalidProxyUrl> {
        if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
            return Err(InvalidProxyUrl("user or password has a character that Basic credentials cannot have"));
        }
        let credentials = Credentials { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) };
        Ok(Self { credentials: Some(credentials), ..self })
    }

    /// Whether TLS is spoken with the proxy itself.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether there are credentials for it.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Its host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What goes into `Proxy-Authorization`.
    pub(super) fn authorization(&self) -> Option<Zeroizing<String>> {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let Credentials { user, password } = self.credentials.as_ref()?;
        let pair = Zeroizing::new(format!("{user}:{}", **password));
        Some(Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(&*pair))))
    }
}

impl FromStr for ProxyUrl {
    type Err = InvalidProxyUrl;

    fn from_str(text: &str) -> Result<Self, InvalidProxyUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(InvalidProxyUrl("its scheme is neither http nor https")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (userinfo, place) = match authority.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, authority),
        };
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(InvalidProxyUrl("a bracket is not closed"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| InvalidProxyUrl("no IPv6 address in brackets"))?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        } else {
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            (host, Some(port))
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(InvalidProxyUrl("its host is neither a name nor an address"));
        }
        let port = match port {
            Some("") if is_tls => 443,
            Some("") => 1080,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(InvalidProxyUrl("its port is no number"))?,
            None => return Err(InvalidProxyUrl("its port is no number")),
        };
        let url = Self { is_tls, host: host.to_owned(), port, credentials: None };
        let Some(userinfo) = userinfo else { return Ok(url) };
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let decode = |text| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map_err(|_| InvalidProxyUrl("user or password is not UTF-8"))
        };
        let password = Zeroizing::new(decode(password)?.into_owned());
        url.with_credentials(&decode(user)?, &password)
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", super::connect::authority(&self.host, self.port))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
