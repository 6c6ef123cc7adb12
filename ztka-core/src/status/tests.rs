//! What kubectl gets to print, word for word as an apiserver says it.

use http::Uri;
use http_body_util::BodyExt as _;
use jiff::Timestamp;

use super::*;
use crate::{Malformed, Session};

fn json(status: Status) -> (Response<()>, String) {
    let (head, body) = status.into_response().into_parts();
    let mut body = std::pin::pin!(body.collect());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(collected) = body.as_mut().poll(&mut context) else { panic!("the body is at hand") };
    let bytes = collected.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(bytes.to_vec()).unwrap())
}

fn forbidden(method: &str, uri: &str) -> Status {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: "alice@example.com".parse().unwrap(),
        groups: vec![],
        attributes: crate::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    let alice = Principal::new("acme".parse().unwrap(), session);
    let uri: Uri = uri.parse().unwrap();
    let asked = RequestAttributes::parse(&method.parse().unwrap(), &uri, None).unwrap();
    Status::forbidden(&alice, &asked, "no binding allows it")
}

#[test]
fn forbidden_in_the_apiservers_words() {
    for (method, uri, expected) in [
        (
            "GET",
            "/api/v1/namespaces/default/pods",
            r#"pods is forbidden: User "alice@example.com" cannot list resource "pods" in API group "" in the namespace "default": no binding allows it"#,
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/web",
            r#"pods "web" is forbidden: User "alice@example.com" cannot get resource "pods" in API group "" in the namespace "default": no binding allows it"#,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/web/exec",
            r#"pods "web" is forbidden: User "alice@example.com" cannot create resource "pods/exec" in API group "" in the namespace "default": no binding allows it"#,
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/web/scale",
            r#"deployments.apps "web" is forbidden: User "alice@example.com" cannot patch resource "deployments/scale" in API group "apps" in the namespace "default": no binding allows it"#,
        ),
        (
            "DELETE",
            "/api/v1/nodes",
            r#"nodes is forbidden: User "alice@example.com" cannot deletecollection resource "nodes" in API group "" at the cluster scope: no binding allows it"#,
        ),
        ("GET", "/metrics", r#"forbidden: User "alice@example.com" cannot get path "/metrics": no binding allows it"#),
        (
            "GET",
            "/logs/%22%3Cb%3E&x",
            r#"forbidden: User "alice@example.com" cannot get path "/logs/\"&lt;b&gt;&amp;x": no binding allows it"#,
        ),
    ] {
        let status = forbidden(method, uri);
        assert_eq!(status.message(), expected);
        assert_eq!(status.code(), 403);
    }
}

#[test]
fn the_object_is_kubernetes_own() {
    let (head, body) = json(forbidden("GET", "/apis/apps/v1/namespaces/default/deployments/web"));
    assert_eq!(
        body,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" is forbidden: User \"alice@example.com\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"default\": no binding allows it","reason":"Forbidden","details":{"name":"web","group":"apps","kind":"deployments"},"code":403}"#
    );
    assert_eq!(head.status(), 403);
    assert_eq!(head.headers()["content-type"], "application/json");
    assert_eq!(head.headers()["cache-control"], "no-cache, private");
    assert_eq!(head.headers()["x-content-type-options"], "nosniff");

    let (_, body) = json(forbidden("GET", "/metrics"));
    assert!(body.contains(r#""reason":"Forbidden","details":{},"code":403}"#), "{body}");
}

#[test]
fn every_refusal_has_its_code() {
    let uri = Uri::from_static("/api/v1//pods");
    let malformed = Malformed::new(&uri, "the path has an empty segment");
    let long: Uri = format!("/{}", "x".repeat(62_000)).parse().unwrap();
    let long = RequestAttributes::parse(&http::Method::GET, &long, None).unwrap_err();
    for (reason, code, kind, retry_after) in [
        (Reason::Unauthenticated("log in".into()), 401, "Unauthorized", None),
        (Reason::Misdirected("another cluster"), 421, "", None),
        (Reason::Malformed(malformed), 400, "BadRequest", None),
        (Reason::Malformed(long), 414, "BadRequest", None),
        (Reason::Unrecorded("the disk is full".into()), 503, "ServiceUnavailable", Some("5")),
        (Reason::NoPolicy("no policy"), 503, "ServiceUnavailable", Some("5")),
        (Reason::Stale("too old".into()), 503, "ServiceUnavailable", None),
        (Reason::Denied("no".into()), 403, "Forbidden", None),
        (Reason::Overloaded("too many"), 429, "TooManyRequests", Some("1")),
    ] {
        let status = Status::from(&reason);
        assert_eq!(status.message(), reason.to_string());
        let (head, body) = json(status);
        assert_eq!(head.status().as_u16(), code);
        assert!(
            body.contains(&format!(r#""reason":"{kind}""#)) && body.contains(&format!(r#""code":{code}"#)),
            "{body}"
        );
        assert_eq!(head.headers().get("retry-after").map(|value| value.to_str().unwrap()), retry_after);
        assert_eq!(body.contains("retryAfterSeconds"), retry_after.is_some());
    }
}

#[test]
fn a_401_is_a_warning_too() {
    let (head, _) = json(Status::new(StatusCode::UNAUTHORIZED, "say \"friend\"\r\nat C:\\ – now"));
    assert_eq!(head.headers()["warning"], r#"299 - "say \"friend\"??at C:\\ ? now""#);
    let (head, _) = json(Status::new(StatusCode::FORBIDDEN, "no"));
    assert!(head.headers().get("warning").is_none());
}
