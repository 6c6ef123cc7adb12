//! Which of a client's headers travel on, and the names that only we may use.

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

/// What says who somebody is, or claims to.
fn is_identity(name: &HeaderName) -> bool {
    let text = name.as_str();
    matches!(*name, header::AUTHORIZATION | header::FORWARDED)
        || text == "audit-id"
        || ["impersonate-", "x-remote-", "x-forwarded-"].iter().any(|prefix| text.starts_with(prefix))
}

/// The headers of `received` that travel on. First whatever `Connection` names is dropped, so that it cannot be used to
/// drop what is added later (CVE-2021-31999); cookies pass only where `cookies` says so.
pub(crate) fn travelling(received: &HeaderMap, cookies: bool) -> HeaderMap {
    let named: Vec<HeaderName> = received
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(received.keys_len() + 4);
    for (name, value) in received {
        let dropped = is_hop_by_hop(name)
            || is_identity(name)
            || is_internal(name)
            || (*name == header::COOKIE && !cookies)
            || named.contains(name);
        if !dropped {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}
