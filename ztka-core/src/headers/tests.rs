//! Nothing of a client's that says who somebody is travels on (security rules 1 to 4).

use http::HeaderValue;

use super::*;

fn map(lines: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        // Any case: names are lower case from here on.
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

const CLAIMS: [&str; 26] = [
    "Impersonate-User",
    "IMPERSONATE-GROUP",
    "impersonate-uid",
    "Impersonate-Extra-Scopes",
    "impersonate_user",
    "X-Remote-User",
    "x-remote-group",
    "X-Remote-Uid",
    "X-REMOTE-EXTRA-scopes",
    "X_Remote_User",
    "Authorization",
    "Proxy-Authorization",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "x-forwarded-client-cert",
    "x_forwarded_for",
    "Audit-ID",
    "audit_id",
    "ztka-evidence",
    "ZTKA-Policy",
    "ztka-source",
    "ztka-method",
    "Ztka_Source",
    "ztka-anything",
    "cookie",
];

const HOP_BY_HOP: [&str; 13] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "HTTP2-Settings",
    "Host",
    "Expect",
    "expect",
];

#[test]
fn claims_and_hop_by_hop_headers_end_here() {
    for name in CLAIMS.into_iter().chain(HOP_BY_HOP) {
        for value in [b"x".as_slice(), b"", b"\xff"] {
            let received = map(&[(name, value), ("accept", b"*/*"), (name, b"again")]);
            assert_eq!(travelling(&received, false), map(&[("accept", b"*/*")]), "{name}");
        }
    }
}

#[test]
fn claims_do_not_pass_as_trailers() {
    for name in CLAIMS.into_iter().chain(HOP_BY_HOP) {
        let mut trailers = map(&[(name, b"x"), ("grpc-status", b"0"), (name, b"y")]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", b"0")]), "{name}");
    }
}

/// CVE-2021-31999, CVE-2022-23652: what is added after this cannot be named by a client.
#[test]
fn connection_drops_what_the_client_sent_and_nothing_that_is_added_later() {
    let received = map(&[
        ("Connection", b"Impersonate-User, x-own ,ztka-evidence"),
        ("connection", b"upgrade,\xff, ztka-policy,,"),
        ("x-own", b"1"),
        ("x-other", b"2"),
    ]);
    let mut kept = travelling(&received, false);
    assert_eq!(kept, map(&[("x-other", b"2")]));
    kept.insert("impersonate-user", HeaderValue::from_static("alice"));
    kept.insert(EVIDENCE.clone(), HeaderValue::from_static("e"));
    assert_eq!(kept.len(), 3);
    assert!(!kept.contains_key(header::CONNECTION));
}

#[test]
fn cookies_pass_where_they_are_the_services_own() {
    let received = map(&[("Cookie", b"a=b"), ("Authorization", b"Bearer x")]);
    assert_eq!(travelling(&received, true), map(&[("cookie", b"a=b")]));
    assert_eq!(travelling(&received, false), HeaderMap::new());
    let named = map(&[("Cookie", b"a=b"), ("Connection", b"cookie")]);
    assert_eq!(travelling(&named, true), HeaderMap::new());
}

#[test]
fn the_others_travel_on_in_order() {
    let received = map(&[
        ("Accept", b"application/vnd.kubernetes.protobuf"),
        ("Accept", b"application/json"),
        ("Content-Type", b"application/apply-patch+yaml"),
        ("User-Agent", b"kubectl/v1.35"),
        ("Kubectl-Command", b"kubectl get"),
        ("X-Stream-Protocol-Version", b"v4.channel.k8s.io"),
        ("X-Stream-Protocol-Version", b"v3.channel.k8s.io"),
        ("Sec-WebSocket-Key", b"AAAA"),
        ("If-None-Match", b"\"x\""),
        ("impersonated", b"no claim"),
        ("x-remote", b"no claim"),
    ]);
    assert_eq!(travelling(&received, false), received);
}

#[test]
fn many_names_in_connection_are_no_burden() {
    let names: Vec<String> = (0..20_000).map(|name| format!("n{name}")).collect();
    let mut received = map(&[("connection", names.join(",").as_bytes())]);
    for name in 0..400 {
        received.append(HeaderName::from_bytes(format!("n{name}").as_bytes()).unwrap(), HeaderValue::from_static("x"));
    }
    assert_eq!(travelling(&received, false), HeaderMap::new());
}
