//! Peers that attack: each storm ends its own connection, before it has cost much, and nobody else notices.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{Instant, timeout},
};
use tower::service_fn;
use ztka_core::{Body, BoxError, Verified};
use ztka_tunnel::{BadFrames, ConnectError, Dialer, ProxyAddress, TunnelError, connect_fn};

use crate::{
    pair::{Agent, LONG, Net, collected, get, send, text, until},
    storms::*,
};

/// An agent with a tunnel to an honest proxy, and one to us: our end, after the handshake. Never is `/never` answered.
async fn attacked_agent(net: &Net) -> (DuplexStream, Dialer) {
    let (near, far) = duplex(64 << 10);
    let (near, net) = (Arc::new(Mutex::new(Some(near))), net.clone());
    let connect = connect_fn(move |address: ProxyAddress| {
        let (near, net) = (near.clone(), net.clone());
        async move {
            let io = match address.port() {
                0 => net.lay(net.proxies[0].clone(), net.peer("acme", "c1", "i1")),
                _ => near.lock().unwrap().take().ok_or_else(|| ConnectError::Other("only once".into()))?,
            };
            Ok((io, Verified::assertion(format!("p{}", address.port()).parse().unwrap())))
        }
    });
    let service = service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            "/.ztka/evidence" => {
                let mut taken = text("");
                if let ztka_core::Reply::Response(response) = &mut taken {
                    *response.status_mut() = StatusCode::NO_CONTENT;
                }
                Ok(taken)
            }
            path => Ok::<_, BoxError>(text(path.to_owned())),
        }
    });
    let addresses = [ProxyAddress::new("proxy", 0).unwrap(), ProxyAddress::new("proxy", 1).unwrap()];
    let dialer = Dialer::start(connect, addresses, service);
    let mut far = far;
    far.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let honest = dialer.states();
    until("the honest tunnel is ready", move || honest.borrow().iter().any(|state| state.proxy.is_some())).await;
    (far, dialer)
}

async fn is_served(net: &Net) {
    assert_eq!(collected(send(&net.proxies[0], get("/version")).await).await.body(), "/version");
}

/// Why tunnels ended or could not be had.
fn errors(states: &[ztka_tunnel::TunnelState]) -> String {
    states.iter().filter_map(|state| state.error.clone()).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn an_agent_ends_the_storms_of_a_proxy_and_serves_others() {
    for storm in Storm::of_client("/never", "c1") {
        let net = Net::new(1);
        let (far, dialer) = attacked_agent(&net).await;
        let sent = storm.rage(far).await;
        let states = dialer.states();
        until("the agent says why", move || !errors(&states.borrow()).is_empty()).await;
        println!("{}: closed after {} KiB: {:?}", storm.name, sent >> 10, errors(&dialer.states().borrow()));
        is_served(&net).await;
    }
}

#[tokio::test]
async fn an_agent_unpacks_no_bomb() {
    let net = Net::new(1);
    let (mut far, _dialer) = attacked_agent(&net).await;
    let block = bomb(&request(GET, "/works", "c1"));
    far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
    let mut all = Vec::new();
    timeout(LONG, far.read_to_end(&mut all)).await.expect("closed").unwrap();
    is_served(&net).await;
}

/// What became of a tunnel on the proxy whose agent we are; we answer nothing by ourselves.
fn attacked_proxy(net: &Net) -> (DuplexStream, tokio::task::JoinHandle<Result<(), TunnelError>>) {
    let (near, far) = duplex(64 << 10);
    let (registry, peer) = (net.proxies[0].clone(), net.peer("acme", "c2", "i2"));
    (near, tokio::spawn(async move { registry.serve(far, peer).await }))
}

#[tokio::test]
async fn a_proxy_ends_the_storms_of_an_agent_and_serves_others() {
    for storm in Storm::of_server() {
        let net = Net::new(1);
        let _dialer = net.connected(&Agent::new(|_| async { text("/version") })).await;
        let (mut near, ended) = attacked_proxy(&net);
        // ENABLE_CONNECT_PROTOCOL and many streams, as an agent says; the proxy's hello comes on stream 1.
        near.write_all(&frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1, 0, 3, 0, 0, 39, 16])).await.unwrap();
        until_hello(&mut near).await;
        let sent = storm.rage(near).await;
        let ended = timeout(LONG, ended).await.expect(storm.name).unwrap();
        println!("{}: closed after {} KiB: {ended:?}", storm.name, sent >> 10);
        assert!(ended.is_err(), "{}", storm.name);
        is_served(&net).await;
    }
}

