//! Names of the wire contract between proxy and agent; `docs/protocol.md` explains them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// ALPN protocol of a tunnel.
pub const ALPN: &[u8] = b"h2";
/// Version of the contract that this crate speaks, `<major>.<minor>`. The same major works together.
pub const PROTOCOL: &str = "1.0";
/// Paths that begin with this are the tunnel's own; no request of a user is sent to one.
pub const OWN_PATHS: &str = "/.ztka/";
/// First request of a proxy: the versions are compared. Answered by this crate.
pub const HELLO_PATH: &str = "/.ztka/hello";
/// From then on the proxy sends users' requests. Answered by this crate.
pub const READY_PATH: &str = "/.ztka/ready";
/// The proxy is about to stop: the agent dials elsewhere before it lets go. Answered by this crate.
pub const DRAIN_PATH: &str = "/.ztka/drain";
/// Takes the evidence that requests refer to; answered by the agent's service, 204 for accepted.
pub const EVIDENCE_PATH: &str = "/.ztka/evidence";
/// Takes one document; answered by the agent's service, 2xx for received.
pub const DOCUMENTS_PATH: &str = "/.ztka/documents";

/// Asked of a proxy by another: the clusters of which there are tunnels, a line each, as they come and go. Answered by this
/// crate.
pub const CLUSTERS_PATH: &str = "/.ztka/clusters";

/// Carries [`PROTOCOL`] in a hello and in its answer.
pub static PROTOCOL_HEADER: HeaderName = HeaderName::from_static("ztka-protocol");
/// Names the document that is carried, in a request to [`DOCUMENTS_PATH`].
pub static DOCUMENT: HeaderName = HeaderName::from_static("ztka-document");
/// Carries the audit id from proxy to agent and on to the apiserver.
pub static AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// In the answer of one proxy to another, why no agent has answered: [`NONE`] or [`BROKEN`].
pub(crate) static TUNNEL: HeaderName = HeaderName::from_static("ztka-tunnel");
/// There is no tunnel of the cluster, and nothing was done.
pub(crate) static NONE: HeaderValue = HeaderValue::from_static("none");
/// The tunnel broke before a byte of an answer; nobody knows how far the agent came.
pub(crate) static BROKEN: HeaderValue = HeaderValue::from_static("broken");

/// Value of [`ztka_core::EVIDENCE`] in an answer: the agent does not hold the evidence that the request names, so the
/// request went nowhere and the evidence has to be sent again.
pub static UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// True where `version` has our major.
pub(crate) fn speaks(version: &HeaderMap) -> bool {
    let major = |text: &str| text.split_once('.').and_then(|(major, _)| major.parse::<u32>().ok());
    let theirs = version.get(&PROTOCOL_HEADER).and_then(|value| value.to_str().ok()).and_then(major);
    theirs.is_some() && theirs == major(PROTOCOL)
}

/// Removes what describes a connection instead of the message (RFC 9110 §7.6.1): HTTP/2 has no place for it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
}

/// Removes what only proxy and agent say to each other.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    let internal: Vec<HeaderName> = headers.keys().filter(|name| ztka_core::is_internal(name)).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_major_works_together() {
        let with = |version| HeaderMap::from_iter([(PROTOCOL_HEADER.clone(), HeaderValue::from_static(version))]);
        assert!(speaks(&with("1.0")) && speaks(&with("1.7")));
        assert!(!speaks(&with("2.0")) && !speaks(&with("1")) && !speaks(&with("x.0")) && !speaks(&HeaderMap::new()));
    }

    #[test]
    fn drops_hop_by_hop_and_whatever_connection_names() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, x-private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("1"));
        headers.insert(header::ETAG, HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::ETAG]);
    }
}
