//! What both ends tell a recorder of themselves.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::{
    io::{DuplexStream, duplex},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use ztka_core::{Body, BoxError, Reply, Verified};
use ztka_tunnel::{ConnectError, DialSettings, Dialer, Peered, ProxyAddress, Settings, connect_fn};

use crate::pair::{Agent, Net, get, ready, text};

/// Each figure by `name{label=value,…}`: of a counter the count, of a gauge the bits.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Told {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |cell| cell.load(SeqCst))
    }

    fn level(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_tell_of_tunnels_streams_memory_and_what_failed() {
    let told = Told::default();
    let _told = metrics::set_default_local_recorder(&told);
    let net = Net::new(2);
    let agent = Agent::new(|request: Request<Body>| async move {
        if request.uri().path() != "/log" {
            return text("served");
        }
        let pieces = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 32 << 10]))));
        Reply::Response(Response::new(StreamBody::new(pieces).boxed_unsync()))
    });
    let dialer = net.connected(&agent).await;
    for end in ["proxy", "agent"] {
        assert_eq!(told.level(&format!("ztka_tunnel_tunnels{{end={end}}}")), 2.0, "{end}");
        assert_eq!(told.count(&format!("ztka_tunnel_handshakes_total{{end={end},outcome=ready}}")), 2, "{end}");
    }
    assert_eq!(told.count("ztka_tunnel_dials_total{end=agent}"), 2);
    assert_eq!(told.count("ztka_tunnel_redials_total{end=agent}"), 0);

    // Three requests, one of which is open and not read.
    drop(net.ask(get("/version")).await);
    drop(net.ask(get("/version")).await);
    let open = net.ask(get("/log")).await;
    sleep(Duration::from_secs(20)).await;
    // To an agent the evidence is a request as well.
    for (end, requests) in [("proxy", 3), ("agent", 4)] {
        assert_eq!(told.count(&format!("ztka_tunnel_requests_total{{end={end}}}")), requests, "{end}");
        assert_eq!(told.level(&format!("ztka_tunnel_streams{{end={end}}}")), 1.0, "{end}");
    }
    let window = f64::from(net.settings.stream_window);
    let held = told.level("ztka_tunnel_buffered_bytes{end=proxy}");
    assert!(held > window / 2.0 && held <= window, "{held}");
    for most in ["tunnel", "user"] {
        assert_eq!(told.level(&format!("ztka_tunnel_{most}_buffered_bytes_max{{end=proxy}}")), held, "{most}");
    }
    assert_eq!(told.level("ztka_tunnel_window_bytes{end=proxy}"), window);
    assert_eq!(told.level("ztka_tunnel_buffered_bytes{end=agent}"), 0.0);

    // It is given up: the agent is reset, and nothing is left.
    drop(open);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(told.count("ztka_tunnel_resets_total{end=agent}"), 1);
    for figure in ["buffered_bytes", "window_bytes", "streams", "tunnel_buffered_bytes_max", "user_buffered_bytes_max"]
    {
        assert_eq!(told.level(&format!("ztka_tunnel_{figure}{{end=proxy}}")), 0.0, "{figure}");
    }

    // A tunnel is lost, and dialled again.
    net.cables.lock().unwrap()[0].cancel();
    sleep(Duration::from_secs(30)).await;
    ready(&dialer).await;
    assert!(told.count("ztka_tunnel_redials_total{end=agent}") >= 1);
    assert_eq!(told.level("ztka_tunnel_tunnels{end=proxy}"), 2.0);
    drop(dialer);
    sleep(Duration::from_secs(30)).await;
    for end in ["proxy", "agent"] {
        assert_eq!(told.level(&format!("ztka_tunnel_tunnels{{end={end}}}")), 0.0, "{end}");
        assert_eq!(told.level(&format!("ztka_tunnel_streams{{end={end}}}")), 0.0, "{end}");
    }
}

/// Whatever keeps a tunnel from being set up: nobody has to come and say so.
#[tokio::test(start_paused = true)]
async fn attempts_that_only_stop_are_told_as_failed() {
    let told = Told::default();
    let _told = metrics::set_default_local_recorder(&told);
    let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
    let service = || service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(text("served")) });
    let address = ProxyAddress::new("proxy", 0).unwrap();
    let failed = |end: &str| told.count(&format!("ztka_tunnel_handshakes_total{{end={end},outcome=failed}}"));
    let ready = |end: &str| told.count(&format!("ztka_tunnel_handshakes_total{{end={end},outcome=ready}}"));

    // An agent whose packets go nowhere.
    let nowhere = connect_fn(|_: ProxyAddress| std::future::pending::<Result<(DuplexStream, _), ConnectError>>());
    let dialer = Dialer::start_with(nowhere, [address.clone()], service(), Settings::default(), dial);
    sleep(Duration::from_secs(60)).await;
    let (dials, failures) = ("ztka_tunnel_dials_total{end=agent}", "ztka_tunnel_dial_failures_total{end=agent}");
    assert!(told.count(dials) > 2 && told.count(failures) >= told.count(dials) - 1, "{:?}", told.0);
    drop(dialer);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told.count(failures), told.count(dials));

    // One whose proxy says nothing, and both ends of a proxy where the other one does not.
    let far_ends = Arc::new(Mutex::new(Vec::new()));
    let held = far_ends.clone();
    let silent = connect_fn(move |_: ProxyAddress| {
        let (near, far) = duplex(256 << 10);
        held.lock().unwrap().push(far);
        async { Ok::<_, ConnectError>((near, Verified::assertion("p0".parse().unwrap()))) }
    });
    let dialer = Dialer::start_with(silent, [address], service(), Settings::default(), dial);
    let net = Net::new(1);
    let registry = net.proxies[0].clone();
    let (_agent, near) = duplex(256 << 10);
    let peer = net.peer("acme", "c1", "i1");
    let (serving, linking) = (registry.clone(), registry.clone());
    let served = tokio::spawn(async move { serving.serve(near, peer).await });
    let (_proxy, near) = duplex(256 << 10);
    let linked = tokio::spawn(async move {
        let stack = service_fn(|_: Request<Peered>| async { Ok::<_, Infallible>(text("served")) });
        let from = Verified::assertion("p1".parse().unwrap());
        let witness = (|_: &HeaderMap, _| Ok(()), |_: &HeaderMap| None);
        linking.serve_peer(near, from, stack, witness, CancellationToken::new()).await
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told.level("ztka_tunnel_tunnels{end=peer}"), 0.0, "no handshake, no link");
    sleep(Duration::from_secs(60)).await;
    assert!(served.await.unwrap().is_err() && linked.await.unwrap().is_err());
    assert!(failed("agent") > 1, "{:?}", told.0);
    assert_eq!((failed("proxy"), failed("peer")), (1, 1), "{:?}", told.0);
    assert_eq!((ready("agent"), ready("proxy"), ready("peer")), (0, 0, 0), "{:?}", told.0);
    drop(dialer);
}
