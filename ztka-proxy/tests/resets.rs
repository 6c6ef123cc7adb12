//! Requests that are begun and given up cost their user, on all connections together, long before they end the tunnel that
//! everybody shares.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::*;
use tokio::{task::JoinHandle, time::timeout};
use ztka_core::{BoxError, Reply};
use ztka_proxy::{Certificate, Connection, Drain, FloodLimits, Limits, Users};

const LONG: Duration = Duration::from_secs(60);
const HOST: &str = "c1.kube.example.com";
const WATCH: &str = "https://c1.kube.example.com/api/v1/pods?watch=true";

fn endless(_: &Request<()>) -> Reply {
    let first = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"first")))]);
    let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    Reply::Response(Response::new(StreamBody::new(body).boxed_unsync()))
}

type Sender = SendRequest<Empty<Bytes>>;
type Driver = JoinHandle<Result<(), hyper::Error>>;

async fn connect(users: &Users<Stack>, certificate: &Certificate) -> (Sender, Driver) {
    let cluster = Some("c1".parse().unwrap());
    let client = "192.0.2.1:4711".parse().unwrap();
    let connection = Connection::new(client, Some(HOST.into()), cluster, Some(certificate.clone()));
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(users.serve(server, true, connection, Drain::default()));
    let (sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    (sender, tokio::spawn(driver))
}

/// Begins a watch, and returns it once its answer has come.
async fn begin(sender: &mut Sender) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
    sender.ready().await?;
    sender.send_request(Request::get(WATCH).body(Empty::new()).unwrap()).await
}

async fn other(made: &Installation) -> Certificate {
    made.session("acme", "u2", "k2", "alice", 12).await;
    let (_, issued) = made.user("acme", "u2", "k2", 30).await;
    let chain = issued.chain().to_vec();
    let peer = made.documents.trust().identify(ztka_pki::Purpose::Users, &chain).unwrap();
    Certificate { peer, chain }
}

#[test]
fn what_one_user_may_give_up_is_far_less_than_what_a_tunnel_takes() {
    let (limits, tunnel) = (Limits::default(), FloodLimits::TUNNEL);
    let open = u32::try_from(limits.user_requests + limits.user_streams).unwrap();
    assert!(2 * (limits.user_resets_burst + open) < tunnel.burst);
    assert!(2 * limits.user_resets_per_second < tunnel.per_second);
}

#[tokio::test]
async fn resets_on_many_connections_are_one_users_and_end_them_and_nobody_elses() {
    const BURST: usize = 300;
    let made = installation().await;
    let limits = Limits { user_resets_burst: 300, user_resets_per_second: 0, ..Limits::default() };
    let users = made.users(&limits, endless);
    let (alice, bob) = (made.certificate().await, other(&made).await);
    let (mut bobs, _driver) = connect(&users, &bob).await;
    let kept = begin(&mut bobs).await.unwrap();

    let (mut given_up, mut ended) = (0, 0);
    let mut connections = Vec::new();
    for _ in 0..6 {
        connections.push(connect(&users, &alice).await);
    }
    for (sender, driver) in &mut connections {
        for _ in 0..100 {
            match begin(sender).await {
                Ok(answer) if answer.status() == StatusCode::OK => given_up += 1,
                _ => break,
            }
        }
        if driver.is_finished() {
            ended += 1;
        }
    }
    // What a reset costs is known when it has come: one more may have been begun on each connection.
    assert!((BURST..=BURST + 6).contains(&given_up), "{given_up} were begun and given up");
    assert!(ended >= 1, "no connection was closed");
    made.until("it is on record", |made| made.denials().iter().any(|why| why.contains("gives up too many requests")))
        .await;
    // A new connection of hers is told to wait; his is as it was, and so is a new one.
    let (mut late, _driver) = connect(&users, &alice).await;
    let answer = begin(&mut late).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers().contains_key("retry-after"));
    let said = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&said).contains("give up too many requests"), "{said:?}");
    let mut body = kept.into_body();
    assert_eq!(timeout(LONG, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap(), "first");
    assert_eq!(begin(&mut bobs).await.unwrap().status(), StatusCode::OK);
    let (mut again, _driver) = connect(&users, &bob).await;
    assert_eq!(begin(&mut again).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_given_up_with_its_connection_counts_as_well() {
    let made = installation().await;
    let limits = Limits { user_resets_burst: 100, user_resets_per_second: 0, ..Limits::default() };
    let users = made.users(&limits, endless);
    let alice = made.certificate().await;
    let mut refused = 0;
    for round in 1..=4 {
        let (mut sender, driver) = connect(&users, &alice).await;
        let mut open = Vec::new();
        for _ in 0..50 {
            let answer = begin(&mut sender).await.unwrap();
            match answer.status() {
                StatusCode::OK => open.push(answer),
                _ => refused += 1,
            }
        }
        driver.abort();
        drop(open);
        made.until("they are over", |made| made.open.streams() == 0).await;
        assert_eq!(refused > 0, round == 4, "round {round}: {refused} refused");
    }
    assert_eq!(refused, 50);
}
