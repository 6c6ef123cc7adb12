//! The two protocols that a request may change to.

use http::{HeaderMap, Version, header, request::Parts};

/// A protocol that Kubernetes streams over.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Upgrade {
    /// RFC 6455.
    WebSocket,
    /// SPDY/3.1, as Kubernetes uses it.
    Spdy31,
}

impl Upgrade {
    /// The token of the `Upgrade` header, and of `:protocol` on a tunnel.
    pub fn token(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Spdy31 => "SPDY/3.1",
        }
    }

    /// Reads a token, in any case.
    pub fn from_token(token: &str) -> Option<Self> {
        [Self::WebSocket, Self::Spdy31].into_iter().find(|upgrade| upgrade.token().eq_ignore_ascii_case(token))
    }

    /// What `head` asks to change to: an extension of this type (from a tunnel), else the headers of HTTP/1.1.
    ///
    /// `Err` says why the request to upgrade cannot be carried.
    pub(crate) fn asked(head: &Parts) -> Result<Option<Self>, &'static str> {
        if carries_bearer_token(&head.headers) {
            return Err("a bearer token in Sec-WebSocket-Protocol is not accepted here; use a client certificate");
        }
        if let Some(upgrade) = head.extensions.get::<Self>() {
            return Ok(Some(*upgrade));
        }
        if head.version != Version::HTTP_11 || !names_upgrade(&head.headers) {
            return match head.headers.contains_key(header::UPGRADE) {
                true => Err("an Upgrade header needs HTTP/1.1 and Connection: Upgrade"),
                false => Ok(None),
            };
        }
        let mut tokens = head.headers.get_all(header::UPGRADE).iter();
        let (Some(token), None) = (tokens.next(), tokens.next()) else {
            return Err("exactly one Upgrade header is needed");
        };
        let token = token.to_str().ok().and_then(Self::from_token);
        token.ok_or("only WebSocket and SPDY/3.1 can be upgraded to").map(Some)
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// `base64url.bearer.authorization.k8s.io.<token>`: how browsers hand a token to an apiserver.
fn carries_bearer_token(headers: &HeaderMap) -> bool {
    const BEARER: &[u8] = b"bearer.authorization.k8s.io";
    headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.windows(BEARER.len()).any(|part| part == BEARER)
    })
}

#[cfg(test)]
mod tests;
