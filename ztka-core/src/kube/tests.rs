//! The apiserver's rules as a table (`k8s.io/apiserver/pkg/endpoints/request/requestinfo_test.go`, restated), and ours
//! beyond them.

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::*;
use crate::Upgrade;

fn parse(method: &str, uri: &str) -> Result<RequestAttributes, Malformed> {
    let uri: Uri = uri.parse().unwrap();
    RequestAttributes::parse(&method.parse().unwrap(), &uri, None)
}

/// `verb group/version namespace resource/subresource name`, with `-` for what there is none of.
fn told(read: &RequestAttributes) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or("-".into());
    let verb = read.verb();
    match read.target() {
        RequestTarget::NonResource { path } => format!("{verb} {path}"),
        RequestTarget::Resource { group, version, namespace, resource, subresource, name } => {
            let (namespace, subresource, name) = (or(namespace), or(subresource), or(name));
            format!("{verb} {group}/{version} {namespace} {resource}/{subresource} {name}")
        }
    }
}

#[test]
fn reads_what_the_apiserver_reads() {
    for (method, uri, expected) in [
        // objects and collections
        ("GET", "/api/v1/namespaces", "list /v1 - namespaces/- -"),
        ("GET", "/api/v1/namespaces/other", "get /v1 other namespaces/- other"),
        ("PATCH", "/api/v1/namespaces/new", "patch /v1 new namespaces/- new"),
        ("GET", "/api/v1/namespaces/other/pods", "list /v1 other pods/- -"),
        ("GET", "/api/v1/namespaces/other/pods/foo", "get /v1 other pods/- foo"),
        ("HEAD", "/api/v1/namespaces/other/pods/foo", "get /v1 other pods/- foo"),
        ("GET", "/api/v1/pods", "list /v1 - pods/- -"),
        ("HEAD", "/api/v1/pods", "list /v1 - pods/- -"),
        ("POST", "/apis/apps/v1/namespaces/other/deployments", "create apps/v1 other deployments/- -"),
        ("PUT", "/apis/apps/v1beta3/namespaces/other/deployments/a", "update apps/v1beta3 other deployments/- a"),
        ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete /v1 other pods/- foo"),
        ("DELETE", "/api/v1/nodes", "deletecollection /v1 - nodes/- -"),
        ("DELETE", "/api/v1/namespaces", "deletecollection /v1 - namespaces/- -"),
        ("DELETE", "/apis/apps/v1/namespaces/other/deployments", "deletecollection apps/v1 other deployments/- -"),
        ("GET", "/apis/batch/v1/jobs", "list batch/v1 - jobs/- -"),
        ("GET", "/apis/batch/v1/jobs/foo/scale", "get batch/v1 - jobs/scale foo"),
        // legacy verbs in the path
        ("GET", "/api/v1/watch/pods", "watch /v1 - pods/- -"),
        ("GET", "/api/v1/watch/namespaces/other/pods", "watch /v1 other pods/- -"),
        ("GET", "/api/v1/watch/namespaces/other/pods/foo", "watch /v1 other pods/- foo"),
        ("GET", "/apis/apps/v1/watch/namespaces/other", "watch apps/v1 other namespaces/- other"),
        ("GET", "/api/v1/proxy/namespaces/other/pods/foo", "proxy /v1 other pods/- foo"),
        ("GET", "/api/v1/proxy/namespaces/other/pods/foo/not/a/subresource", "proxy /v1 other pods/- foo"),
        ("POST", "/api/v1/proxy/nodes/n", "proxy /v1 - nodes/- n"),
        ("GET", "/api/v1/proxy/namespaces/other/status", "proxy /v1 other namespaces/- other"),
        // watch by parameter
        ("GET", "/api/v1/pods?watch=true", "watch /v1 - pods/- -"),
        ("GET", "/api/v1/pods?watch=TRUE", "watch /v1 - pods/- -"),
        ("GET", "/api/v1/pods?watch", "watch /v1 - pods/- -"),
        ("GET", "/api/v1/pods?watch=false", "list /v1 - pods/- -"),
        ("GET", "/api/v1/pods?Watch=true", "list /v1 - pods/- -"),
        ("GET", "/api/v1/namespaces/other/pods?watch=1", "watch /v1 other pods/- -"),
        ("GET", "/api/v1/namespaces/other/pods?watch=0", "list /v1 other pods/- -"),
        ("GET", "/api/v1/namespaces/other/pods/foo?watch=1", "get /v1 other pods/- foo"),
        ("POST", "/api/v1/namespaces/other/pods?watch=1", "create /v1 other pods/- -"),
        // subresources
        ("GET", "/api/v1/namespaces/other/pods/foo/status", "get /v1 other pods/status foo"),
        ("GET", "/api/v1/namespaces/other/pods/foo/proxy/subpath", "get /v1 other pods/proxy foo"),
        ("DELETE", "/api/v1/nodes/foo/proxy/a/b", "delete /v1 - nodes/proxy foo"),
        ("PUT", "/api/v1/namespaces/other/finalize", "update /v1 other namespaces/finalize other"),
        ("PUT", "/api/v1/namespaces/other/status", "update /v1 other namespaces/status other"),
        ("GET", "/api/v1/namespaces/other/status/more", "get /v1 other namespaces/status other"),
        ("GET", "/apis/kubevirt.io/v1/namespaces/a/vms/b/portforward/22/tcp", "get kubevirt.io/v1 a vms/portforward b"),
        (
            "GET",
            "/apis/custom.metrics.k8s.io/v1/namespaces/a/pods/*/rate_1",
            "get custom.metrics.k8s.io/v1 a pods/rate_1 *",
        ),
        // name by field selector
        ("GET", "/apis/g/v1/r?fieldSelector=metadata.name%3Dname1", "list g/v1 - r/- name1"),
        ("GET", "/apis/g/v1/r?watch=true&fieldSelector=metadata.name=name1", "watch g/v1 - r/- name1"),
        ("GET", "/apis/g/v1/r?fieldSelector=foo=bar", "list g/v1 - r/- -"),
        ("GET", "/apis/g/v1/r?fieldSelector=metadata.name=a&limit=5&labelSelector=a%3Db", "list g/v1 - r/- a"),
        ("DELETE", "/apis/g/v1/r?fieldSelector=metadata.name=a", "deletecollection g/v1 - r/- -"),
        ("GET", "/api/v1/watch/pods?fieldSelector=metadata.name=a", "watch /v1 - pods/- -"),
        // no resources
        ("GET", "/", "get /"),
        ("GET", "/api", "get /api"),
        ("GET", "/api/", "get /api/"),
        ("GET", "/apis/", "get /apis/"),
        ("GET", "/api/v1", "get /api/v1"),
        ("GET", "/apis/apps/v1/", "get /apis/apps/v1/"),
        ("GET", "/apis/version/resource", "get /apis/version/resource"),
        ("GET", "/API/v1/pods", "get /API/v1/pods"),
        ("GET", "/openapi/v3/apis/apps/v1?hash=A", "get /openapi/v3/apis/apps/v1"),
        ("POST", "/healthz", "post /healthz"),
        ("OPTIONS", "/version/", "options /version/"),
        ("HEAD", "/version", "head /version"),
        ("GET", "/version?watch=1", "get /version"),
    ] {
        let read = parse(method, uri).unwrap_or_else(|malformed| panic!("{method} {uri}: {malformed}"));
        assert_eq!(told(&read), expected, "{method} {uri}");
    }
}

