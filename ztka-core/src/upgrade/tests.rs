//! Which changes of protocol are carried (security rules 4 and 12).

use http::{HeaderValue, Request};

use super::*;

fn asked(version: Version, lines: &[(&'static str, &[u8])]) -> Result<Option<Upgrade>, &'static str> {
    let mut request = Request::new(());
    *request.version_mut() = version;
    for (name, value) in lines {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    Upgrade::asked(&request.into_parts().0)
}

const UPGRADE: (&str, &[u8]) = ("connection", b"Upgrade");

#[test]
fn web_socket_and_spdy_are_read() {
    let h1 = |lines: &[(&'static str, &[u8])]| asked(Version::HTTP_11, lines);
    assert_eq!(h1(&[]), Ok(None));
    assert_eq!(h1(&[("connection", b"keep-alive")]), Ok(None));
    assert_eq!(h1(&[UPGRADE, ("upgrade", b"SPDY/3.1")]), Ok(Some(Upgrade::Spdy31)));
    assert_eq!(h1(&[UPGRADE, ("upgrade", b"spdy/3.1")]), Ok(Some(Upgrade::Spdy31)));
    assert_eq!(h1(&[("connection", b"keep-alive, UPGRADE"), ("upgrade", b"WebSocket")]), Ok(Some(Upgrade::WebSocket)));
    assert_eq!(
        h1(&[
            ("connection", b"x"),
            UPGRADE,
            ("upgrade", b"websocket"),
            ("sec-websocket-protocol", b"v5.channel.k8s.io")
        ]),
        Ok(Some(Upgrade::WebSocket))
    );
}

#[test]
fn everything_else_is_refused() {
    let web_socket: (&str, &[u8]) = ("upgrade", b"websocket");
    for (version, lines) in [
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"h2c".as_slice())]),
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"TLS/1.3")]),
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"SPDY/3")]),
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"websocket, h2c")]),
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"")]),
        (Version::HTTP_11, vec![UPGRADE, ("upgrade", b"\xff")]),
        (Version::HTTP_11, vec![UPGRADE, web_socket, ("upgrade", b"SPDY/3.1")]),
        (Version::HTTP_11, vec![UPGRADE, web_socket, web_socket]),
        (Version::HTTP_11, vec![UPGRADE]),
        (Version::HTTP_11, vec![web_socket]),
        (Version::HTTP_11, vec![("connection", b"close"), web_socket]),
        (Version::HTTP_10, vec![UPGRADE, web_socket]),
        (Version::HTTP_2, vec![web_socket]),
        (Version::HTTP_2, vec![UPGRADE, web_socket]),
    ] {
        assert!(asked(version, &lines).is_err(), "{version:?} {lines:?}");
    }
}

#[test]
fn a_token_among_the_protocols_is_refused_and_not_repeated() {
    const TOKEN: &[u8] = b"base64url.bearer.authorization.k8s.io.c2VjcmV0";
    for value in [
        TOKEN,
        b"v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0",
        b"\xff, \
        BASE64URL.Bearer.Authorization.K8s.IO.c2VjcmV0",
    ] {
        let lines = [UPGRADE, ("upgrade", b"websocket".as_slice()), ("sec-websocket-protocol", value)];
        for lines in [&lines[..], &lines[2..]] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let refused = asked(version, lines).unwrap_err();
                assert!(refused.contains("certificate") && !refused.contains("c2VjcmV0"));
            }
        }
    }
    // On a tunnel, too: the agent believes no proxy.
    let mut request = Request::builder().header("sec-websocket-protocol", TOKEN).body(()).unwrap();
    request.extensions_mut().insert(Upgrade::WebSocket);
    assert!(Upgrade::asked(&request.into_parts().0).is_err());
}

#[test]
fn on_a_tunnel_the_extension_counts() {
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let mut request = Request::new(());
        *request.version_mut() = version;
        request.extensions_mut().insert(Upgrade::Spdy31);
        assert_eq!(Upgrade::asked(&request.into_parts().0), Ok(Some(Upgrade::Spdy31)));
    }
}

#[test]
fn tokens_are_read_back() {
    for upgrade in [Upgrade::WebSocket, Upgrade::Spdy31] {
        assert_eq!(Upgrade::from_token(upgrade.token()), Some(upgrade));
    }
    assert_eq!(Upgrade::from_token("h2c"), None);
}
