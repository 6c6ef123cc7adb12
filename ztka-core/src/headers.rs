//! Which of a client's headers travel on, and the names that only we may use.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, header};

/// Names on a tunnel what proves who the user is ([`EvidenceId`](crate::EvidenceId)).
pub static EVIDENCE: HeaderName = HeaderName::from_static("ztka-evidence");
/// Carries on a tunnel the method of an upgrade, which itself is a CONNECT.
pub static METHOD: HeaderName = HeaderName::from_static("ztka-method");
/// Names on a tunnel the policy that allowed the request ([`Revision`](crate::Revision)).
pub static POLICY: HeaderName = HeaderName::from_static("ztka-policy");
/// Carries on a tunnel the user's network address, which only a proxy vouches for.
pub static SOURCE: HeaderName = HeaderName::from_static("ztka-source");

/// True for names that are ours between proxy and agent, whoever sends them.
pub fn is_internal(name: &HeaderName) -> bool {
    name.as_str().starts_with("ztka-")
}

/// Hop-by-hop (RFC 9110 §7.6.1) and what describes the connection instead of the message.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::HOST
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::EXPECT
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// What says who somebody is, or claims to. An underscore counts as a hyphen, since some servers make no difference.
fn is_identity(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 4] = ["impersonate-", "x-remote-", "x-forwarded-", "ztka-"];
    let text = name.as_str();
    let starts = |prefix: &str| {
        let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
        text.len() >= prefix.len() && text.bytes().zip(prefix.bytes()).all(same)
    };
    matches!(*name, header::AUTHORIZATION | header::FORWARDED)
        || matches!(text, "audit-id" | "audit_id")
        || PREFIXES.into_iter().any(starts)
}

/// True for names that no client may send on: hop-by-hop, about identity, or ours.
fn is_dropped(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || is_identity(name) || is_internal(name)
}

/// Drops from trailers what would have been dropped from headers. Of request trailers everything may be dropped as
/// well: Kubernetes reads none.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let dropped: Vec<HeaderName> =
        trailers.keys().filter(|name| is_dropped(name) || **name == header::COOKIE).cloned().collect();
    for name in dropped {
        trailers.remove(name);
    }
}

/// The headers of `received` that travel on. First whatever `Connection` names is dropped, so that it cannot be used to
/// drop what is added later (CVE-2021-31999); cookies pass only where `cookies` says so.
pub(crate) fn travelling(received: &HeaderMap, cookies: bool) -> HeaderMap {
    let named: HashSet<HeaderName> = received
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(received.keys_len() + 4);
    for (name, value) in received {
        let dropped = is_dropped(name) || (*name == header::COOKIE && !cookies) || named.contains(name);
        if !dropped {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests;
