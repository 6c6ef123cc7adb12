//! One user's readers that do not read: they are held to that user's part, and everybody else has full windows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{sleep, timeout};
use tower::service_fn;
use ztka_core::{Body, BoxError, Evidence, Reply};
use ztka_tunnel::{DialSettings, Dialer, ProxyAddress, Registry, Settings};

use crate::pair::{Agent, Ask, Net, ask, ready, send, until};

const LOG: &str = "/api/v1/namespaces/default/pods/web/log";
const PIECE: usize = 32 << 10;
const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// A body of `size` bytes that counts what was taken of it.
fn counted(size: usize, taken: Arc<AtomicUsize>) -> Body {
    let pieces = stream::unfold(0, move |sent| {
        let taken = taken.clone();
        async move {
            taken.fetch_add(PIECE, SeqCst);
            (sent < size).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[7; PIECE]))), sent + PIECE))
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Answers of 40 MiB; what bob's have sent is counted.
fn agent() -> (Agent, Arc<AtomicUsize>) {
    let of_bob = Arc::new(AtomicUsize::new(0));
    let shown = of_bob.clone();
    let agent = Agent::new(move |request: Request<Body>| {
        let taken = if request.uri().query() == Some("bob=1") { of_bob.clone() } else { Arc::default() };
        async move { Reply::Response(Response::new(counted(40 * MIB, taken))) }
    });
    (agent, shown)
}

async fn begun(registry: &Registry, asked: Ask) -> Body {
    let Reply::Response(response) = send(registry, asked.permitted()).await else { panic!("upgraded") };
    response.into_body()
}