#[tokio::test]
async fn a_proxy_unpacks_no_bomb() {
    let net = Net::new(1);
    let _dialer = net.connected(&Agent::new(|_| async { text("/version") })).await;
    let (mut near, ended) = attacked_proxy(&net);
    near.write_all(&frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1])).await.unwrap();
    until_hello(&mut near).await;
    near.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(OK))).await.unwrap();
    // The hello is not answered in a way that can be read, so there is no tunnel.
    assert!(timeout(LONG, ended).await.unwrap().unwrap().is_err());
    is_served(&net).await;
}

async fn until_hello(near: &mut DuplexStream) {
    let mut begin = [0; PREFACE.len()];
    near.read_exact(&mut begin).await.unwrap();
    let mut header = [0; 9];
    while header[3] != HEADERS {
        near.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        near.read_exact(&mut vec![0; length]).await.unwrap();
    }
}

/// Seconds until the end of a connection on which a header block is begun and goes on by a byte now and then.
async fn dripped(mut io: DuplexStream, stream: u32, block: &[u8]) -> u64 {
    let begun = Instant::now();
    io.write_all(&frame(HEADERS, 0, stream, block)).await.unwrap();
    loop {
        // A sign of life, so that it is the block and not the silence that ends it.
        let drop = frame(CONTINUATION, 0, stream, &[]);
        if io.write_all(&drop).await.is_err() || begun.elapsed() > LONG {
            return begun.elapsed().as_secs();
        }
        let mut scrap = [0; 4096];
        let read = timeout(Duration::from_secs(4), async { while matches!(io.read(&mut scrap).await, Ok(1..)) {} });
        if read.await.is_ok() {
            return begun.elapsed().as_secs();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_block_has_ten_seconds_on_both_ends() {
    let net = Net::new(1);
    let (mut far, dialer) = attacked_agent(&net).await;
    let ready = request(POST, "/.ztka/ready", "c1");
    far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &ready)).await.unwrap();
    let seconds = dripped(far, 3, &request(GET, "/never", "c1")).await;
    assert!((9..=16).contains(&seconds), "{seconds}");
    let error = errors(&dialer.states().borrow());
    assert!(error.contains("a header block was not complete"), "{error}");
    let (mut near, ended) = attacked_proxy(&net);
    near.write_all(&frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1])).await.unwrap();
    until_hello(&mut near).await;
    let seconds = dripped(near, 1, OK).await;
    assert!((7..=16).contains(&seconds), "{seconds}");
    let ended = timeout(LONG, ended).await.unwrap().unwrap();
    assert!(matches!(ended, Err(TunnelError::BadFrames(BadFrames::SlowHead) | TunnelError::Late(_))), "{ended:?}");
    is_served(&net).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_becomes_a_tunnel_is_let_go() {
    // No preface from a proxy, no SETTINGS from an agent.
    let (near, mut far) = duplex(64 << 10);
    let near = Mutex::new(Some(near));
    let connect = connect_fn(move |_: ProxyAddress| {
        let near = near.lock().unwrap().take();
        async move {
            let near = near.ok_or_else(|| ConnectError::Other("only once".into()))?;
            Ok((near, Verified::assertion("p1".parse().unwrap())))
        }
    });
    let service = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(text("")) });
    let _dialer = Dialer::start(connect, ["proxy:443".parse().unwrap()], service);
    let begun = Instant::now();
    let mut all = Vec::new();
    timeout(LONG, far.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(16), "{:?}", begun.elapsed());

    let net = Net::new(1);
    let (_near, ended) = attacked_proxy(&net);
    assert!(timeout(Duration::from_secs(16), ended).await.unwrap().unwrap().is_err());
}
