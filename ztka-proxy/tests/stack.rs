//! The access stack behind a connection in memory: who is let in, to which cluster, and what is answered instead.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use support::*;
use ztka_core::{Reply, Status, empty};
use ztka_proxy::{Connection, Drain, Limits};

/// Asks once over HTTP/2.
async fn ask(made: &Installation, connection: Connection, request: Request<Empty<bytes::Bytes>>) -> Response<String> {
    ask_stack(made, connection, request, &Limits::default(), |_| ok("pod")).await
}

async fn ask_stack(
    made: &Installation,
    connection: Connection,
    request: Request<Empty<bytes::Bytes>>,
    limits: &Limits,
    answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static,
) -> Response<String> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let users = made.users(limits, answer);
    tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
}

fn get(host: &str, target: &str) -> Request<Empty<bytes::Bytes>> {
    let request = Request::get(format!("https://{host}{target}")).header(header::ACCEPT, "*/*");
    request.header("impersonate-user", "").header("ztka-evidence", "forged").body(Empty::new()).unwrap()
}

async fn by_name(made: &Installation) -> Connection {
    let certificate = Some(made.certificate().await);
    let name = Some("c1.kube.example.com".into());
    Connection::new("192.0.2.1:4711".parse().unwrap(), name, Some("c1".parse().unwrap()), certificate)
}

async fn by_path(made: &Installation) -> Connection {
    Connection::new("192.0.2.1:4711".parse().unwrap(), None, None, Some(made.certificate().await))
}

fn message(response: &Response<String>) -> String {
    let status: Value = serde_json::from_str(response.body()).unwrap();
    assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &response.status().as_u16().into()));
    status["message"].as_str().unwrap().into()
}

#[tokio::test]
async fn a_permitted_request_goes_on_in_canonical_form() {
    let made = installation().await;
    let response = ask(&made, by_name(&made).await, get("c1.kube.example.com", POD)).await;
    // An empty Impersonate-User is refused or dropped, never passed on.
    if response.status() != StatusCode::OK {
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(made.sent().is_empty());
    }
    let plain = Request::get(format!("https://c1.kube.example.com{POD}?")).header("ztka-policy", "9.9");
    let response = ask(&made, by_name(&made).await, plain.body(Empty::new()).unwrap()).await;
    assert_eq!((response.status(), response.body().as_str()), (StatusCode::OK, "pod"));
    let sent = made.sent();
    let sent = sent.last().unwrap();
    assert_eq!((sent.request.uri().to_string().as_str(), sent.cluster.as_str()), (POD, "c1"));
    assert!(sent.request.headers().is_empty(), "{:?}", sent.request.headers());
}

#[tokio::test]
async fn the_path_names_a_cluster_and_locations_get_its_prefix() {
    let made = installation().await;
    let asked = get_plain("front.example.net", &format!("/clusters/c2{POD}?watch=0"));
    let redirect = |location: &'static str| {
        move |_: &Request<()>| {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(location));
            Reply::Response(response)
        }
    };
    for (location, expected) in [
        ("/api/v1", "/clusters/c2/api/v1"),
        ("https://elsewhere/api", "https://elsewhere/api"),
        ("//elsewhere/api", "//elsewhere/api"),
        ("api", "api"),
    ] {
        let connection = by_path(&made).await;
        let response = ask_stack(&made, connection, asked.clone(), &Limits::default(), redirect(location)).await;
        assert_eq!(response.headers()[header::LOCATION], expected);
    }
    let sent = made.sent();
    assert_eq!(sent[0].cluster, "c2");
    assert_eq!(sent[0].request.uri().path(), POD);
    // By server name nothing is added.
    let asked = get_plain("c1.kube.example.com", POD);
    let connection = by_name(&made).await;
    let response = ask_stack(&made, connection, asked, &Limits::default(), redirect("/api/v1")).await;
    assert_eq!(response.headers()[header::LOCATION], "/api/v1");
}

