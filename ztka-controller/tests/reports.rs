//! What agents and proxies may ask and report, the record of what administrators do, and bad input.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use futures_util::FutureExt as _;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kit::{DOMAIN, Kit, call, certificate_of, peer, provider};
use tokio::time::timeout;
use tower::ServiceExt as _;
use ztka_audit::{Batch, EventQuery, EventStore, Ingested, Stage, StoredEvent};
use ztka_controller::{Controller, Settings, store::Stores};
use ztka_core::{AuditId, BoxError, InstanceId, OrgId, ProxyId, Subject, Verified};
use ztka_identity::AdminRole;
use ztka_pki::{Names, Peer};

#[tokio::test]
async fn each_route_of_agents_and_proxies_is_for_them_alone() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let user = certificate_of(&kit.user(&acme, "alice", Some(AdminRole::OrgAdmin)).await);
    let proxy = peer(Subject::Proxy(ProxyId::generate()));
    let (cluster, instance) = ("c1".parse().unwrap(), InstanceId::generate());
    let agent = peer(Subject::Agent { org: acme, cluster, instance });
    let (agents, proxies) = (kit.controller.agents(), kit.controller.proxies());
    for (router, method, path, who, status) in [
        (&agents, "GET", "/v1/documents", None, StatusCode::UNAUTHORIZED),
        (&agents, "GET", "/v1/documents", Some(&user), StatusCode::FORBIDDEN),
        (&agents, "POST", "/v1/receipts", None, StatusCode::UNAUTHORIZED),
        (&agents, "POST", "/v1/renew", None, StatusCode::UNAUTHORIZED),
        (&agents, "POST", "/v1/events", Some(&agent), StatusCode::NOT_FOUND),
        (&agents, "DELETE", "/v1/announcement", Some(&agent), StatusCode::NOT_FOUND),
        (&proxies, "DELETE", "/v1/announcement", None, StatusCode::UNAUTHORIZED),
        (&proxies, "DELETE", "/v1/announcement", Some(&user), StatusCode::FORBIDDEN),
        (&proxies, "DELETE", "/v1/announcement", Some(&proxy), StatusCode::NO_CONTENT),
        (&agents, "POST", "/v1/server-certificate", Some(&agent), StatusCode::NOT_FOUND),
        (&proxies, "POST", "/v1/events", None, StatusCode::FORBIDDEN),
        (&proxies, "POST", "/v1/events", Some(&agent), StatusCode::FORBIDDEN),
        (&proxies, "POST", "/v1/server-certificate", None, StatusCode::FORBIDDEN),
        (&proxies, "POST", "/v1/server-certificate", Some(&agent), StatusCode::FORBIDDEN),
        (&proxies, "POST", "/v1/receipts", Some(&proxy), StatusCode::NOT_FOUND),
        (&proxies, "POST", "/v1/renew", Some(&user), StatusCode::FORBIDDEN),
    ] {
        let (got, answer) = call(router.clone(), who.cloned(), method, path, "{}").await;
        assert_eq!(got, status, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn bad_bodies_and_queries_are_answered_in_words() {
    let kit = Kit::new().await;
    let proxy = peer(Subject::Proxy(ProxyId::generate()));
    let root = certificate_of(&kit.system_admin().await);
    let large = format!("\"{}\"", "a".repeat(17 << 20));
    let proxies = kit.controller.proxies();
    for (path, body, status) in [
        ("/v1/events", "", StatusCode::BAD_REQUEST),
        ("/v1/events", "{", StatusCode::BAD_REQUEST),
        ("/v1/events", r#"{"journal": "x", "records": []}"#, StatusCode::BAD_REQUEST),
        ("/v1/events", large.as_str(), StatusCode::PAYLOAD_TOO_LARGE),
        ("/v1/server-certificate", r#"{"csr": "x"}"#, StatusCode::BAD_REQUEST),
        ("/v1/server-certificate", r#"{"csr": "x", "names": ["evil.example.com"]}"#, StatusCode::BAD_REQUEST),
    ] {
        let (got, answer) = call(proxies.clone(), Some(proxy.clone()), "POST", path, body).await;
        assert_eq!(got, status, "{path}: {answer}");
    }
    let (status, _) = call(proxies, Some(proxy), "GET", "/v1/documents?from=x", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let large = format!(r#"{{"name": "{}"}}"#, "a".repeat(2 << 20));
    for (method, path, body, status, code) in [
        ("POST", "/api/v1/orgs", "{", StatusCode::BAD_REQUEST, "invalid"),
        ("POST", "/api/v1/orgs", r#"{"name": "Acme"}"#, StatusCode::BAD_REQUEST, "invalid"),
        ("POST", "/api/v1/orgs", r#"{"name": "acme", "id": "o1"}"#, StatusCode::BAD_REQUEST, "invalid"),
        ("POST", "/api/v1/orgs", "", StatusCode::BAD_REQUEST, "invalid"),
        ("POST", "/api/v1/orgs", large.as_str(), StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        ("POST", "/api/v1/orgs", r#"{"name": "installation"}"#, StatusCode::CONFLICT, "exists"),
        ("PATCH", "/api/v1/orgs", "{}", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        ("GET", "/api/v1/nothing", "", StatusCode::NOT_FOUND, "not_found"),
        ("GET", "/", "", StatusCode::NOT_FOUND, "not_found"),
        ("GET", "/api/v1/orgs/onone/users", "", StatusCode::NOT_FOUND, "not_found"),
        ("GET", "/api/v1/orgs/A%00/users", "", StatusCode::NOT_FOUND, "not_found"),
        ("GET", "/api/v1/orgs/%FF/users", "", StatusCode::BAD_REQUEST, "invalid"),
        ("GET", "/api/v1/orgs/installation/events?limit=0", "", StatusCode::BAD_REQUEST, "invalid"),
        ("GET", "/api/v1/orgs/installation/events?more=1", "", StatusCode::BAD_REQUEST, "invalid"),
        ("GET", "/api/v1/orgs/installation/events?stage=x", "", StatusCode::BAD_REQUEST, "invalid"),
        (
            "GET",
            "/api/v1/orgs/installation/findings?since=2000-01-01T00:00:00Z",
            "",
            StatusCode::BAD_REQUEST,
            "invalid",
        ),
    ] {
        let (got, problem) = kit.call(Some(root.clone()), method, path, body).await;
        assert_eq!(
            (got, problem.get("code").and_then(|code| code.as_str())),
            (status, Some(code)),
            "{path}: {problem}"
        );
    }
}

#[tokio::test]
async fn policy_that_would_not_mean_what_it_says_is_refused() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let clusters = r#""clusters": {"all": true}, "scope": "cluster""#;
    for (path, body, status) in [
        ("roles", r#"{"name": "r", "rules": []}"#.to_owned(), 400),
        ("roles", r#"{"name": "r", "rules": [{"verbs": []}]}"#.to_owned(), 400),
        ("roles", r#"{"name": "view", "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}"#.to_owned(), 400),
        ("bindings", format!(r#"{{"name": "b", "role": "none", "subjects": [{{"user": "a"}}], {clusters}}}"#), 400),
        ("bindings", format!(r#"{{"name": "b", "role": "view", "subjects": [], {clusters}}}"#), 400),
        (
            "bindings",
            r#"{"name": "b", "role": "view", "subjects": [{"user": "a"}], "clusters": {}, "scope": "cluster"}"#.to_owned(),
            400,
        ),
        (
            "bindings",
            r#"{"name": "b", "role": "view", "subjects": [{"user": "system:admin"}], "clusters": {"all": true}, "scope": "cluster"}"#
                .to_owned(),
            400,
        ),
        ("clusters", r#"{"name": "c", "labels": {"a b": "c"}}"#.to_owned(), 400),
        ("users", r#"{"name": "root", "admin": "system-admin"}"#.to_owned(), 409),
    ] {
        let path = format!("/api/v1/orgs/{acme}/{path}");
        let (got, problem) = kit.call(Some(admin.clone()), "POST", &path, &body).await;
        assert_eq!(got.as_u16(), status, "{body}: {problem}");
        assert!(!problem.get("action").unwrap().as_str().unwrap().is_empty(), "{problem}");
    }
}

#[tokio::test]
async fn a_change_is_finished_and_on_record_though_the_client_leaves() {
    let kit = Kit::new().await;
    let root = certificate_of(&kit.system_admin().await);
    let mut request = Request::post("/api/v1/orgs")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(r#"{"name": "acme"}"#))
        .unwrap();
    request.extensions_mut().insert(root);
    let query = EventQuery { org: Some(OrgId::installation()), ..EventQuery::default() };
    let events = || async { kit.stores.events.query(&query).await.unwrap() };
    // Gone as soon as the change has begun.
    let mut answer = Box::pin(kit.controller.api().oneshot(request));
    while events().await.is_empty() {
        assert!((&mut answer).now_or_never().is_none(), "the answer came before the record");
        tokio::task::yield_now().await;
    }
    drop(answer);
    let ended = async {
        while events().await.iter().all(|stored| stored.event.stage != Stage::ResponseComplete) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), ended).await.unwrap();
    let orgs = kit.stores.identity.orgs().await.unwrap();
    assert!(orgs.iter().any(|org| org.name.as_str() == "acme"));
}

/// Keeps nothing.
#[derive(Debug)]
struct Full;

#[async_trait]
impl EventStore for Full {
    async fn ingest(&self, _: &str, _: &Batch) -> Result<Ingested, BoxError> {
        Err("the disk is full".into())
    }

    async fn query(&self, _: &EventQuery) -> Result<Vec<StoredEvent>, BoxError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let kit = Kit::new().await;
    let root = certificate_of(&kit.system_admin().await);
    let stores = Stores { events: Arc::new(Full), ..kit.stores.clone() };
    let (settings, clock) = (Settings::of(DOMAIN, 443), Arc::new(kit.clock.clone()));
    let controller = Controller::open(stores, Names::of(DOMAIN), settings, provider(), clock).await.unwrap();
    let (status, problem) =
        call(controller.api(), Some(root.clone()), "POST", "/api/v1/orgs", r#"{"name": "acme"}"#).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    let (status, orgs) = call(controller.api(), Some(root), "GET", "/api/v1/orgs", "").await;
    assert_eq!((status, orgs.as_array().unwrap().len()), (StatusCode::OK, 1), "{orgs}");
    assert!(controller.figures().store_errors > 0, "and somebody can see why");
}

/// A token for an agent of a new cluster of `org`.
async fn token(kit: &Kit, org: &OrgId, admin: &Verified<Peer>) -> String {
    let path = format!("/api/v1/orgs/{org}/clusters");
    let (_, cluster) = kit.call(Some(admin.clone()), "POST", &path, r#"{"name": "test"}"#).await;
    let path = format!("{path}/{}/tokens", cluster.get("id").unwrap().as_str().unwrap());
    let (status, token) = kit.call(Some(admin.clone()), "POST", &path, "{}").await;
    assert_eq!(status, StatusCode::CREATED, "{token}");
    token.get("token").unwrap().as_str().unwrap().to_owned()
}

fn enrolment(token: &str) -> String {
    format!(r#"{{"token": "{token}", "csr": {}}}"#, kit::csr().1)
}

#[tokio::test]
async fn a_flood_of_garbage_hides_no_stolen_token() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let token = token(&kit, &acme, &admin).await;
    let enrol = kit.controller.enrol();
    for number in 0..5000 {
        let garbage = if number % 2 == 0 { "{}".to_owned() } else { enrolment("ztka-enrol-none") };
        let (status, _) = call(enrol.clone(), None, "POST", "/v1/enrol", &garbage).await;
        assert!(status.is_client_error(), "{status}");
    }
    let (status, _) = call(enrol.clone(), None, "POST", "/v1/enrol", &enrolment(&token)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = call(enrol.clone(), None, "POST", "/v1/enrol", &enrolment(&token)).await;
    assert_eq!(status, StatusCode::CONFLICT, "another key");
    // What is noted is written at the end of `run` at the latest.
    kit.controller.run(std::future::ready(())).await;
    let query = EventQuery { limit: 10_000, ..EventQuery::default() };
    let mut events = kit.stores.events.query(&query).await.unwrap();
    events.retain(|stored| stored.event.verb == "enrol");
    assert!(events.len() <= 100, "{} rows", events.len());
    let of = |org: &OrgId, decision: &str| {
        let is = |event: &ztka_audit::Event| event.fact("org") == Some(org.as_str());
        let decided = |event: &ztka_audit::Event| event.fact("decision") == Some(decision);
        events.iter().filter(|stored| is(&stored.event) && decided(&stored.event)).count()
    };
    assert_eq!((of(&acme, "allow"), of(&acme, "deny")), (1, 1), "who has joined, and who has tried to");
    assert!(of(&OrgId::installation(), "deny") > 0, "the flood itself is on record");

    // Nor does one hide who shows a token and leaves before the answer.
    let request = Request::post("/v1/enrol").body(Body::from(enrolment(&token))).unwrap();
    assert!(enrol.oneshot(request).now_or_never().is_none());
    let query = EventQuery { org: Some(acme), decision: Some("deny".into()), ..query };
    let recorded = async {
        while kit.stores.events.query(&query).await.unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), recorded).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_handed_out_when_that_is_on_record() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let body = enrolment(&token(&kit, &acme, &admin).await);
    let stores = Stores { events: Arc::new(Full), ..kit.stores.clone() };
    let (settings, clock) = (Settings::of(DOMAIN, 443), Arc::new(kit.clock.clone()));
    let full = Controller::open(stores, Names::of(DOMAIN), settings, provider(), clock).await.unwrap();
    let (status, answer) = call(full.enrol(), None, "POST", "/v1/enrol", &body).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let (status, answer) = call(kit.controller.enrol(), None, "POST", "/v1/enrol", &body).await;
    assert_eq!(status, StatusCode::OK, "the same key asks again: {answer}");
}

#[tokio::test]
async fn what_happens_is_counted() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let token = token(&kit, &acme, &admin).await;
    let (_, clusters) = kit.call(Some(admin), "GET", &format!("/api/v1/orgs/{acme}/clusters"), "").await;
    let id = |value: &serde_json::Value| value.get("id").unwrap().as_str().unwrap().to_owned();
    let cluster: ztka_core::ClusterId = id(clusters.as_array().unwrap().first().unwrap()).parse().unwrap();
    kit.call(None, "GET", &format!("/api/v1/orgs/{acme}/clusters"), "").await;
    let body = enrolment(&token);
    for _ in 0..2 {
        call(kit.controller.enrol(), None, "POST", "/v1/enrol", &body).await;
    }
    call(kit.controller.enrol(), None, "POST", "/v1/enrol", "{}").await;
    let figures = kit.controller.figures();
    let requests = |method: &str, status: StatusCode| {
        let is = |route: &ztka_controller::Route| (route.method, route.path) == (method, "/orgs/{org}/clusters");
        let mut counted = figures.requests.iter().filter(|(route, of, _)| is(route) && *of == status);
        counted.next().map(|(_, _, count)| *count)
    };
    assert_eq!(requests("POST", StatusCode::CREATED), Some(1));
    assert_eq!(requests("GET", StatusCode::OK), Some(1));
    assert_eq!(requests("GET", StatusCode::UNAUTHORIZED), Some(1));
    assert_eq!(figures.enrolments, [("enrolled", 1), ("refused", 1), ("repeated", 1)].into());
    assert_eq!((figures.store_errors, kit.controller.clusters_known().await.unwrap()), (0, 1));

    // Followers are counted as long as they follow, clusters once.
    let agent =
        || peer(Subject::Agent { org: acme.clone(), cluster: cluster.clone(), instance: InstanceId::generate() });
    let follow = |router: axum::Router, by| {
        let mut request = Request::get("/v1/documents").body(Body::empty()).unwrap();
        request.extensions_mut().insert(by);
        router.oneshot(request)
    };
    let first = follow(kit.controller.agents(), agent()).await.unwrap();
    let second = follow(kit.controller.agents(), agent()).await.unwrap();
    let proxy = follow(kit.controller.proxies(), peer(Subject::Proxy(ProxyId::generate()))).await.unwrap();
    let following = || {
        let figures = kit.controller.figures();
        (figures.clusters_connected, figures.following_agents, figures.following_proxies)
    };
    assert_eq!(following(), (1, 2, 1));
    drop((first, proxy));
    assert_eq!(following(), (1, 1, 0));
    drop(second);
    assert_eq!(following(), (0, 0, 0));

    // A journal of one record, twice.
    let payload = String::from_utf8(
        ztka_audit::Event::new(AuditId::generate(), Stage::ResponseComplete, ztka_core::Clock::now(&kit.clock))
            .to_json(),
    );
    let start = ztka_audit::Chain::start();
    let record = ztka_audit::Record {
        position: Default::default(),
        sequence: start.next,
        previous: start.head,
        kind: ztka_audit::Kind::Close,
        id: AuditId::generate(),
        payload: payload.unwrap(),
    };
    let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    let batch = batch.encode();
    let by = peer(Subject::Proxy(ProxyId::generate()));
    for _ in 0..2 {
        call(kit.controller.proxies(), Some(by.clone()), "POST", "/v1/events", &batch).await;
    }
    assert_eq!(kit.controller.figures().events, ztka_controller::Records { stored: 1, known: 1 });
}

#[tokio::test]
async fn the_last_administrator_is_let_in_again_from_the_controllers_own_machine() {
    let kit = Kit::new().await;
    let life = jiff::SignedDuration::from_hours(1);
    let first = kit.controller.admin_credential("root".parse().unwrap(), life).await.unwrap();
    kit.controller.directory().disable(&first.user.id).await.unwrap();
    let again = kit.controller.admin_credential("root".parse().unwrap(), life).await.unwrap();
    assert_eq!(first.user.id, again.user.id);
    assert!(!format!("{again:?}").contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_connection_that_outlives_its_certificate_is_good_for_nothing() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let over = |subject| {
        let mut peer = Peer::clone(&peer(subject));
        peer.not_after = kit.controller_now() - jiff::SignedDuration::from_secs(1);
        Some(Verified::assertion(peer))
    };
    let agent = Subject::Agent { org: acme, cluster: "c1".parse().unwrap(), instance: InstanceId::generate() };
    let proxy = Subject::Proxy(ProxyId::generate());
    let csr = format!(r#"{{"csr": {}}}"#, kit::csr().1);
    let nothing = r#"{"journal": "00000000-0000-4000-8000-000000000000", "records": []}"#;
    let trust = r#"{"trust": "1.1"}"#;
    for (router, subject, method, path, body) in [
        (kit.controller.agents(), &agent, "GET", "/v1/documents", ""),
        (kit.controller.agents(), &agent, "POST", "/v1/acknowledgement", trust),
        (kit.controller.agents(), &agent, "POST", "/v1/receipts", nothing),
        (kit.controller.agents(), &agent, "POST", "/v1/renew", csr.as_str()),
        (kit.controller.agents(), &agent, "POST", "/v1/instances", csr.as_str()),
        (kit.controller.proxies(), &proxy, "GET", "/v1/documents", ""),
        (kit.controller.proxies(), &proxy, "POST", "/v1/acknowledgement", trust),
        (kit.controller.proxies(), &proxy, "POST", "/v1/events", nothing),
        (kit.controller.proxies(), &proxy, "POST", "/v1/server-certificate", csr.as_str()),
        (kit.controller.proxies(), &proxy, "POST", "/v1/renew", csr.as_str()),
    ] {
        let (status, answer) = call(router, over(subject.clone()), method, path, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {answer}");
        assert!(answer.to_string().contains("expired"), "{method} {path}: {answer}");
    }
}

/// Reports so many events of `org`, each of a user of its own.
async fn report(kit: &Kit, org: &OrgId, count: usize) {
    let mut chain = ztka_audit::Chain::start();
    let mut records = Vec::new();
    for number in 0..count {
        let mut event = ztka_audit::Event::new(AuditId::generate(), Stage::ResponseComplete, kit.controller_now());
        event.annotations.set("org", org.as_str());
        event.user.username = format!("user-{number}");
        let record = ztka_audit::Record {
            position: Default::default(),
            sequence: chain.next,
            previous: chain.head,
            kind: ztka_audit::Kind::Close,
            id: event.audit_id,
            payload: String::from_utf8(event.to_json()).unwrap(),
        };
        chain = ztka_audit::Chain { next: chain.next + 1, head: record.hash() };
        records.push(record);
    }
    let batch = Batch { journal: AuditId::generate(), records, signature: None };
    kit.stores.events.ingest("spiffe://example.com/proxy/p1", &batch).await.unwrap();
}

/// The numbers in the next piece of a stream of events that has any.
async fn numbers(body: &mut Body) -> Vec<u64> {
    loop {
        let frame = timeout(Duration::from_secs(60), body.frame()).await.unwrap().unwrap().unwrap();
        let piece = frame.into_data().unwrap();
        let lines = piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let number = |line: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(line).unwrap().get("number").unwrap().as_u64().unwrap()
        };
        let numbers: Vec<_> = lines.map(number).collect();
        if !numbers.is_empty() {
            return numbers;
        }
    }
}

async fn follow(kit: &Kit, org: &OrgId, admin: &Verified<Peer>, query: &str) -> Body {
    let path = format!("/api/v1/orgs/{org}/events?follow=true&stage=ResponseComplete{query}");
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(admin.clone());
    let answer = kit.controller.api().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body()
}

#[tokio::test]
async fn who_follows_events_is_sent_what_is_new_in_pieces_of_bounded_size() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    report(&kit, &acme, 2500).await;
    // What was there before is not new, whatever is asked for.
    let mut early = follow(&kit, &acme, &admin, "&before=1").await;
    let mut nobody = follow(&kit, &acme, &admin, "&user=user-2501").await;
    let mut all = follow(&kit, &acme, &admin, "&limit=1").await;
    assert!(early.frame().await.is_some() && nobody.frame().await.is_some(), "nothing yet");
    assert_eq!(numbers(&mut all).await.len(), 1);
    // Whoever reads slowly has missed a lot, and gets it in order.
    report(&kit, &acme, 2600).await;
    assert_eq!(numbers(&mut nobody).await.len(), 1);
    for body in [&mut early, &mut all] {
        let mut seen = Vec::new();
        while seen.len() < 2600 {
            let piece = numbers(body).await;
            assert!(piece.len() <= 1000, "{} at once", piece.len());
            seen.extend(piece);
        }
        assert_eq!(seen.len(), 2600);
        assert!(seen.is_sorted() && *seen.first().unwrap() > 2500, "{:?}", seen.first());
    }
}
