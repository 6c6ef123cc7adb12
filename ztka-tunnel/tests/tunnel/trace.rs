//! W3C Trace Context from hop to hop: one trace, a step for each, and nothing of what is not well-formed.

use http::{Request, Response};
use tower::{Layer as _, ServiceExt as _, service_fn};
use ztka_core::{Body, BoxError, Reply, TRACEPARENT, TRACESTATE, TraceContext, body, empty};
use ztka_tunnel::{Bare, DialSettings, Dialer, ProxyAddress, Settings, TraceLayer};

use crate::pair::{Net, collected, ready};

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What comes to whoever is behind the agent.
async fn behind(lines: &[(&str, &str)]) -> (String, Option<String>) {
    let net = Net::new(1);
    let peer = net.peer("acme", "c1", "i1");
    let echo = service_fn(|request: Request<Body>| async move {
        let said = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let text = format!("{}\n{}", said(&TRACEPARENT), said(&TRACESTATE));
        Ok::<_, BoxError>(Reply::Response(Response::new(body(text))))
    });
    let service = TraceLayer::new("agent").layer(echo);
    let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
    let address = ProxyAddress::new("proxy", 0).unwrap();
    let dialer = Dialer::start_with(net.connector(peer.clone()), [address], service, Settings::default(), dial);
    ready(&dialer).await;
    let mut request = Request::get("/a");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let proxy = TraceLayer::new("proxy").layer(Bare::assertion(net.proxies[0].clone(), &peer));
    let answer = collected(proxy.oneshot(request.body(empty()).unwrap()).await.unwrap()).await;
    let text = String::from_utf8(answer.into_body().to_vec()).unwrap();
    let (parent, state) = text.split_once('\n').unwrap();
    (parent.to_owned(), (!state.is_empty()).then(|| state.to_owned()))
}

#[tokio::test]
async fn each_hop_is_a_step_of_the_callers_trace() {
    let (parent, state) = behind(&[("traceparent", GIVEN), ("tracestate", "vendor=1")]).await;
    let step = TraceContext::parse(parent.as_bytes()).unwrap();
    assert!(parent.starts_with(&GIVEN[..35]) && parent.ends_with("-01"), "{parent}");
    assert_ne!(&parent[36..52], &GIVEN[36..52]);
    assert!(step.is_sampled());
    assert_eq!(state.as_deref(), Some("vendor=1"));
}

#[tokio::test]
async fn a_trace_begins_where_there_is_none_or_a_bad_one() {
    let bad = [("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"), ("tracestate", "vendor=1")];
    for lines in [&[][..], &bad] {
        let (parent, state) = behind(lines).await;
        let begun = TraceContext::parse(parent.as_bytes()).expect("one is made");
        assert!(!begun.is_sampled() && !parent.contains(&GIVEN[3..35]), "{parent}");
        assert_eq!(state, None);
    }
}