#[test]
fn streams_into_pods_ask_for_create() {
    for sub in ["exec", "attach", "portforward"] {
        for method in ["GET", "POST"] {
            let read = parse(method, &format!("/api/v1/namespaces/a/pods/b/{sub}?command=x")).unwrap();
            assert_eq!(read.verb(), Verb::Create);
            assert!(read.is_stream() && read.is_long_running() && read.is_mutating());
        }
    }
    let read = parse("GET", "/apis/kubevirt.io/v1/namespaces/a/pods/b/exec").unwrap();
    assert_eq!(read.verb(), Verb::Get);
}

#[test]
fn one_form_is_sent() {
    for (received, sent) in [
        ("/%61pi/v1/%70ods", "/api/v1/pods"),
        ("/api/v1/pods/", "/api/v1/pods"),
        ("/api/v1/namespaces/a/pods/?watch=1", "/api/v1/namespaces/a/pods?watch=1"),
        ("http://somebody.else/api/v1/pods?", "/api/v1/pods"),
        ("http://somebody.else", "/"),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        ),
        ("/apis/g/v1/r/a%20b+c%7ed%c3%a9", "/apis/g/v1/r/a%20b+c~d%C3%A9"),
        ("/api/v1/pods?a=b+c&&d&=e&f=%3b%2f", "/api/v1/pods?a=b%20c&d=&=e&f=%3B/"),
        ("/api/v1/pods?x=a=b&y=%26%2B%23%FF", "/api/v1/pods?x=a=b&y=%26%2B%23%FF"),
        ("/version/", "/version/"),
        ("/version%2a", "/version*"),
        // a service's own path and query
        ("/api/v1/namespaces/a/services/b/%70roxy", "/api/v1/namespaces/a/services/b/proxy"),
        ("/api/v1/namespaces/a/services/b/proxy/", "/api/v1/namespaces/a/services/b/proxy/"),
        ("/api/v1/nodes/n/proxy//x%2Fy;z/%2e.a/%2f/", "/api/v1/nodes/n/proxy//x%2Fy;z/%2e.a/%2f/"),
        ("/api/v1/nodes/n/proxy/?watch=1;watch=%zz&watch", "/api/v1/nodes/n/proxy/?watch=1;watch=%zz&watch"),
        ("/api/v1/proxy/nodes/n/a%2Fb?", "/api/v1/proxy/nodes/n/a%2Fb?"),
    ] {
        let read = parse("GET", received).unwrap_or_else(|malformed| panic!("{received}: {malformed}"));
        assert_eq!(read.path_and_query().as_str(), sent);
    }
}

