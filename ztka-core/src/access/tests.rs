//! The stages as a client can try to get past them.

use std::cell::Cell;

use jiff::Timestamp;

use super::*;
use crate::{Revision, Session};

fn received(request: http::request::Builder) -> Access<Recorded, ()> {
    let access = authenticated(request, "");
    Recorded::assertion(access, AuditId::generate(), DecisionSlot::default())
}

fn authenticated(request: http::request::Builder, prefix: &str) -> Access<Authenticated, ()> {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice".parse().unwrap(),
        groups: vec![],
        attributes: crate::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse().unwrap(), session));
    let identity = Identity::new(alice, "c1".parse().unwrap(), Evidence::new("…")).addressed_by(prefix);
    let (head, ()) = request.body(()).unwrap().into_parts();
    Authenticated::assertion(identity, &head, ())
}

fn grant() -> Decision {
    Decision::Allow(Grant {
        binding: "b".into(),
        role: "r".into(),
        policy: Revision::default(),
        recording: crate::Recording::Off,
        audit: None,
    })
}

#[test]
fn impersonation_is_never_dropped_silently() {
    for (name, value) in [
        ("Impersonate-User", "bob"),
        ("impersonate-user", ""),
        ("IMPERSONATE-GROUP", "system:masters"),
        ("Impersonate-Extra-a", "b"),
        ("impersonate_user", "bob"),
    ] {
        let access = received(Request::get("/api/v1/pods").header(name, value));
        assert!(access.headers().is_empty());
        let decision = access.stage.decision.clone();
        let refused = Permitted::assertion(access, |_, _, asked| {
            assert!(asked.impersonation().is_some());
            grant()
        });
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), 403);
        assert!(refused.message().contains("impersonation is not granted"), "{}", refused.message());
        assert!(matches!(decision.get(), Some(Decision::Deny(Reason::Denied(_)))));
    }
}

#[test]
fn policy_never_sees_what_is_malformed() {
    let asked = Cell::new(false);
    for request in [
        Request::get("/api/v1/namespaces/default%2fsecrets"),
        Request::get("/api/v1/pods").header("upgrade", "h2c"),
        Request::get("/api/v1/namespaces/a/pods/b/exec")
            .header("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9r"),
    ] {
        let access = received(request);
        let decision = access.stage.decision.clone();
        let refused = Permitted::assertion(access, |_, _, _| {
            asked.set(true);
            grant()
        });
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), 400);
        assert!(!refused.message().contains("dG9r"));
        assert!(matches!(decision.get(), Some(Decision::Deny(Reason::Malformed(_)))));
    }
    assert!(!asked.get());
}

#[test]
fn what_is_sent_is_what_was_decided_on() {
    let access = received(
        Request::get("/%61pi/v1/namespaces/a/pods/b/exec?command=a+b")
            .header("connection", "upgrade, x-dropped")
            .header("upgrade", "SPDY/3.1")
            .header("x-dropped", "1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b"),
    );
    let sent = Permitted::assertion(access, |_, _, _| grant()).unwrap().into_request();
    assert_eq!(sent.uri(), "/api/v1/namespaces/a/pods/b/exec?command=a%20b");
    assert_eq!(sent.extensions().get::<Upgrade>(), Some(&Upgrade::Spdy31));
    assert_eq!(sent.headers().len(), 1);
}

#[test]
fn a_prefix_names_the_cluster_and_is_not_sent() {
    for (uri, expected) in [
        ("/clusters/c1/api/v1/pods?watch=1", Some("/api/v1/pods?watch=1")),
        ("/clusters/c1", Some("/")),
        ("/clusters/c1?x=y", Some("/?x=y")),
        ("/clusters/c1/", Some("/")),
        ("http://any.host/clusters/c1/version", Some("/version")),
        ("/clusters/c11/version", None),
        ("/clusters/c1http://h/version", None),
        ("/clusters/c1//version", None),
        ("/clusters/c1/../c2/version", None),
        ("/version", None),
    ] {
        let access = authenticated(Request::get(uri), "/clusters/c1");
        let path = access.stage().attributes().ok().map(|read| read.path_and_query().as_str());
        assert_eq!(path, expected, "{uri}");
    }
}
