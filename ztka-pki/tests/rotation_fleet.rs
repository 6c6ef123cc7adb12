//! A thousand agents that are connected while their authority is replaced: nobody is thrown out, and how long it takes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;
#[path = "support/world.rs"]
mod world;

use std::{sync::Arc, time::Instant};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use support::{id, key, provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use world::World;
use ztka_core::{InstanceId, Subject};
use ztka_pki::{ClientAuth, CredentialSource, Purpose, tls};

/// An agent with its tunnel.
struct Agent {
    subject: Subject,
    credential: CredentialSource,
    tls: Arc<ClientConfig>,
    tunnel: Option<Tunnel>,
}

struct Tunnel(client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

impl Tunnel {
    async fn dial(agent: &Arc<ClientConfig>, proxy: &Arc<ServerConfig>) -> Self {
        let (near, far) = duplex(8 * 1024);
        let name = ServerName::try_from("tunnel.example.com").unwrap();
        let accept = TlsAcceptor::from(proxy.clone()).accept(near);
        let (client, server) = tokio::join!(TlsConnector::from(agent.clone()).connect(name, far), accept);
        Self(client.unwrap(), server.unwrap())
    }

    /// A byte each way.
    async fn is_alive(&mut self) {
        let mut byte = [0];
        self.0.write_all(b"x").await.unwrap();
        self.0.flush().await.unwrap();
        self.1.read_exact(&mut byte).await.unwrap();
        self.1.write_all(b"y").await.unwrap();
        self.1.flush().await.unwrap();
        self.0.read_exact(&mut byte).await.unwrap();
    }
}

async fn fleet(agents: usize) {
    let world = World::empty(ztka_pki::Lifetimes::default()).await;
    world.join(Subject::Proxy(id("p1"))).await;
    // One trust for all agents, and one for the proxy: each would have the same.
    let (proxy, trust) = {
        let people = world.folk.0.lock().unwrap();
        (people.members[0].credential.clone(), people.members[0].trust.clone())
    };
    let auth = ClientAuth::Required(Purpose::Agents);
    let proxy = tls::server(provider(), proxy, auth, trust.clone(), &[]).unwrap();
    let mut all = Vec::new();
    for number in 0..agents {
        let org = if number % 2 == 0 { "acme" } else { "evil" };
        let subject = Subject::Agent { org: id(org), cluster: id("c1"), instance: InstanceId::generate() };
        let credential = CredentialSource::new(world.issue(&subject, &key()).await);
        let tls = tls::client(provider(), trust.clone(), Some(credential.clone()), Purpose::Proxies, &[]).unwrap();
        let tunnel = Some(Tunnel::dial(&tls, &proxy).await);
        all.push(Agent { subject, credential, tls, tunnel });
    }
    let name = "agents".parse().unwrap();
    let rotator = &world.process.rotator;
    let begun = Instant::now();
    rotator.publish(&name, false).await.unwrap();
    world.hear().await;
    rotator.activate(&name, false).await.unwrap();
    world.hear().await;
    for agent in &mut all {
        let retiring = trust.identify(Purpose::Agents, agent.credential.current().chain()).unwrap();
        assert!(retiring.authorities.iter().any(|key| trust.bundle().retiring.contains(key)), "it is told to renew");
        agent.credential.rotate(world.issue(&agent.subject, &key()).await);
        // Make before break.
        let mut fresh = Tunnel::dial(&agent.tls, &proxy).await;
        fresh.is_alive().await;
        let mut old = agent.tunnel.replace(fresh).unwrap();
        old.is_alive().await;
    }
    rotator.retire(&name, false).await.unwrap();
    world.hear().await;
    let took = begun.elapsed();
    for agent in &mut all {
        agent.tunnel.as_mut().unwrap().is_alive().await;
        let peer = trust.verify(Purpose::Agents, agent.credential.current().chain()).unwrap();
        assert_eq!(peer.id.subject, agent.subject);
    }
    println!("{agents} agents renewed and dialled anew in {took:?}, and none was disconnected");
}

#[tokio::test]
async fn fifty_agents_stay_connected_while_their_authority_is_replaced() {
    fleet(50).await;
}

#[tokio::test]
#[ignore = "takes a minute; part of cargo xtask test --long"]
async fn a_thousand_agents_stay_connected_while_their_authority_is_replaced() {
    fleet(1000).await;
}