#[test]
fn what_can_be_read_twice_is_refused() {
    for (method, uri) in [
        ("GET", "/api/v1/namespaces/default%2fsecrets"),
        ("GET", "/api/v1/namespaces/default%5Csecrets"),
        ("GET", "/api/v1/namespaces//secrets"),
        ("GET", "//api/v1/pods"),
        ("GET", "/api/v1/pods//"),
        ("GET", "/api//"),
        ("GET", "//"),
        ("GET", "/api/v1/pods/../secrets"),
        ("GET", "/api/v1/./secrets"),
        ("GET", "/api/v1/%2e%2E/secrets"),
        ("GET", "/version/../api/v1/secrets"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/../../../secrets"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/%2e%2e/c"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/x%2F..%2fc"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/..;a/c"),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/..%5cc"),
        ("GET", "/api/v1/nodes/n/proxy/%zz"),
        ("GET", "/api/v1/pods/a%"),
        ("GET", "/api/v1/pods/a%2"),
        ("GET", "/api/v1/pods/a%+1"),
        ("GET", "/api/v1/pods/a%252f"),
        ("GET", "/api/v1/pods/a%00"),
        ("GET", "/api/v1/pods/a%0d%0a"),
        ("GET", "/api/v1/pods/a%C2%85"),
        ("GET", "/api/v1/pods/a%ff"),
        ("GET", "/api/v1/pods;a=b"),
        ("GET", "/api/v1/pods%3Bwatch"),
        ("GET", "/api/v1/pods%3Fwatch"),
        ("GET", "/api/v1/watch"),
        ("GET", "/api/v1/proxy/"),
        ("POST", "/api/v1/watch/pods"),
        ("GET", "/api/v1/watch/pods/a/exec"),
        ("GET", "/api/v1/watch/namespaces/a/services/b/proxy/c"),
        ("GET", "/api/v1/pods?a;watch=1"),
        ("GET", "/api/v1/pods?watch=%3"),
        ("GET", "/api/v1/pods?%ff=1"),
        ("GET", "/api/v1/pods?watch=1&watch=0"),
        ("GET", "/api/v1/pods?watch=0&%77atch=1"),
        ("GET", "/api/v1/pods?watch=f"),
        ("GET", "/api/v1/pods?watch=fal%C5%BFe"),
        ("GET", "/api/v1/pods?fieldSelector=a%3Db&fieldSelector=a%3Dc"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a,metadata.name=b"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a,foo"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a&limit=x"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name=a&labelSelector=,"),
        ("GET", "/api/v1/pods?labelSelector=a&labelSelector=b"),
        ("OPTIONS", "/api/v1/pods"),
        ("OPTIONS", "/api/v1/nodes/n/proxy/"),
        ("TRACE", "/api/v1/pods"),
        ("TRACE", "/version"),
        ("CONNECT", "/version"),
        ("CONNECT", "example.com:443"),
        ("OPTIONS", "*"),
        ("get", "/api/v1/pods"),
        ("PROPFIND", "/api/v1/pods"),
    ] {
        let malformed = parse(method, uri).map(|read| told(&read)).expect_err(uri);
        assert!(!malformed.is_too_long() && malformed.reason().len() > 20, "{method} {uri}: {malformed}");
    }
}

