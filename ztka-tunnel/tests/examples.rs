//! The examples run, and are short enough to be read.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../examples/acceptor.rs"]
mod acceptor;
#[path = "../examples/custom_directory.rs"]
mod custom_directory;
#[allow(dead_code, reason = "its main has no end")]
#[path = "../examples/expose.rs"]
mod expose;

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn who_dials_in_with_a_certificate_is_asked() {
    acceptor::main().unwrap();
}

#[test]
fn proxies_come_from_a_directory_of_ones_own() {
    custom_directory::main().unwrap();
}

/// Answers one request by its head.
async fn service(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let mut head = vec![0; 4096];
        let length = socket.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_local_service_is_published_with_its_trace_and_without_what_is_the_tunnels() {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, public) = (inner.local_addr().unwrap().to_string(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let front = public.local_addr().unwrap();
    tokio::spawn(service(inner));
    let local = at.clone();
    tokio::spawn(async move { expose::expose(local, public).await });
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: public\r\nConnection: close\r\n{trace}\r\nztka-source: 10.0.0.1\r\n\r\n")
    };
    let ask = async |path: &str| {
        let mut socket = TcpStream::connect(front).await.unwrap();
        socket.write_all(request(path).as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    // Until the tunnel is there it is 503 with Retry-After.
    let answered = async {
        loop {
            let answer = ask("/a?b=c").await;
            if !answer.starts_with("HTTP/1.1 503 ") {
                return answer;
            }
            assert!(answer.to_ascii_lowercase().contains("retry-after: 1"), "{answer}");
            assert!(
                answer.contains("application/problem+json") && !answer.contains("apiVersion"),
                "no word of Kubernetes: {answer}"
            );
        }
    };
    let answer = timeout(LONG, answered).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("get /a?b=c http/1.1\r\n") && answer.contains(trace), "{answer}");
    assert!(answer.contains(&format!("host: {at}")) && !answer.contains("ztka-"), "{answer}");
    assert!(ask("/.ztka/drain").await.starts_with("HTTP/1.1 404 "), "nobody speaks as the proxy");
}

#[test]
fn publishing_takes_less_than_sixty_lines() {
    let lines = |source: &str| source.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines(include_str!("../examples/expose.rs")) < 60);
    assert!(lines(include_str!("../examples/acceptor.rs")) < 80);
    assert!(lines(include_str!("../examples/custom_directory.rs")) < 100);
}
