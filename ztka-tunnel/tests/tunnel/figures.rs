//! What both ends tell a recorder of themselves.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::sleep;
use ztka_core::{Body, BoxError, Reply};

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