#[test]
fn size_is_limited() {
    let of = |length: usize| format!("/api/v1/pods?a={}", "x".repeat(length - 15));
    assert!(parse("GET", &of(61_440)).is_ok());
    let long = parse("GET", &of(61_441)).unwrap_err();
    assert!(long.is_too_long());
    assert_eq!(long.target().len(), 4096);
    // Only the form that is sent is too long.
    assert!(parse("GET", &format!("/api/v1/pods?a={}", "|".repeat(30_000))).unwrap_err().is_too_long());

    assert!(parse("GET", &format!("/api/v1/pods?{}", ["a"; 1000].join("&"))).is_ok());
    let many = parse("GET", &format!("/api/v1/pods?{}", ["a"; 1001].join("&"))).unwrap_err();
    assert!(many.reason().contains("1,000"));
    assert!(parse("GET", &format!("/api/v1/pods?{}", "&".repeat(1000))).is_err());
}

#[test]
fn parameters_are_decoded() {
    let read =
        parse("POST", "/api/v1/namespaces/a/pods/b/exec?command=sh&command=-c&command=a+%26%26+b%FF&tty=1").unwrap();
    assert_eq!(read.query("command"), ["sh", "-c", "a && b\u{fffd}"]);
    assert_eq!(read.query("tty"), ["1"]);
    assert_eq!(read.query("none"), [""; 0]);
    let read = parse("GET", "/api/v1/nodes/n/proxy/?command=sh").unwrap();
    assert_eq!(read.query("command"), [""; 0]);
}

#[test]
fn classes() {
    type Class = fn(&RequestAttributes) -> bool;
    let check = |class: Class, yes: &[(&str, &str)], no: &[(&str, &str)]| {
        for (requests, expected) in [(yes, true), (no, false)] {
            for (method, uri) in requests {
                assert_eq!(class(&parse(method, uri).unwrap()), expected, "{method} {uri}");
            }
        }
    };
    check(
        RequestAttributes::is_long_running,
        &[
            ("GET", "/api/v1/pods?watch=1"),
            ("GET", "/api/v1/watch/pods"),
            ("GET", "/api/v1/namespaces/a/pods/b/log?follow=true"),
            ("GET", "/api/v1/namespaces/a/pods/b/log?follow"),
            ("GET", "/api/v1/namespaces/a/services/b/proxy"),
            ("GET", "/api/v1/proxy/nodes/n"),
        ],
        &[
            ("GET", "/api/v1/pods"),
            ("GET", "/api/v1/namespaces/a/pods/b/log"),
            ("GET", "/api/v1/namespaces/a/pods/b/log?follow=False"),
            ("GET", "/api/v1/namespaces/a/pods/b?follow=true"),
            ("GET", "/version"),
        ],
    );
    check(
        RequestAttributes::is_mutating,
        &[
            ("POST", "/api/v1/namespaces/a/pods"),
            ("DELETE", "/api/v1/namespaces/a/pods"),
            ("PATCH", "/api/v1/namespaces/a"),
            ("PUT", "/api/v1/nodes/n/proxy/x"),
            ("POST", "/api/v1/proxy/nodes/n"),
            ("POST", "/healthz"),
        ],
        &[
            ("HEAD", "/api/v1/pods"),
            ("GET", "/api/v1/nodes/n/proxy/x"),
            ("GET", "/api/v1/proxy/nodes/n"),
            ("OPTIONS", "/version"),
        ],
    );
    check(
        RequestAttributes::reads_secrets,
        &[
            ("GET", "/api/v1/secrets"),
            ("GET", "/api/v1/watch/namespaces/a/secrets"),
            ("GET", "/api/v1/namespaces/a/%73ecrets/b?as=Table"),
            ("PUT", "/api/v1/namespaces/a/secrets/b"),
        ],
        &[("GET", "/apis/example.com/v1/secrets"), ("GET", "/api/v1/configmaps"), ("GET", "/secrets")],
    );
    check(
        RequestAttributes::is_service_proxy,
        &[("GET", "/api/v1/nodes/n/proxy"), ("GET", "/api/v1/namespaces/a/services/https:b:443/proxy/x")],
        &[("GET", "/api/v1/namespaces/a/pods/proxy"), ("GET", "/api/v1/namespaces/a/pods/b/exec")],
    );
}

