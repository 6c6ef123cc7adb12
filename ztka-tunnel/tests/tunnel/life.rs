//! The life of tunnels: death noticed, redialled, renewed under load, drained, revoked, expired.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::SignedDuration;
use tokio::{
    io::{AsyncWriteExt as _, duplex},
    time::{Instant, sleep, timeout},
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use ztka_core::{Body, BoxError, Reply, Upgrade};
use ztka_tunnel::{Registry, TunnelError};

use crate::pair::{Agent, LONG, Net, ask, collected, get, ready, status, text, until};

const POD: &str = "/api/v1/namespaces/default/pods/web";
const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=cat";
const SOON: Duration = Duration::from_secs(15);

/// Upgrades are echoed, `watch=1` gets one event and silence, everything else its path.
fn agent() -> Agent {
    Agent::new(|request: Request<Body>| async move {
        if request.extensions().get::<Upgrade>().is_some() {
            let (near, far) = duplex(64 << 10);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let head = Response::builder().status(101).body(()).unwrap();
            return Reply::Upgraded { head, io: Box::pin(near.compat()) };
        }
        if request.uri().query() == Some("watch=1") {
            let event = stream::once(async { Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"added"))) });
            return Reply::Response(Response::new(StreamBody::new(event.chain(stream::pending())).boxed_unsync()));
        }
        text(request.uri().path().to_owned())
    })
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_noticed_by_both_ends_in_under_fifteen_seconds() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let mut states = dialer.states();
    let watch = net.ask(get(&format!("{POD}?watch=1"))).await;
    // Quiet is not dead.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(net.cables.lock().unwrap().len(), 1);

    let cut = Instant::now();
    net.cables.lock().unwrap()[0].cancel();
    let gone =
        timeout(SOON, states.wait_for(|states| states[0].proxy.is_none())).await.expect("agent notices").unwrap();
    assert!(gone[0].error.as_ref().unwrap().contains("nothing for 12s"));
    drop(gone);
    let Reply::Response(watch) = watch else { panic!() };
    assert!(timeout(SOON, watch.into_body().collect()).await.expect("proxy notices").is_err());
    assert!(cut.elapsed() < SOON, "{:?}", cut.elapsed());
    ready(&dialer).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), POD);
}