fn get_plain(host: &str, target: &str) -> Request<Empty<bytes::Bytes>> {
    Request::get(format!("https://{host}{target}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn who_is_not_let_in_is_told_what_to_do() {
    let made = installation().await;
    let pod = || get_plain("c1.kube.example.com", POD);
    let refused = async |made: &Installation, connection, code: u16, words: &str| {
        let response = ask(made, connection, pod()).await;
        assert_eq!(response.status().as_u16(), code, "{}", response.body());
        let message = message(&response);
        assert!(message.contains(words), "{message}");
        if code == 401 {
            assert!(message.contains("log in at https://console.example.com"), "{message}");
        }
        assert!(made.denials().last().unwrap().contains(words), "{:?}", made.denials());
    };
    let client = "192.0.2.1:4711".parse().unwrap();
    let name = || Some("c1.kube.example.com".to_owned());
    let cluster = || Some("c1".parse().unwrap());
    let none = Connection::new(client, name(), cluster(), None);
    refused(&made, none, 401, "no client certificate").await;
    // Another organisation's user, without a session and with one.
    let (_, issued) = made.user("globex", "u9", "k9", 30).await;
    let chain = issued.chain().to_vec();
    let peer = made.documents.trust().identify(ztka_pki::Purpose::Users, &chain).unwrap();
    let other = ztka_proxy::Certificate { peer, chain };
    let theirs = || Connection::new(client, name(), cluster(), Some(other.clone()));
    refused(&made, theirs(), 401, "no login session").await;
    made.session("globex", "u9", "k9", "mallory", 12).await;
    refused(&made, theirs(), 421, "no such cluster in your organisation").await;
    // A session that is over, one that is somebody else's, and a credential that is revoked.
    let connection = by_name(&made).await;
    made.session("acme", "u1", "k1", "alice", -1).await;
    refused(&made, connection.clone(), 401, "your login session ended").await;
    made.session("acme", "u2", "k1", "bob", 12).await;
    refused(&made, connection.clone(), 401, "another user's").await;
    made.session("acme", "u1", "k1", "alice", 12).await;
    made.revoke("k1").await;
    refused(&made, connection, 401, "revoked").await;
    assert!(made.sent().is_empty());
}

#[tokio::test]
async fn without_documents_nobody_is_let_in_and_it_is_our_fault() {
    let made = installation().await;
    let connection = by_name(&made).await;
    let (provider, clock) = (made.provider.clone(), std::sync::Arc::new(made.clock.clone()));
    let documents = ztka_follow::Documents::open(made.hierarchy.trust_bundle(), None, provider, clock).unwrap();
    let directory = ztka_proxy::Directory::new(documents.clone(), "log in");
    let open = ztka_authz::Open::new(directory.clone(), directory.engine().clone());
    let connections = ztka_proxy::Connections::new(directory.clone());
    let empty = Installation { documents, directory, open, connections, ..made };
    let response = ask(&empty, connection, get_plain("c1.kube.example.com", POD)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    message(&response);
}

#[tokio::test]
async fn malformed_and_denied_requests_are_recorded_and_never_sent() {
    let made = installation().await;
    let target = "/api/v1/namespaces/default%2fsecrets/pods/web";
    let response = ask(&made, by_name(&made).await, get_plain("c1.kube.example.com", target)).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    made.policy("acme", &["c1"], "view").await;
    let target = "/api/v1/namespaces/default/secrets/web";
    let response = ask(&made, by_name(&made).await, get_plain("c1.kube.example.com", target)).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(message(&response).contains("User \"alice\" cannot get resource \"secrets\""), "{}", response.body());
    assert_eq!(made.denials().len(), 2);
    assert!(made.sent().is_empty());
}

#[tokio::test]
async fn limits_answer_instead_of_queueing() {
    let made = installation().await;
    let pod = || get_plain("c1.kube.example.com", POD);
    let limits = Limits { user_requests: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, pod(), &limits, |_| ok("pod")).await;
    assert_eq!(
        (response.status(), &response.headers()[header::RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    let limits = Limits { cluster_requests: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, pod(), &limits, |_| ok("pod")).await;
    assert_eq!(
        (response.status(), &response.headers()[header::RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert!(message(&response).contains("the cluster has too many requests"), "{}", response.body());
    let limits = Limits { user_new_connections_burst: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, pod(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let limits = Limits { requests: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, pod(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let limits = Limits { user_connections: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, pod(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    // A watch is not counted as a request, and a request not as a stream.
    let watch = || get_plain("c1.kube.example.com", "/api/v1/pods?watch=true");
    let limits = Limits { user_requests: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, watch(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let limits = Limits { cluster_requests: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, watch(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let limits = Limits { cluster_streams: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, watch(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let limits = Limits { user_streams: 0, ..Limits::default() };
    let response = ask_stack(&made, by_name(&made).await, watch(), &limits, |_| ok("pod")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    message(&response);
}

#[tokio::test]
async fn what_the_tunnel_says_is_answered() {
    let made = installation().await;
    let away = |_: &Request<()>| Status::new(StatusCode::SERVICE_UNAVAILABLE, "no agent").retry_after(5).into();
    let asked = get_plain("c1.kube.example.com", POD);
    let response = ask_stack(&made, by_name(&made).await, asked, &Limits::default(), away).await;
    assert_eq!((response.status(), message(&response)), (StatusCode::SERVICE_UNAVAILABLE, "no agent".into()));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_with_a_status_over_http2_too() {
    let made = installation().await;
    let lines = |count: usize, length: usize| {
        let mut request = get_plain("c1.kube.example.com", POD);
        for index in 0..count {
            let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
            request.headers_mut().insert(name, HeaderValue::try_from("v".repeat(length)).unwrap());
        }
        request
    };
    for (count, length) in [(500, 8), (4, 30_000)] {
        let response = ask(&made, by_name(&made).await, lines(count, length)).await;
        assert_eq!(response.status(), StatusCode::OK, "{count} lines of {length}: {}", response.body());
    }
    for (count, length) in [(501, 8), (4, 33_000), (8, 30_000)] {
        let response = ask(&made, by_name(&made).await, lines(count, length)).await;
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{count} lines of {length}");
        assert!(message(&response).contains("128 KiB"), "{}", response.body());
        assert!(made.denials().last().unwrap().contains("too large"), "{:?}", made.denials());
        // Refusals that come too fast are counted instead of written.
        made.clock.advance(jiff::SignedDuration::from_secs(1));
    }
    assert_eq!((made.denials().len(), made.sent().len()), (3, 2));
    // What nobody should have to unpack gets the bare number.
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (users, connection) = (made.users(&Limits::default(), |_| ok("pod")), by_name(&made).await);
    tokio::spawn(async move { users.serve(server, true, connection, Drain::default()).await });
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(driver);
    if let Ok(response) = sender.send_request(lines(10, 30_000)).await {
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    assert_eq!(made.sent().len(), 2);
}
