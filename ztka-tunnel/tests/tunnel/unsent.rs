//! A request of which nothing was sent goes into another tunnel, whatever its method and body; and agents that are refused
//! a tunnel hear why.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Method, Request, StatusCode};
use tokio::io::duplex;
use tower::service_fn;
use ztka_core::{Body, Reply, SentTwice, Verified, body};
use ztka_tunnel::{Dialer, EVIDENCE_PATH, ProxyAddress, connect_fn, refuse};

use crate::pair::{Agent, Net, ask, collected, ready, status, until};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// An agent that takes everything but evidence, so that no request of a user is ever sent to it.
fn wary(net: &Net, asked: Arc<AtomicUsize>, requests: Arc<AtomicUsize>) -> Dialer {
    let service = service_fn(move |request: Request<Body>| {
        let (asked, requests) = (asked.clone(), requests.clone());
        async move {
            match request.uri().path() {
                EVIDENCE_PATH => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    pending::<()>().await;
                }
                path if !path.starts_with("/.ztka/") => _ = requests.fetch_add(1, Ordering::Relaxed),
                _ => {}
            }
            Ok::<_, Infallible>(Reply::Response(status(StatusCode::NO_CONTENT)))
        }
    });
    let address = ProxyAddress::new("proxy", 0).unwrap();
    Dialer::start(net.connector(net.peer("acme", "c1", "wary")), [address], service)
}

#[tokio::test(start_paused = true)]
async fn a_change_of_which_nothing_was_sent_goes_into_another_tunnel_and_is_made_once() {
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let net = Net::new(1);
        let (shown, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let wary = wary(&net, shown.clone(), sent.clone());
        until("the first tunnel", || net.proxies[0].peers().len() == 1).await;
        let asked = tokio::spawn(net.ask(ask(method.clone(), PODS).body(body("{\"kind\":\"Pod\"}")).permitted()));
        until("evidence is under way, and waits", || shown.load(Ordering::Relaxed) == 1).await;
        let echo = Agent::echo();
        let other = net.dial(net.peer("acme", "c1", "i2"), &echo);
        ready(&other).await;
        drop(wary);
        let reply = asked.await.unwrap();
        let Reply::Response(response) = &reply else { panic!("upgraded") };
        assert!(response.extensions().get::<SentTwice>().is_none(), "{method}: it was sent once");
        let answer = collected(reply).await;
        assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"{\"kind\":\"Pod\"}"[..]), "{method}");
        let made = echo.seen().iter().filter(|line| line.ends_with(PODS)).count();
        assert_eq!((sent.load(Ordering::Relaxed), made), (0, 1), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_refused_a_tunnel_hears_why() {
    let connect = connect_fn(|_: ProxyAddress| {
        let (near, far) = duplex(64 << 10);
        tokio::spawn(refuse(far, "agents of this cluster connect too fast; check for one that restarts without end"));
        async { Ok((near, Verified::assertion("p1".parse().unwrap()))) }
    });
    let service = service_fn(|_: Request<Body>| pending::<Result<Reply, Infallible>>());
    let dialer = Dialer::start(connect, ["proxy:443".parse().unwrap()], service);
    let states = dialer.states();
    let error = || states.borrow().iter().find_map(|state| state.error.clone()).unwrap_or_default();
    until("the agent is refused", || !error().is_empty()).await;
    assert!(error().contains("connect too fast; check for one that restarts without end"), "{}", error());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_with_too_many_tunnels_gets_no_more_and_its_agent_hears_why() {
    let net = Net::new(1);
    let agent = Agent::echo();
    let mut dialers = Vec::new();
    for number in 0..64 {
        let dialer = net.dial(net.peer("acme", "c1", &format!("i{number}")), &agent);
        ready(&dialer).await;
        dialers.push(dialer);
    }
    let further = net.dial(net.peer("acme", "c1", "further"), &agent);
    let states = further.states();
    let error = || states.borrow().iter().find_map(|state| state.error.clone()).unwrap_or_default();
    until("it is refused", || !error().is_empty()).await;
    assert!(error().contains("64 tunnels already"), "{}", error());
    // Another cluster's is not.
    ready(&net.dial(net.peer("acme", "c2", "i1"), &agent)).await;
}