#[tokio::test(start_paused = true)]
async fn redials_when_the_proxy_ends_the_tunnel() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let mut states = dialer.states();
    for _ in 0..5 {
        assert_eq!(net.proxies[0].remove(&"c1".parse().unwrap()), 1);
        states.wait_for(|states| states[0].proxy.is_none()).await.unwrap();
        let away = collected(net.ask(get(POD)).await).await;
        assert_eq!(
            (away.status(), &away.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert!(String::from_utf8_lossy(away.body()).contains("the agent of cluster c1 is not connected"));
        ready(&dialer).await;
        assert_eq!(collected(net.ask(get(POD)).await).await.body(), POD);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_cannot_be_reached_is_tried_ever_more_rarely_and_does_not_hinder_the_other() {
    let mut net = Net::new(2);
    let lost = net.proxies.pop().unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    let connector = {
        let (net, attempts) = (net.clone(), attempts.clone());
        ztka_tunnel::connect_fn(move |address: ztka_tunnel::ProxyAddress| {
            let connector = net.connector(net.peer("acme", "c1", "i1"));
            if address.port() == 1 {
                attempts.fetch_add(1, Ordering::Relaxed);
            }
            async move { ztka_tunnel::Connect::connect(&connector, &address).await }
        })
    };
    let addresses = [0, 1].map(|port| ztka_tunnel::ProxyAddress::new("proxy", port).unwrap());
    let service = tower::service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(Reply::Response(status(StatusCode::NO_CONTENT)))
    });
    let dialer = ztka_tunnel::Dialer::start(connector, addresses, service);
    let mut states = dialer.states();
    states.wait_for(|states| states.iter().any(|state| state.proxy.is_some())).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((60..300).contains(&attempts), "{attempts} attempts in ten minutes, each wait up to ten seconds");
    let error = states.borrow().iter().find_map(|state| state.error.clone());
    assert!(error.unwrap().contains("no such proxy"));
    drop(lost);
}

#[tokio::test(start_paused = true)]
async fn renewal_under_load_loses_no_request_and_no_stream() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (net, stop) = (net.clone(), stop.clone());
            tokio::spawn(
                async move {
                    let mut served = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let body = ztka_core::body(vec![7; 100_000]);
                        let post = ask(Method::POST, "/api/v1/namespaces/default/pods").body(body).permitted();
                        assert_eq!(collected(net.ask(post).await).await.status(), StatusCode::OK);
                        assert_eq!(collected(net.ask(get(POD)).await).await.status(), StatusCode::OK);
                        served += 1;
                        sleep(Duration::from_millis(1)).await;
                    }
                    served
                }
                .boxed(),
            )
        })
        .collect();
    let Reply::Upgraded { mut io, .. } = net.ask(ask(Method::POST, EXEC).upgrade(Upgrade::Spdy31).permitted()).await
    else {
        panic!("not upgraded")
    };
    let Reply::Response(mut watch) = net.ask(get(&format!("{POD}?watch=1"))).await else { panic!() };
    watch.body_mut().frame().await.unwrap().unwrap();

    for round in 2..=6 {
        dialer.renew();
        until("a new tunnel", || net.cables.lock().unwrap().len() >= round).await;
        // News goes to the new tunnel, and does the old ones no harm.
        net.proxies[0].publish(None, "trust", format!("t{round}"));
        sleep(Duration::from_millis(50)).await;
        io.write_all(b"still here").await.unwrap();
        let mut echo = [0; 10];
        timeout(LONG, io.read_exact(&mut echo)).await.expect("echo").unwrap();
        sleep(Duration::from_millis(50)).await;
        assert!(watch.body_mut().frame().now_or_never().is_none(), "the watch is quiet, not over");
    }
    stop.store(true, Ordering::Relaxed);
    for served in futures_util::future::join_all(load).await {
        assert!(served.unwrap() > 10);
    }
    assert_eq!(net.cables.lock().unwrap().len(), 6, "one dial per renewal");
    assert_eq!(net.proxies[0].peers().len(), 1, "the old ones take no new streams");
    io.close().await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, io.read_to_end(&mut rest)).await.expect("orderly end").unwrap();
    drop((io, watch));
    until("old streams gone", || net.proxies[0].streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_proxy_is_left_only_when_another_tunnel_is_ready() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let watch = net.ask(get(&format!("{POD}?watch=1"))).await;
    let drained = tokio::spawn({
        let registry = net.proxies[0].clone();
        async move { registry.drain(Duration::from_secs(30)).await }
    });
    until("a second tunnel", || net.cables.lock().unwrap().len() == 2).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.status(), StatusCode::OK);
    // In truth the second goes to another proxy; here it is ended with the first when the grace is over.
    timeout(LONG, drained).await.expect("grace ends").unwrap();
    let Reply::Response(watch) = watch else { panic!() };
    assert!(watch.into_body().collect().await.is_err());
    drop(dialer);
}