#[test]
fn protocols_change_only_where_something_streams() {
    use Upgrade::{Spdy31, WebSocket};
    let asks = |method: &str, path: &str, upgrade| {
        let method: Method = method.parse().unwrap();
        RequestAttributes::parse(&method, &path.parse().unwrap(), Some(upgrade)).map(|read| read.upgrade())
    };
    for (method, path, upgrade) in [
        ("POST", "/api/v1/namespaces/a/pods/b/exec", Spdy31),
        ("GET", "/api/v1/namespaces/a/pods/b/exec", Spdy31),
        ("GET", "/api/v1/namespaces/a/pods/b/attach", WebSocket),
        ("GET", "/api/v1/namespaces/a/pods/b/portforward", WebSocket),
        ("GET", "/api/v1/namespaces/a/pods/b/log", WebSocket),
        ("GET", "/api/v1/namespaces/a/services/b/proxy/ws", WebSocket),
        ("POST", "/api/v1/nodes/b/proxy/exec", Spdy31),
        ("GET", "/api/v1/pods?watch=1", WebSocket),
        ("GET", "/api/v1/watch/pods", WebSocket),
    ] {
        assert_eq!(asks(method, path, upgrade).unwrap(), Some(upgrade), "{method} {path}");
    }
    for (method, path, upgrade) in [
        ("POST", "/api/v1/namespaces/a/pods/b/exec", WebSocket),
        ("PUT", "/api/v1/namespaces/a/pods/b/exec", Spdy31),
        ("GET", "/api/v1/namespaces/a/pods/b", WebSocket),
        ("GET", "/api/v1/namespaces/a/pods", WebSocket),
        ("GET", "/api/v1/namespaces/a/pods/b/log", Spdy31),
        ("GET", "/api/v1/namespaces/a/pods/b/status", WebSocket),
        ("GET", "/api/v1/pods?watch=1", Spdy31),
        ("GET", "/apis/example.com/v1/namespaces/a/pods/b/exec", WebSocket),
        ("GET", "/version", WebSocket),
    ] {
        assert!(asks(method, path, upgrade).is_err(), "{method} {path}");
    }
}

#[test]
fn impersonation_is_seen_and_read_strictly() {
    let asked = |lines: &[(&'static str, &[u8])]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        parse("GET", "/api/v1/pods").unwrap().impersonating(&headers)
    };
    assert!(asked(&[("accept", b"*/*"), ("impersonated", b"x")]).impersonation().is_none());

    let read = asked(&[
        ("impersonate-user", b"bob"),
        ("impersonate-group", b"dev"),
        ("impersonate-group", b"ops"),
        ("impersonate-uid", b"7"),
        ("impersonate-extra-scopes%2fa", "dä".as_bytes()),
    ]);
    let read = read.impersonation().unwrap().unwrap();
    assert_eq!((read.user(), read.uid()), ("bob", Some("7")));
    assert_eq!(read.groups(), ["dev", "ops"]);
    assert_eq!(read.extra(), [("scopes/a".to_owned(), "dä".to_owned())]);

    let user: (&'static str, &[u8]) = ("impersonate-user", b"bob");
    for bad in [
        [("impersonate-user", b"".as_slice()), ("accept", b"a")],
        [user, user],
        [user, ("impersonate-group", b"")],
        [user, ("impersonate-group", b"system:masters")],
        [("impersonate-user", b"system:admin"), ("accept", b"a")],
        [user, ("impersonate-group", b"\xff")],
        [user, ("impersonate-extra-", b"a")],
        [user, ("impersonate-extra-%zz", b"a")],
        [user, ("impersonate-role", b"a")],
        [user, ("impersonate_group", b"a")],
        [("impersonate-group", b"dev"), ("impersonate-uid", b"1")],
        [("impersonate_user", b"bob"), ("accept", b"a")],
    ] {
        assert!(asked(&bad).impersonation().unwrap().is_err(), "{bad:?}");
    }
}
