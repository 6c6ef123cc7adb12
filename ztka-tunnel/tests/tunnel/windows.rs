//! Readers that do not read: they cost a bounded part of the memory, and nobody else waits for them.
//!
//! Time is paused here: it goes on only while everybody waits, so that whoever is held up by another is late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::Instant;
use ztka_core::{Body, BoxError, Reply};
use ztka_tunnel::Settings;

use crate::pair::{Agent, Net, ask, collected, get, text, until};

const POD: &str = "/api/v1/namespaces/default/pods/web";
const LOG: &str = "/api/v1/namespaces/default/pods/web/log";
const PIECE: usize = 32 << 10;

/// Bodies of `size` bytes, and how many of them have been asked for.
fn sending(size: usize) -> (Agent, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let agent = Agent::new(move |request: Request<Body>| {
        let taken = counted.clone();
        async move {
            if !request.uri().path().ends_with("/log") {
                return text("served");
            }
            let counts = request.uri().query() == Some("counted=1");
            let pieces = stream::unfold(0, move |sent| {
                let taken = taken.clone();
                async move {
                    if counts {
                        taken.fetch_add(PIECE, SeqCst);
                    }
                    (sent < size)
                        .then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; PIECE]))), sent + PIECE))
                }
            });
            Reply::Response(Response::new(StreamBody::new(pieces).boxed_unsync()))
        }
    });
    (agent, taken)
}

async fn begun(net: &Net, target: &str) -> Body {
    let Reply::Response(response) = net.ask(get(target)).await else { panic!("upgraded") };
    response.into_body()
}

#[tokio::test(start_paused = true)]
async fn a_gigabyte_that_nobody_reads_is_not_fetched() {
    let net = Net::new(1);
    let (agent, taken) = sending(1 << 30);
    let _dialer = net.connected(&agent).await;
    let mut body = begun(&net, &format!("{LOG}?counted=1")).await;
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ahead = taken.load(SeqCst);
    // A window, what waits for the wire, and what is in the pipe.
    let Settings { stream_window, .. } = net.settings;
    assert!(ahead >= stream_window as usize, "{ahead}: the window is not used");
    assert!(ahead <= stream_window as usize + (2 << 20), "{ahead}");
    let held = net.proxies[0].buffered();
    assert!(held > (10 << 20) && held <= stream_window as usize, "{held}");
    // It goes on where it is read, and what was held is given back.
    let mut read = PIECE;
    while read < 100 << 20 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    drop(body);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(net.proxies[0].buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn however_many_do_not_read_nobody_else_waits() {
    // They are one user's: see `budget` for what becomes of them after half a minute.
    let net = Net::with(1, Settings { unread_for: Duration::from_secs(3600), ..Settings::default() });
    let (agent, _) = sending(20 << 20);
    let _dialer = net.connected(&agent).await;
    let mut stalled = Vec::new();
    let mut times = Vec::new();
    for count in [0, 1, 10, 100, 1000] {
        while stalled.len() < count {
            stalled.push(begun(&net, LOG).await);
        }
        // All of them have what they are given.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let held = net.proxies[0].buffered();
        assert!(held <= net.settings.tunnel_memory + count * (16 << 10) + (2 << 20), "{count}: {held}");
        let began = Instant::now();
        assert_eq!(collected(net.ask(get(POD)).await).await.body(), "served", "{count}");
        assert_eq!(collected(net.ask(get(LOG)).await).await.body().len(), 20 << 20, "{count}");
        times.push(began.elapsed());
    }
    assert!(times.iter().all(|time| *time < Duration::from_secs(1)), "{times:?}");
    assert_eq!(net.proxies[0].streams(), 1000);
    assert_eq!(net.cables.lock().unwrap().len(), 1, "still the first connection");

    // Those who do read have all of it.
    for (number, mut body) in stalled.drain(..).step_by(333).enumerate() {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(read, 20 << 20, "{number}");
    }
    until("places given back", || net.proxies[0].streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn uploads_that_the_agent_does_not_read_are_held_up_alike() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        if request.uri().path().ends_with("/log") {
            std::future::pending::<()>().await;
        }
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        text(length.to_string())
    });
    let dialer = net.connected(&agent).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let upload = |counts: bool| {
        let taken = taken.clone();
        let pieces = stream::unfold(0, move |sent| {
            let taken = taken.clone();
            async move {
                if counts {
                    taken.fetch_add(PIECE, SeqCst);
                }
                (sent < 100 << 20)
                    .then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; PIECE]))), sent + PIECE))
            }
        });
        StreamBody::new(pieces).boxed_unsync()
    };
    let stalled: Vec<_> =
        (0..100).map(|_| tokio::spawn(net.ask(ask(Method::POST, LOG).body(upload(true)).permitted()))).collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let ahead = taken.load(SeqCst);
    let most = net.settings.tunnel_memory + 100 * ((512 << 10) + (16 << 10)) + (4 << 20);
    assert!(ahead <= most, "{ahead} of {most}");
    assert!(dialer.buffered() > 32 << 20 && dialer.buffered() <= net.settings.tunnel_memory + (4 << 20));
    let began = Instant::now();
    let answer = collected(net.ask(ask(Method::POST, POD).body(upload(false)).permitted()).await).await;
    assert_eq!(answer.body(), &(100_usize << 20).to_string());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}
