//! An answer that comes before the body was read reaches its client, and is no broken pipe.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::service_fn;
use ztka_core::{Body, BoxError, Status};
use ztka_proxy::{Connection, Drain, Limits, UserBody, Users};

const LONG: Duration = Duration::from_secs(60);
const PIECE: usize = 16 << 10;
/// More than sockets, windows and buffers hold.
const LENGTH: usize = 32 << 20;

/// A connection by TCP to a proxy that takes no body.
async fn connect(made: &Installation, is_http2: bool) -> TcpStream {
    let service = service_fn(|_: Request<UserBody>| async {
        let too_large = Status::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than anybody takes");
        Ok::<Response<Body>, BoxError>(too_large.into_response())
    });
    let (trust, refusals) = (made.directory.trust().clone(), Arc::new(made.recorder.clone()));
    let users = Users::new(service, made.connections.clone(), trust, &Limits::default(), refusals);
    let certificate = Some(made.certificate().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, from) = listener.accept().await.unwrap();
    let connection =
        Connection::new(from, Some("c1.kube.example.com".into()), Some("c1".parse().unwrap()), certificate);
    tokio::spawn(async move { users.serve(server, is_http2, connection, Drain::default()).await });
    client
}

#[tokio::test]
async fn over_http1_the_answer_is_read_behind_a_body_that_nobody_takes() {
    let made = installation().await;
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".into()] {
        for _ in 0..10 {
            let mut client = connect(&made, false).await;
            let head = format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n{framing}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            // As clients do that look at the answer only when they have said all.
            let piece = [b'x'; PIECE];
            for _ in 0..LENGTH / PIECE {
                if framing.starts_with("Transfer") {
                    client.write_all(format!("{PIECE:x}\r\n").as_bytes()).await.unwrap();
                }
                client.write_all(&piece).await.unwrap();
                if framing.starts_with("Transfer") {
                    client.write_all(b"\r\n").await.unwrap();
                }
            }
            let mut answer = Vec::new();
            timeout(LONG, client.read_to_end(&mut answer)).await.expect("an end").unwrap();
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("larger than anybody"), "{answer}");
        }
    }
}

#[tokio::test]
async fn who_never_ends_is_not_waited_for() {
    let made = installation().await;
    let mut client = connect(&made, false).await;
    let head = format!("POST {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\nContent-Length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, client.read_to_end(&mut answer)).await.expect("an end of the answer").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 "));
    // A byte now and then for as long as the connection is there.
    let drip = async {
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, drip).await.expect("an end of the connection");
}

#[tokio::test]
async fn over_http2_the_answer_is_read_and_the_body_is_stopped() {
    let made = installation().await;
    let client = connect(&made, true).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..10 {
        let pieces = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[b'x'; PIECE]))));
        let request = Request::post(format!("https://c1.kube.example.com{POD}"));
        let request = request.body(StreamBody::new(pieces)).unwrap();
        let response = timeout(LONG, sender.send_request(request)).await.expect("an answer").unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let body = timeout(LONG, response.into_body().collect()).await.expect("all of it").unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("larger than anybody"), "{body:?}");
    }
}