async fn read(body: &mut Body, bytes: usize) -> Result<(), BoxError> {
    let mut read = 0;
    while read < bytes {
        let Some(frame) = timeout(60 * SECOND, body.frame()).await? else { return Err("it has ended".into()) };
        read += frame?.into_data().map_err(|_| "no data")?.len();
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_held_to_a_part_and_others_have_full_windows() {
    let net = Net::new(1);
    let (agent, of_bob) = agent();
    let _dialer = net.connected(&agent).await;
    let registry = &net.proxies[0];
    let Settings { stream_window, tunnel_memory, user_memory, .. } = net.settings;
    let mut stalled = Vec::new();
    for _ in 0..300 {
        stalled.push(begun(registry, ask(Method::GET, LOG)).await);
    }
    sleep(10 * SECOND).await;
    let (held, ended) = registry.buffered_by_one();
    assert!(held > tunnel_memory / 2 && held <= user_memory && ended == 0, "{held}, {ended} ended");

    // Nobody reads for half a minute: then enough of it goes.
    sleep(30 * SECOND).await;
    let (held, ended) = registry.buffered_by_one();
    assert!(held <= tunnel_memory - 4 * stream_window as usize + MIB, "{held}");
    assert!(ended > 0 && ended < 300, "{ended}");
    assert_eq!(registry.streams(), 300, "their places are theirs until they are dropped");

    // Somebody else's stream may be a whole window ahead.
    let mut body = begun(registry, ask(Method::GET, &format!("{LOG}?bob=1")).by("u2")).await;
    sleep(10 * SECOND).await;
    assert!(of_bob.load(SeqCst) >= stream_window as usize, "{} of {stream_window}", of_bob.load(SeqCst));
    read(&mut body, 40 * MIB).await.unwrap();
    drop(body);

    // Who reads after all is told what has happened, or has all of it.
    let mut told = 0;
    for mut body in stalled {
        match read(&mut body, 40 * MIB).await {
            Ok(()) => {}
            Err(error) => {
                assert!(error.to_string().contains("not read"), "{error}");
                told += 1;
            }
        }
    }
    assert_eq!(told, ended);
    until("places given back", || registry.streams() == 0).await;
    sleep(6 * SECOND).await;
    assert_eq!((registry.buffered(), registry.buffered_by_one().0), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_loses_nothing_to_those_who_do_not() {
    let net = Net::new(1);
    let (agent, _) = agent();
    let _dialer = net.connected(&agent).await;
    let registry = &net.proxies[0];
    let mut slow = begun(registry, ask(Method::GET, LOG)).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(begun(registry, ask(Method::GET, LOG)).await);
    }
    // 40 MiB, a good while of it behind those who do not read.
    for _ in 0..80 {
        read(&mut slow, MIB / 2).await.unwrap();
        sleep(SECOND).await;
    }
    assert!(registry.buffered_by_one().1 > 0);
}

#[tokio::test(start_paused = true)]
async fn over_all_tunnels_a_user_has_a_hard_limit() {
    let settings = Settings { user_memory: 24 * MIB, ..Settings::default() };
    let net = Net::with(1, settings);
    let (agent, of_bob) = agent();
    let registry = &net.proxies[0];
    let mut dialers = Vec::new();
    for cluster in ["c1", "c2", "c3"] {
        let dialer = net.dial(net.peer("acme", cluster, &format!("i-{cluster}")), &agent);
        ready(&dialer).await;
        dialers.push(dialer);
    }
    let mut stalled = Vec::new();
    for number in 0..60 {
        let asked = Ask { cluster: ["c1", "c2", "c3"][number % 3], ..ask(Method::GET, LOG) };
        stalled.push(begun(registry, asked).await);
        sleep(SECOND / 10).await;
        let (held, _) = registry.buffered_by_one();
        assert!(held <= settings.user_memory + 60 * (16 << 10) + 4 * MIB, "{number}: {held}");
    }
    sleep(6 * SECOND).await;
    let (held, ended) = registry.buffered_by_one();
    assert!(held <= settings.user_memory + 60 * (16 << 10), "{held}");
    assert!(ended >= 20, "{ended}");
    let _body = begun(registry, ask(Method::GET, &format!("{LOG}?bob=1")).by("u2")).await;
    sleep(6 * SECOND).await;
    assert!(of_bob.load(SeqCst) >= settings.stream_window as usize);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_nobody_reads_are_held_to_their_part_at_the_agent() {
    let net = Net::new(1);
    let agent = Agent::new(|request: Request<Body>| async move {
        if request.uri().query() == Some("stalled=1") {
            std::future::pending::<()>().await;
        }
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        Reply::Response(Response::new(ztka_core::body(length.to_string())))
    });
    let dialer = net.connected(&agent).await;
    let upload = |target: String| ask(Method::POST, &target).body(counted(40 * MIB, Arc::default()));
    let stalled: Vec<_> =
        (0..100).map(|_| tokio::spawn(send(&net.proxies[0], upload(format!("{LOG}?stalled=1")).permitted()))).collect();
    sleep(10 * SECOND).await;
    assert!(dialer.buffered_by_one().0 > net.settings.tunnel_memory / 2);
    sleep(30 * SECOND).await;
    let (held, ended) = dialer.buffered_by_one();
    let Settings { tunnel_memory, stream_window, .. } = net.settings;
    assert!(held <= tunnel_memory - 4 * stream_window as usize + MIB && ended > 0, "{held}, {ended} ended");
    let answer = crate::pair::collected(send(&net.proxies[0], upload(LOG.into()).by("u2").permitted()).await).await;
    assert_eq!(answer.body(), &(40 * MIB).to_string());
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}

/// By a chain of certificates with something more in it, or by a session that is signed again, evidence is another one.
#[tokio::test(start_paused = true)]
async fn at_the_agent_a_user_has_one_limit_whatever_the_evidence() {
    let settings = Settings { user_memory: 24 * MIB, ..Settings::default() };
    let net = Net::with(1, settings);
    let agent = Agent::new(|request: Request<Body>| async move {
        let _unread = request;
        std::future::pending().await
    });
    let service = service_fn(move |request| agent.clone().answer(request));
    let whose = |headers: &HeaderMap| {
        let named = headers.get("ztka-evidence")?;
        let is_hers = (0..60).any(|number| *named == Evidence::new(format!("alice {number}")).id().as_str());
        is_hers.then(|| "u1".parse().unwrap())
    };
    let dialer = Dialer::start_for_users(
        net.connector(net.peer("acme", "c1", "i1")),
        [ProxyAddress::new("proxy", 0).unwrap()],
        service,
        (settings, DialSettings { tunnels: 1, ..DialSettings::default() }),
        whose,
    );
    ready(&dialer).await;
    let mut stalled = Vec::new();
    for number in 0..60 {
        let upload = ask(Method::POST, LOG).body(counted(40 * MIB, Arc::default()));
        let upload = Ask { evidence: String::leak(format!("alice {number}")), ..upload };
        stalled.push(tokio::spawn(send(&net.proxies[0], upload.permitted())));
        sleep(SECOND / 10).await;
        let held = dialer.buffered();
        assert!(held <= settings.user_memory + 60 * (16 << 10) + 4 * MIB, "{number}: {held}");
    }
    sleep(6 * SECOND).await;
    let (held, ended) = dialer.buffered_by_one();
    assert_eq!(held, dialer.buffered());
    assert!(held <= settings.user_memory + 60 * (16 << 10) && ended >= 20, "{held}, {ended} ended");
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
}
