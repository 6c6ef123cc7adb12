//! Behind balancers: whose word about addresses counts, by real TCP and TLS.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use support::{
    front::{Front, front_with},
    *,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ztka_proxy::{Limits, PassOn};

const SOON: Duration = Duration::from_secs(8);
const TOLD: &str = "192.0.2.7:4711";

async fn behind(balancers: &[&str]) -> Front {
    let balancers = balancers.iter().map(|balancer| balancer.parse().unwrap()).collect();
    front_with(Limits::default(), PassOn::Nowhere, balancers, |_| ok("pod")).await
}

/// Connects as a user does, with these bytes in front.
async fn user(front: &Front, before: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let (key, issued) = front.made.user("acme", "u1", "k1", 30).await;
    let config = front.made.client(Some((&key, issued.chain())), "http/1.1");
    let mut tcp = TcpStream::connect(front.address).await?;
    tcp.write_all(before).await?;
    let name = ServerName::try_from("c1.kube.example.com").unwrap();
    timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap()
}

fn header(front: &Front) -> Vec<u8> {
    ztka_proxy::proxy_protocol::header(TOLD.parse::<SocketAddr>().unwrap(), front.address)
}

async fn is_answered(mut tls: TlsStream<TcpStream>) -> bool {
    let asked = format!("GET {POD} HTTP/1.1\r\nHost: c1.kube.example.com\r\n\r\n");
    tls.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = timeout(SOON, tls.read(&mut answer)).await.unwrap().unwrap();
    answer[..length].starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test]
async fn a_trusted_balancer_tells_the_address_and_has_to() {
    let front = behind(&["127.0.0.0/8"]).await;
    assert!(is_answered(user(&front, &header(&front)).await.unwrap()).await);
    let events = front.made.journal.events();
    let sources: Vec<_> = events.iter().flat_map(|event| event.source_ips.clone()).collect();
    assert!(!sources.is_empty() && sources.iter().all(|source| source.to_string() == "192.0.2.7"), "{sources:?}");
    // Without a header nobody knows where it is from: neither it nor version 1 is guessed at.
    assert!(user(&front, b"").await.is_err());
    assert!(user(&front, b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n").await.is_err());
}

#[tokio::test]
async fn nobody_else_is_believed() {
    for balancers in [&[][..], &["192.0.2.0/24"]] {
        let front = behind(balancers).await;
        assert!(user(&front, &header(&front)).await.is_err(), "a header from whoever is no balancer");
        assert!(is_answered(user(&front, b"").await.unwrap()).await);
        let events = front.made.journal.events();
        let told = events.iter().flat_map(|event| &event.source_ips).any(|source| source.to_string() == "192.0.2.7");
        assert!(!told && !events.is_empty());
    }
}
