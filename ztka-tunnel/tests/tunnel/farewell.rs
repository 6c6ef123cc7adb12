//! A request that crosses the GOAWAY of a tunnel that was replaced: an agent's end made by hand, frame by frame, so that
//! the last stream it has begun with is the one before the request's.

use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use ztka_core::{Reply, body};

use crate::pair::{Agent, Ask, Net, ask, collected, ready, status, until};

const POD: &str = "/api/v1/namespaces/default/pods/web";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;

/// Hello, ready and evidence are streams 1, 3 and 5.
const FIRST_OF_USERS: u32 = 7;

/// Fields that stand in no table (RFC 7541 §6): `:status: 204`, `ztka-protocol: 1.0`; and `:status: 200`.
const NO_CONTENT: &[u8] = b"\x89\x00\x0dztka-protocol\x031.0";
const OK: &[u8] = b"\x88";

type Writer = Arc<tokio::sync::Mutex<WriteHalf<DuplexStream>>>;

/// An agent's end that answers what is the tunnel's own, and of users' requests only hears.
#[derive(Clone)]
struct ByHand {
    writer: Writer,
    /// Users' streams.
    heard: Arc<Mutex<Vec<u32>>>,
}

impl ByHand {
    /// Connected to the proxy as `i1`, by the only tunnel there is.
    async fn connected(net: &Net) -> Self {
        let (near, far) = duplex(256 << 10);
        let (reader, writer) = split(far);
        let by_hand = Self { writer: Arc::new(tokio::sync::Mutex::new(writer)), heard: Arc::default() };
        tokio::spawn(by_hand.clone().listen(reader));
        let (registry, peer) = (net.proxies[0].clone(), net.peer("acme", "c1", "i1"));
        tokio::spawn(async move { registry.serve(near, peer).await });
        until("the tunnel is set up", || net.proxies[0].peers().len() == 1).await;
        by_hand
    }

    async fn send(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.writer.lock().await.write_all(&frame).await.unwrap();
    }

    async fn listen(self, mut reader: ReadHalf<DuplexStream>) {
        let mut preface = [0; 24];
        reader.read_exact(&mut preface).await.unwrap();
        // Extended CONNECT, and 100 streams.
        self.send(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1, 0, 3, 0, 0, 0, 100]).await;
        let mut header = [0; 9];
        while reader.read_exact(&mut header).await.is_ok() {
            let [a, b, c, kind, flags, stream @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            reader.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes(stream);
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                HEADERS if stream >= FIRST_OF_USERS => self.heard.lock().unwrap().push(stream),
                HEADERS | DATA if stream < FIRST_OF_USERS && flags & END_STREAM != 0 => {
                    self.send(HEADERS, END_HEADERS | END_STREAM, stream, NO_CONTENT).await;
                }
                _ => {}
            }
        }
    }

    async fn farewell(&self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }
}

/// What becomes of `request` on a tunnel that says farewell with `code`, having begun with it or not, when there is a new
/// tunnel already; and which requests went into that one.
async fn crossing(request: Ask, begun: bool, code: u32) -> (StatusCode, bool, Vec<String>) {
    let net = Net::new(1);
    let old = ByHand::connected(&net).await;
    let asked = tokio::spawn(net.ask(request.permitted()));
    until("the request is on the old tunnel", || *old.heard.lock().unwrap() == [FIRST_OF_USERS]).await;

    let new = Agent::new(|_| async { Reply::Response(status(StatusCode::OK)) });
    let dialer = net.dial(net.peer("acme", "c1", "i1"), &new);
    ready(&dialer).await;
    until("two tunnels", || net.proxies[0].peers().len() == 2).await;
    assert!(new.seen().is_empty());

    old.farewell(if begun { FIRST_OF_USERS } else { FIRST_OF_USERS - 2 }, code).await;
    until("the old tunnel takes nothing new", || net.proxies[0].peers().len() == 1).await;
    if begun {
        old.send(HEADERS, END_HEADERS | END_STREAM, FIRST_OF_USERS, OK).await;
    }
    let reply: Reply = asked.await.unwrap();
    let answer = collected(reply).await;
    assert_eq!(*old.heard.lock().unwrap(), [FIRST_OF_USERS], "the old one was asked again");
    let requests = new.seen().into_iter().filter(|line| !line.starts_with("evidence ")).collect();
    (answer.status(), answer.headers().contains_key("retry-after"), requests)
}

#[tokio::test(start_paused = true)]
async fn a_read_that_crosses_the_farewell_goes_into_the_new_tunnel() {
    for method in [Method::GET, Method::HEAD] {
        let (code, again, new) = crossing(ask(method.clone(), POD), false, NO_ERROR).await;
        assert_eq!((code, again), (StatusCode::OK, false), "{method}");
        assert_eq!(new, [format!("{method} {POD}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_something_or_has_a_body_is_not_repeated() {
    let with_body = |method: Method| ask(method, POD).body(body("{}"));
    let (code, again, new) = crossing(with_body(Method::POST), false, NO_ERROR).await;
    assert_eq!((code, again, new), (StatusCode::BAD_GATEWAY, false, vec![]), "part of the body may be gone");
    let (code, again, new) = crossing(ask(Method::DELETE, POD), false, NO_ERROR).await;
    assert_eq!((code, again, new), (StatusCode::BAD_GATEWAY, false, vec![]), "a change");
    // Whoever asks may repeat it; we have sent a part of it.
    let (code, again, new) = crossing(with_body(Method::GET), false, NO_ERROR).await;
    assert_eq!((code, again, new), (StatusCode::SERVICE_UNAVAILABLE, true, vec![]), "a read with a body");
}

#[tokio::test(start_paused = true)]
async fn what_the_old_tunnel_has_begun_with_it_answers() {
    let (code, _, new) = crossing(ask(Method::GET, POD), true, NO_ERROR).await;
    assert_eq!((code, new), (StatusCode::OK, vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_agent_in_trouble_is_no_farewell_and_only_a_read_is_sent_again() {
    let (code, again, new) = crossing(ask(Method::GET, POD), false, INTERNAL_ERROR).await;
    assert_eq!((code, again, new), (StatusCode::OK, false, vec![format!("GET {POD}")]));
    let (code, again, new) = crossing(ask(Method::DELETE, POD), false, INTERNAL_ERROR).await;
    assert_eq!((code, again, new), (StatusCode::BAD_GATEWAY, false, vec![]));
}
