//! What becomes of requests whose tunnel dies before a byte of the answer, when there is another tunnel.

use std::time::Duration;

use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, sleep};
use ztka_core::{Reply, SentTwice, Upgrade, body};
use ztka_tunnel::Dialer;

use crate::pair::{Agent, Ask, Net, ask, collected, get, ready, status, text, until};

const POD: &str = "/api/v1/namespaces/default/pods/web";

/// An agent that says nothing, and then a second one of the same cluster, which answers.
async fn silent_and_answering() -> (Net, [(Agent, Dialer); 2]) {
    let net = Net::new(1);
    let silent = Agent::new(|_| std::future::pending());
    let first = net.dial(net.peer("acme", "c1", "i1"), &silent);
    ready(&first).await;
    let answering = Agent::new(|_| async { Reply::Response(status(StatusCode::OK)) });
    let second = net.dial(net.peer("acme", "c1", "i2"), &answering);
    (net, [(silent, first), (answering, second)])
}

fn asked(agent: &Agent) -> usize {
    agent.seen().iter().filter(|line| !line.starts_with("evidence ")).count()
}

/// What a request is answered whose tunnel is ended under it, whether it was sent twice, and how often the second agent
/// was asked.
async fn broken_under(request: Ask) -> (StatusCode, bool, usize) {
    let (net, [(silent, first), (answering, second)]) = silent_and_answering().await;
    let under_way = tokio::spawn(net.ask(request.permitted()));
    until("the request is under way", || asked(&silent) == 1).await;
    ready(&second).await;
    drop(first);
    let reply = under_way.await.unwrap();
    let twice = match &reply {
        Reply::Response(response) => response.extensions().get::<SentTwice>().is_some(),
        Reply::Upgraded { .. } => false,
    };
    (collected(reply).await.status(), twice, asked(&answering))
}

#[tokio::test(start_paused = true)]
async fn a_read_is_sent_once_more_into_another_tunnel() {
    for (method, path) in [(Method::GET, POD), (Method::HEAD, POD), (Method::OPTIONS, "/healthz")] {
        assert_eq!(broken_under(ask(method.clone(), path)).await, (StatusCode::OK, true, 1), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is() {
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        assert_eq!(broken_under(ask(method.clone(), POD)).await, (StatusCode::BAD_GATEWAY, false, 0), "{method}");
    }
    let exec = ask(Method::GET, &format!("{POD}/exec?command=sh")).upgrade(Upgrade::WebSocket);
    let (code, twice, again) = broken_under(exec).await;
    assert!(code.is_server_error() && !twice && again == 0, "{code}");
    let with_body = ask(Method::GET, POD).body(body("{}"));
    assert_eq!(broken_under(with_body).await, (StatusCode::SERVICE_UNAVAILABLE, false, 0));
}

#[tokio::test(start_paused = true)]
async fn once_means_once() {
    let net = Net::new(1);
    let instances = ["i1", "i2", "i3"];
    let agents = instances.map(|_| Agent::new(|_| std::future::pending()));
    let mut dialers = Vec::new();
    for (instance, agent) in instances.iter().zip(&agents) {
        let dialer = net.dial(net.peer("acme", "c1", instance), agent);
        ready(&dialer).await;
        dialers.push(Some(dialer));
    }
    let under_way = tokio::spawn(net.ask(get(POD)));
    for times in [1, 2] {
        let times_asked = || agents.iter().map(asked).sum::<usize>();
        until("the request is under way", || times_asked() == times).await;
        let at = agents.iter().zip(&dialers).position(|(agent, dialer)| asked(agent) == 1 && dialer.is_some());
        dialers[at.unwrap()] = None;
    }
    let reply = under_way.await.unwrap();
    let Reply::Response(response) = &reply else { panic!() };
    assert!(response.extensions().get::<SentTwice>().is_some());
    assert_eq!(collected(reply).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(agents.iter().map(asked).sum::<usize>(), 2, "the third tunnel is not asked");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    let net = Net::new(1);
    let begins = Agent::new(|_| async {
        let first = futures_util::stream::once(async { Ok::<_, ztka_core::BoxError>(Frame::data("begun".into())) });
        let rest = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Reply::Response(http::Response::new(StreamBody::new(rest).boxed_unsync()))
    });
    let first = net.dial(net.peer("acme", "c1", "i1"), &begins);
    ready(&first).await;
    let Reply::Response(answer) = net.ask(get(POD)).await else { panic!() };
    let second = net.dial(net.peer("acme", "c1", "i2"), &begins);
    ready(&second).await;
    drop(first);
    assert!(answer.into_body().collect().await.is_err(), "it breaks off, and its reader knows");
    assert_eq!(asked(&begins), 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_be_dead_gets_no_requests_while_there_is_another() {
    let net = Net::new(1);
    let agent = Agent::new(|request| async move { text(request.uri().path().to_owned()) });
    let mut dialers = Vec::new();
    for instance in ["i1", "i2"] {
        let dialer = net.dial(net.peer("acme", "c1", instance), &agent);
        ready(&dialer).await;
        dialers.push(dialer);
    }
    // A quiet hour makes nobody suspect. It ends halfway between two PINGs, which come every five seconds.
    sleep(Duration::from_millis(3_602_500)).await;
    until("two tunnels", || net.proxies[0].peers().len() == 2).await;
    net.cables.lock().unwrap()[0].cancel();
    // The next PING is due in half of that, its answer within two seconds, and death is five seconds later.
    sleep(Duration::from_secs(6)).await;
    assert_eq!(net.proxies[0].peers().len(), 2, "nobody counts as dead yet");
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(collected(net.ask(get(POD)).await).await.status(), StatusCode::OK);
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    }
}
