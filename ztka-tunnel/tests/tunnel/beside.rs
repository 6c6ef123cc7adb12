//! Whoever does not read changes nothing for others: over a network of 1 Gbit/s and 100 ms, whose time is simulated.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex, split},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tower::service_fn;
use ztka_core::{Body, BoxError, ProxyId, Reply, Verified};
use ztka_tunnel::{DialSettings, Dialer, ProxyAddress, Settings, connect_fn};

use crate::pair::{Agent, Net, collected, get, ready, text};

const LATENCY: Duration = Duration::from_millis(50);
const BYTES_PER_SECOND: f64 = 125e6;
const POD: &str = "/api/v1/namespaces/default/pods/web";
const LIST: &str = "/api/v1/pods";
const LOG: &str = "/api/v1/namespaces/default/pods/web/log";

/// One direction of the network.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let (sent, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let send = async move {
        let mut piece = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            sleep(Duration::from_secs_f64(length as f64 / BYTES_PER_SECOND)).await;
            let _ = sent.send((Instant::now() + LATENCY, piece[..length].to_vec()));
        }
    };
    let arrive = async move {
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(send, arrive);
}

/// An agent at the far end of the network.
async fn connected(net: &Net, agent: &Agent) -> Dialer {
    let (registry, peer) = (net.proxies[0].clone(), net.peer("acme", "c1", "i1"));
    let connect = connect_fn(move |_: ProxyAddress| {
        let (registry, peer) = (registry.clone(), peer.clone());
        let ((near, left), (right, far)) = (duplex(64 << 10), duplex(64 << 10));
        let ((from_near, to_near), (from_far, to_far)) = (split(left), split(right));
        tokio::spawn(carry(from_near, to_far));
        tokio::spawn(carry(from_far, to_near));
        tokio::spawn(async move { registry.serve(far, peer).await });
        async { Ok((near, Verified::assertion("p0".parse::<ProxyId>().unwrap()))) }
    });
    let agent = agent.clone();
    let service = service_fn(move |request| agent.clone().answer(request));
    let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
    let dialer = Dialer::start_with(connect, ["proxy:443".parse().unwrap()], service, Settings::default(), dial);
    ready(&dialer).await;
    dialer
}

/// How long small answers and lists take: the median of each.
async fn medians(net: &Net) -> [Duration; 2] {
    let mut medians = [Duration::ZERO; 2];
    for (median, (path, length)) in medians.iter_mut().zip([(POD, 6), (LIST, 1_000_000)]) {
        let mut times = Vec::new();
        for _ in 0..21 {
            let begun = Instant::now();
            assert_eq!(collected(net.ask(get(path)).await).await.body().len(), length);
            times.push(begun.elapsed());
        }
        times.sort();
        *median = times[10];
    }
    medians
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_changes_no_p50() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        match request.uri().path() {
            POD => text("served"),
            LIST => text(vec![b'x'; 1_000_000]),
            _ => {
                let pieces = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; 16 << 10]))));
                Reply::Response(Response::new(StreamBody::new(pieces).boxed_unsync()))
            }
        }
    });
    let _dialer = connected(&net, &agent).await;
    let alone = medians(&net).await;
    assert!(alone[0] >= 2 * LATENCY && alone[1] < 4 * LATENCY, "{alone:?}");

    let Reply::Response(stalled) = net.ask(get(LOG)).await else { panic!("upgraded") };
    sleep(Duration::from_secs(5)).await;
    let held = net.proxies[0].buffered();
    assert!(held > 10 << 20, "{held}: it is not stalled");
    let beside = medians(&net).await;
    for (alone, beside) in alone.iter().zip(beside) {
        assert!(beside <= alone.mul_f64(1.1), "{beside:?} beside it, {alone:?} alone");
    }

    // Nor does one that reads slowly.
    let mut slow = stalled.into_body();
    tokio::spawn(async move {
        while let Some(Ok(_)) = slow.frame().await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let beside = medians(&net).await;
    for (alone, beside) in alone.iter().zip(beside) {
        assert!(beside <= alone.mul_f64(1.1), "{beside:?} beside a slow one, {alone:?} alone");
    }
}
