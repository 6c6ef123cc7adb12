//! What a proxy tells an agent beside requests, and which tunnel a request takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use ztka_core::{Body, Reply, Status};
use ztka_tunnel::Settings;

use crate::pair::{Agent, Net, ask, collected, get, send, text, until};

const POD: &str = "/api/v1/namespaces/default/pods/web";

fn served() -> Agent {
    Agent::new(|_| async { text("served") })
}

#[tokio::test(start_paused = true)]
async fn evidence_is_sent_once_per_tunnel_before_a_request_refers_to_it() {
    let net = Net::new(1);
    let agent = served();
    let dialer = net.connected(&agent).await;
    let of = |evidence| {
        let mut asked = ask(Method::GET, POD);
        asked.evidence = evidence;
        net.ask(asked.permitted())
    };
    for reply in join_all((0..50).map(|_| of("alice"))).await {
        assert_eq!(collected(reply).await.status(), StatusCode::OK);
    }
    assert_eq!(collected(of("bob").await).await.status(), StatusCode::OK);
    let seen = agent.seen();
    assert_eq!(seen[0], "evidence alice");
    assert_eq!(seen.iter().filter(|line| line.starts_with("evidence")).count(), 2);

    dialer.renew();
    until("renewed", || net.cables.lock().unwrap().len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(collected(of("alice").await).await.status(), StatusCode::OK);
    assert_eq!(agent.seen().iter().filter(|line| *line == "evidence alice").count(), 2, "once on the new one");
}

#[tokio::test(start_paused = true)]
async fn evidence_that_is_refused_is_the_users_answer_and_is_tried_again() {
    let net = Net::new(1);
    let agent = served();
    let _dialer = net.connected(&agent).await;
    let mallory = || {
        let mut asked = ask(Method::GET, POD);
        asked.evidence = "bad";
        net.ask(asked.permitted())
    };
    for round in 1..3 {
        for reply in join_all((0..10).map(|_| mallory())).await {
            let answer = collected(reply).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            assert!(String::from_utf8_lossy(answer.body()).contains("not believed"));
        }
        let sent = agent.seen().iter().filter(|line| *line == "evidence bad").count();
        assert_eq!(sent, round, "those that wait share one answer, the next asks anew");
    }
    assert_eq!(agent.seen().len(), 2, "no request went on");

    let mut huge = ask(Method::GET, POD);
    huge.evidence = Box::leak("x".repeat(70_000).into_boxed_str());
    let refused = collected(net.ask(huge.permitted()).await).await;
    assert_eq!(refused.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

/// Does not know who asks the first time.
fn forgetful() -> Agent {
    let asked = Arc::new(AtomicUsize::new(0));
    Agent::new(move |_| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let Reply::Response(mut unknown) = Reply::from(Status::new(StatusCode::UNAUTHORIZED, "who?")) else {
                unreachable!()
            };
            unknown.headers_mut().insert("ztka-evidence", "unknown".parse().unwrap());
            if first { Reply::Response(unknown) } else { text("served") }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn evidence_that_the_agent_no_longer_holds_is_sent_again() {
    let net = Net::new(1);
    let agent = forgetful();
    let _dialer = net.connected(&agent).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served");
    let lines = ["evidence alice".to_owned(), format!("GET {POD}")];
    assert_eq!(agent.seen(), [lines.clone(), lines].concat());
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_body_is_told_to_come_again_and_then_finds_its_evidence_held() {
    let net = Net::new(1);
    let agent = forgetful();
    let _dialer = net.connected(&agent).await;
    let post = || net.ask(ask(Method::POST, POD).body(ztka_core::body("{}")).permitted());
    let answer = collected(post().await).await;
    // Not 401: the user's login is in order, and nothing was done.
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(!answer.headers().contains_key("ztka-evidence"));
    assert_eq!(collected(post().await).await.body(), "served");
    let lines = ["evidence alice".to_owned(), format!("POST {POD}")];
    assert_eq!(agent.seen(), [lines.clone(), lines].concat());
}

#[tokio::test(start_paused = true)]
async fn documents_come_before_the_first_request_the_latest_of_each_name_in_order() {
    let net = Net::new(1);
    let registry = &net.proxies[0];
    let acme = || Some("acme".parse().unwrap());
    registry.publish(None, "trust", "t1");
    registry.publish(acme(), "policy", "p1");
    registry.publish(acme(), "policy", "p2");
    registry.publish(Some("other".parse().unwrap()), "policy", "not yours");
    registry.publish(acme(), "old", "o1");
    registry.withdraw(acme(), "old");
    let agent = served();
    let dialer = net.connected(&agent).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.status(), StatusCode::OK);
    let request = ["evidence alice".to_owned(), format!("GET {POD}")];
    assert_eq!(agent.seen()[..2], ["document trust t1", "document policy p2"]);
    assert_eq!(agent.seen()[2..], request);

    for version in 3..100 {
        registry.publish(acme(), "policy", format!("p{version}"));
    }
    registry.publish(None, "trust", "t2");
    until("the latest", || agent.seen().last().is_some_and(|line| line == "document trust t2")).await;
    let seen = agent.seen();
    let policies: Vec<u32> =
        seen.iter().filter_map(|line| line.strip_prefix("document policy p")?.parse().ok()).collect();
    assert!(policies.is_sorted() && policies.last() == Some(&99), "{policies:?}");

    dialer.renew();
    until("renewed", || net.cables.lock().unwrap().len() == 2).await;
    until("told again", || agent.seen().len() >= seen.len() + 2).await;
    assert_eq!(agent.seen()[seen.len()..], ["document policy p99", "document trust t2"]);
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_the_least_loaded_tunnel_of_their_own_cluster() {
    let net = Net::new(1);
    let held = || Agent::new(|_| std::future::pending());
    let (one, other, foreign) = (held(), held(), held());
    let _dialers = [
        net.dial(net.peer("acme", "c1", "i1"), &one),
        net.dial(net.peer("acme", "c1", "i2"), &other),
        // Claims the same cluster id with a certificate of another organisation.
        net.dial(net.peer("rival", "c1", "i3"), &foreign),
    ];
    until("connected", || net.proxies[0].peers().len() == 3).await;
    let asked: Vec<_> = (0..100).map(|_| tokio::spawn(net.ask(get(POD)))).collect();
    until("under way", || net.proxies[0].streams() == 100).await;
    until("arrived", || one.seen().len() + other.seen().len() == 102).await;
    assert_eq!((one.seen().len(), other.seen().len()), (51, 51), "50 requests and the evidence each");
    assert!(foreign.seen().is_empty());
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    until("given back", || net.proxies[0].streams() == 0).await;

    let mut elsewhere = ask(Method::GET, POD);
    elsewhere.cluster = "c2";
    assert_eq!(collected(net.ask(elsewhere.permitted()).await).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(net.proxies[0].is_connected(&"acme".parse().unwrap(), &"c1".parse().unwrap()));
    assert!(!net.proxies[0].is_connected(&"acme".parse().unwrap(), &"c2".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_another_tunnel_is_taken_and_then_none() {
    let net = Net::with(1, Settings { max_streams: 18, ..Settings::default() });
    let held = Agent::new(|request: Request<Body>| async move {
        match request.uri().query() {
            Some("watch=1") => std::future::pending().await,
            _ => text("served"),
        }
    });
    let _dialers = [net.dial(net.peer("acme", "c1", "i1"), &held), net.dial(net.peer("acme", "c1", "i2"), &held)];
    until("connected", || net.proxies[0].peers().len() == 2).await;
    let watch = || get("/api/v1/namespaces/default/pods?watch=1");
    let watches: Vec<_> = (0..20).map(|_| tokio::spawn(send(&net.proxies[0], watch()))).collect();
    until("full", || net.proxies[0].streams() == 20).await;
    let refused = collected(net.ask(get(POD)).await).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    watches[0].abort();
    until("a place", || net.proxies[0].streams() == 19).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served");
    watches.iter().for_each(tokio::task::JoinHandle::abort);
}