#[tokio::test(start_paused = true)]
async fn agents_of_a_draining_proxy_move_to_another_and_long_streams_have_the_grace() {
    let net = Net::new(2);
    let agent = agent();
    let dialer = net.dial_one(net.peer("acme", "c1", "i1"), &agent);
    ready(&dialer).await;
    let old = usize::from(net.proxies[0].peers().is_empty());
    let Reply::Response(mut watch) = crate::pair::send(&net.proxies[old], get(&format!("{POD}?watch=1"))).await else {
        panic!()
    };
    watch.body_mut().frame().await.unwrap().unwrap();

    let (grace, begun) = (Duration::from_secs(30), Instant::now());
    let drained = tokio::spawn({
        let registry = net.proxies[old].clone();
        async move { registry.drain(grace).await }
    });
    // Until the other one has a tunnel, this one takes requests.
    while net.proxies[1 - old].peers().is_empty() {
        assert_eq!(collected(crate::pair::send(&net.proxies[old], get(POD)).await).await.status(), StatusCode::OK);
        sleep(Duration::from_millis(1)).await;
    }
    until("the old one takes nothing new", || net.proxies[old].peers().is_empty()).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(collected(crate::pair::send(&net.proxies[1 - old], get(POD)).await).await.status(), StatusCode::OK);
    sleep(Duration::from_secs(15)).await;
    assert!(watch.body_mut().frame().now_or_never().is_none(), "what is long has the grace");
    let over = timeout(LONG, watch.body_mut().frame()).await.expect("and no more");
    assert!(over.unwrap().is_err());
    drained.await.unwrap();
    assert!((30..32).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(net.cables.lock().unwrap().len(), 2, "one dial");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_what_has_begun_end() {
    let net = Net::new(1);
    let slow = Agent::new(|_| async {
        sleep(Duration::from_secs(5)).await;
        text("done")
    });
    let dialer = net.connected(&slow).await;
    let asked = tokio::spawn(net.ask(get(POD)));
    until("request under way", || !slow.seen().is_empty()).await;
    let begun = Instant::now();
    let ((), answer) = tokio::join!(dialer.shutdown(Duration::from_secs(30)), asked);
    assert_eq!(collected(answer.unwrap()).await.body(), "done");
    assert!(begun.elapsed() < Duration::from_secs(10));
    until("no tunnel", || net.proxies[0].peers().is_empty()).await;
    assert_eq!(collected(net.ask(get(POD)).await).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_what_is_left_after_the_grace() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let Reply::Response(watch) = net.ask(get(&format!("{POD}?watch=1"))).await else { panic!() };
    let begun = Instant::now();
    dialer.shutdown(Duration::from_secs(3)).await;
    assert!((3..5).contains(&begun.elapsed().as_secs()));
    assert!(watch.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_when_the_tunnel_breaks_is_answered_honestly() {
    let net = Net::new(1);
    let never = Agent::new(|_| std::future::pending());
    let _dialer = net.connected(&never).await;
    for (method, code, again) in
        [(Method::GET, StatusCode::SERVICE_UNAVAILABLE, true), (Method::DELETE, StatusCode::BAD_GATEWAY, false)]
    {
        until("connected", || !net.proxies[0].peers().is_empty()).await;
        let before = never.seen().len();
        let asked = tokio::spawn(net.ask(ask(method, POD).permitted()));
        until("request under way", || never.seen().len() > before).await;
        net.proxies[0].close_where(|peer| peer.instance.as_str() == "i1");
        let answer = collected(asked.await.unwrap()).await;
        assert_eq!((answer.status(), answer.headers().contains_key("retry-after")), (code, again));
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_tunnel_takes_nothing_new_and_lives_on_beside_a_valid_one_only() {
    let net = Net::new(1);
    let (old, mut new) = (net.peer("acme", "c1", "i1"), net.peer("acme", "c1", "i1"));
    new.not_after += SignedDuration::from_hours(24);
    let agent = agent();
    let _first = net.dial(old.clone(), &agent);
    until("first", || net.proxies[0].peers().len() == 1).await;
    let Reply::Response(mut watch) = net.ask(get(&format!("{POD}?watch=1"))).await else { panic!() };
    watch.body_mut().frame().await.unwrap().unwrap();
    let second = net.dial(new, &agent);
    until("second", || net.proxies[0].peers().len() == 2).await;

    net.clock.advance(SignedDuration::from_hours(25));
    until("the old one leaves", || !net.proxies[0].peers().contains(&old)).await;
    sleep(Duration::from_secs(60)).await;
    assert!(watch.body_mut().frame().now_or_never().is_none(), "its streams end in peace");
    drop(second);
    let over = timeout(Duration::from_secs(60), watch.body_mut().frame()).await.expect("nothing vouches for it");
    assert!(over.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn two_addresses_of_one_proxy_are_tried_again_for_another() {
    let net = Net::new(1);
    let ids = Arc::new(std::sync::Mutex::new(vec!["p2", "p1", "p1", "p1"]));
    let inner = Arc::new(net.connector(net.peer("acme", "c1", "i1")));
    let connector = ztka_tunnel::connect_fn(move |_| {
        let (inner, ids) = (inner.clone(), ids.clone());
        async move {
            let address = ztka_tunnel::ProxyAddress::new("proxy", 0).unwrap();
            let (io, _) = ztka_tunnel::Connect::connect(&*inner, &address).await?;
            let id = ids.lock().unwrap().pop().unwrap_or("p1");
            Ok((io, ztka_core::Verified::assertion(id.parse().unwrap())))
        }
    });
    let front = ztka_tunnel::ProxyAddress::new("front", 443).unwrap();
    let service = tower::service_fn(|_| async { Ok::<_, std::convert::Infallible>(text("")) });
    let dialer = ztka_tunnel::Dialer::start(connector, [front.clone(), front], service);
    let mut states = dialer.states();
    let differ = states.wait_for(|states| match (&states[0].proxy, &states[1].proxy) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    });
    timeout(LONG, differ).await.expect("two proxies").unwrap();
}

/// What an agent that is none does to a proxy.
async fn served(registry: &Registry, net: &Net, far: impl AsyncFnOnce(tokio::io::DuplexStream)) -> TunnelError {
    let (near, far_end) = duplex(1 << 20);
    let (ended, ()) = tokio::join!(registry.serve(near, net.peer("acme", "c1", "i1")), far(far_end));
    assert!(registry.peers().is_empty());
    ended.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_no_agent_is_let_go_with_a_reason() {
    let net = Net::new(1);
    let registry = &net.proxies[0];
    let garbage = served(registry, &net, async |mut io| {
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(1)).await;
    });
    assert!(matches!(garbage.await, TunnelError::Connection(_)));

    let silent = served(registry, &net, async |io| {
        sleep(Duration::from_secs(60)).await;
        drop(io);
    });
    assert!(matches!(silent.await, TunnelError::Dead(_) | TunnelError::Late(_) | TunnelError::SetUp(_)));

    async fn answering(io: tokio::io::DuplexStream, connect: bool, version: &'static str) {
        let mut builder = h2::server::Builder::new();
        if connect {
            builder.enable_connect_protocol();
        }
        let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::NO_CONTENT;
            *response.headers_mut() =
                HeaderMap::from_iter([("ztka-protocol".parse().unwrap(), version.parse().unwrap())]);
            respond.send_response(response, true).unwrap();
        }
    }
    let newer = served(registry, &net, async |io| answering(io, true, "2.0").await).await;
    assert!(matches!(newer, TunnelError::Protocol(_)), "{newer}");
    let older = served(registry, &net, async |io| answering(io, false, "1.0").await).await;
    assert!(older.to_string().contains("extended CONNECT"), "{older}");
}

#[tokio::test(start_paused = true)]
async fn old_tunnels_that_never_end_make_room_for_new_ones() {
    let net = Net::new(1);
    let dialer = net.connected(&agent()).await;
    let mut watches = Vec::new();
    for round in 2..=100 {
        watches.push(net.ask(get(&format!("{POD}?watch=1"))).await);
        dialer.renew();
        until("a new tunnel", || net.cables.lock().unwrap().len() == round).await;
        until("the only one", || net.proxies[0].peers().len() == 1).await;
    }
    assert_eq!(collected(net.ask(get(POD)).await).await.body(), POD);
    until("the oldest are gone", || net.proxies[0].streams() <= 32).await;
    let Some(Reply::Response(newest)) = watches.pop() else { panic!() };
    let mut newest = newest.into_body();
    newest.frame().await.unwrap().unwrap();
    assert!(newest.frame().now_or_never().is_none());
}
