//! A port that policy does not give: not a byte goes to it, its user is told in the cluster's place, and it is on record.

use std::sync::{Arc, Mutex};

use http::{Response, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use ztka_core::{Io, Reply, Upgrade, stream::forward::TUNNELLED};

use crate::support::{Stage, response, text};

const FORWARD: &str = "/api/v1/namespaces/default/pods/web/portforward";
/// Written by `github.com/moby/spdystream`: both streams to port 8080, one to 22.
const SPDYSTREAM: &[u8] = include_bytes!("../../../ztka-core/src/stream/spdy/spdystream.bin");

async fn limited(stage: &Stage, ports: &[u16]) {
    let rule = json!({"verbs": ["create"], "apiGroups": [""], "resources": ["pods/portforward"], "ports": ports});
    stage.policy_of(json!([{"name": "web", "rules": [rule]}]), "web").await;
}

/// The user's end and the cluster's.
async fn forwarded(stage: &Stage, alice: &str) -> (Compat<Io>, DuplexStream) {
    let (cluster, far) = tokio::io::duplex(64 << 10);
    let far = Arc::new(Mutex::new(Some(far)));
    let stack = stage.stack(move || {
        let io = Box::pin(far.lock().unwrap().take().unwrap().compat());
        Reply::Upgraded { head: Response::new(()), io }
    });
    match stage.ask_to(&stack, FORWARD, alice, Some(Upgrade::Spdy31), "").await {
        Reply::Upgraded { io, .. } => (io.compat(), cluster),
        Reply::Response(response) => panic!("not upgraded: {response:?}"),
    }
}

/// Of the frames of [`SPDYSTREAM`]: where the one begins that opens port 22.
fn refused_at() -> usize {
    let mut at = 0;
    for _ in 0..2 {
        let [_, _, _, _, _, a, b, c] = SPDYSTREAM[at..at + 8].try_into().unwrap();
        at += 8 + u32::from_be_bytes([0, a, b, c]) as usize;
    }
    at
}

#[tokio::test]
async fn a_port_that_is_not_given_is_refused_before_a_byte_and_its_user_is_told() {
    let stage = Stage::set().await;
    limited(&stage, &[8080, 9090]).await;
    let alice = stage.alice().await;
    let (mut user, mut cluster) = forwarded(&stage, &alice).await;

    let (good, bad) = SPDYSTREAM.split_at(refused_at());
    user.write_all(good).await.unwrap();
    user.flush().await.unwrap();
    let mut gone = vec![0; good.len()];
    cluster.read_exact(&mut gone).await.unwrap();
    assert_eq!(gone, good);
    // Within a frame of the cluster's nothing of ours may stand.
    let frame = [&3_u32.to_be_bytes()[..], &[0, 0, 0, 4], b"half"].concat();
    cluster.write_all(&frame[..10]).await.unwrap();
    let mut heard = vec![0; 10];
    user.read_exact(&mut heard).await.unwrap();

    user.write_all(bad).await.unwrap();
    user.flush().await.unwrap();
    cluster.write_all(&frame[10..]).await.unwrap();
    let mut rest = [0; 2];
    user.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"lf");
    // SYN_REPLY to the refused stream; the cluster is let go without having heard of it.
    let mut head = [0; 8];
    user.read_exact(&mut head).await.unwrap();
    assert_eq!(head[..4], [0x80, 3, 0, 2]);
    let mut more = Vec::new();
    cluster.read_to_end(&mut more).await.unwrap();
    assert!(more.is_empty(), "sent on: {more:?}");
    drop(user);

    let end = stage.events().pop().unwrap();
    assert_eq!((end.fact("end"), end.fact("ports")), (Some("denied"), Some("8080,22")));
    let reason = end.fact("reason").unwrap();
    assert!(reason.contains("port 22 may not be forwarded to") && reason.contains("alice"), "{reason}");
    assert_eq!(stage.open.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_go_by_himself_is_let_go() {
    let stage = Stage::set().await;
    limited(&stage, &[80]).await;
    let alice = stage.alice().await;
    let (mut user, _cluster) = forwarded(&stage, &alice).await;
    user.write_all(SPDYSTREAM).await.unwrap();
    let mut said = Vec::new();
    let end = user.read_to_end(&mut said).await.unwrap_err();
    assert!(end.to_string().contains("the cluster's agent ended the stream: port 8080"), "{end}");
    // Both of its streams to the first port are answered, and told.
    assert!(String::from_utf8_lossy(&said).contains("port 8080 may not be forwarded to: no role of alice"), "{said:?}");
    assert!(user.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_away_ends_what_goes_to_it() {
    let stage = Stage::set().await;
    tokio::spawn(stage.open.clone().enforce());
    limited(&stage, &[8080, 22]).await;
    let alice = stage.alice().await;
    let (mut user, _cluster) = forwarded(&stage, &alice).await;
    user.write_all(SPDYSTREAM).await.unwrap();
    let reading = tokio::spawn(async move { user.read(&mut [0; 1]).await });
    limited(&stage, &[8080, 22, 80]).await;
    tokio::task::yield_now().await;
    assert_eq!(stage.open.streams(), 1);
    limited(&stage, &[8080]).await;
    assert!(reading.await.unwrap().unwrap_err().to_string().contains("port 22"));
    let end = stage.events().pop().unwrap();
    assert_eq!(end.fact("end"), Some("denied"));
    assert!(end.fact("reason").unwrap().contains("port 22"), "{end:?}");
}

#[tokio::test]
async fn ports_that_the_request_names_are_decided_on_with_it() {
    let stage = Stage::set().await;
    limited(&stage, &[80, 443]).await;
    let alice = stage.alice().await;
    let reached = || Reply::Response(Response::builder().status(418).body(ztka_core::empty()).unwrap());
    let stack = stage.stack(reached);
    let channels = "v4.channel.k8s.io";
    let both = format!("{TUNNELLED}, {channels}");
    for (query, offered, is_let_on) in [
        ("?ports=80", channels, true),
        ("?ports=80,443", channels, true),
        ("?ports=80&ports=22", channels, false),
        ("?ports=80,22", channels, false),
        ("", channels, false),
        ("", "", false),
        ("?ports=22", both.as_str(), false),
        // Whatever it names, only what is opened counts, and that is looked at later.
        ("?ports=22", TUNNELLED, true),
        ("", TUNNELLED, true),
    ] {
        let upgrade = Some(Upgrade::WebSocket);
        let answer = stage.ask_to(&stack, &format!("{FORWARD}{query}"), &alice, upgrade, offered).await;
        let answer = response(answer);
        let expected = if is_let_on { StatusCode::IM_A_TEAPOT } else { StatusCode::FORBIDDEN };
        assert_eq!(answer.status(), expected, "{query} {offered}");
        if !is_let_on {
            assert!(text(Reply::Response(answer)).await.contains("no role of alice"), "{query} {offered}");
        }
    }
}

#[tokio::test]
async fn each_direction_of_a_port_forward_ends_by_itself() {
    let stage = Stage::set().await;
    limited(&stage, &[8080, 22]).await;
    let alice = stage.alice().await;
    // The user first: the cluster hears of it, and its answer is whole.
    let (mut user, mut cluster) = forwarded(&stage, &alice).await;
    user.write_all(SPDYSTREAM).await.unwrap();
    user.shutdown().await.unwrap();
    let mut asked = Vec::new();
    cluster.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, SPDYSTREAM);
    cluster.write_all(b"answered late").await.unwrap();
    drop(cluster);
    let mut answer = Vec::new();
    user.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answered late");
    drop(user);
    assert_eq!(stage.events().pop().unwrap().fact("end"), Some("complete"));

    // The cluster first: what the user says still arrives.
    let (mut user, mut cluster) = forwarded(&stage, &alice).await;
    cluster.write_all(b"banner").await.unwrap();
    cluster.shutdown().await.unwrap();
    let mut banner = Vec::new();
    user.read_to_end(&mut banner).await.unwrap();
    assert_eq!(banner, b"banner");
    user.write_all(SPDYSTREAM).await.unwrap();
    user.shutdown().await.unwrap();
    let mut asked = Vec::new();
    cluster.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, SPDYSTREAM);
}

#[tokio::test(start_paused = true)]
async fn who_is_being_told_is_not_cut_off_by_the_next_look() {
    let stage = Stage::set().await;
    tokio::spawn(stage.open.clone().enforce());
    limited(&stage, &[80]).await;
    let alice = stage.alice().await;
    let (mut user, _cluster) = forwarded(&stage, &alice).await;
    user.write_all(SPDYSTREAM).await.unwrap();
    limited(&stage, &[81]).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let mut said = Vec::new();
    user.read_to_end(&mut said).await.unwrap_err();
    assert!(String::from_utf8_lossy(&said).contains("port 8080 may not be forwarded to"), "{said:?}");
}
