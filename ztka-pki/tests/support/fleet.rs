//! Agents that are connected while their authority is replaced: who is thrown out, and how long it takes. For a test, and
//! for a figure of `benches/pki.rs`.
#![allow(dead_code, unreachable_pub, reason = "each of them uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "tests")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use ztka_core::{InstanceId, Subject};
use ztka_pki::{AuthorityName, ClientAuth, CredentialSource, Purpose, RotationError, TrustSource, tls};

use crate::{
    support::{id, provider},
    world::World,
};

/// What became of a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Rotated {
    /// How many agents were connected.
    pub agents: usize,
    /// How many connections were found broken, of those that nobody had ended.
    pub disconnected: usize,
    /// From publish to retire, every renewal and every new tunnel included.
    pub took: Duration,
}

struct Tunnel(client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

impl Tunnel {
    async fn dial(agent: &Agent, proxy: &Arc<ServerConfig>) -> std::io::Result<Self> {
        let (near, far) = duplex(8 * 1024);
        let name = ServerName::try_from("tunnel.example.com").unwrap();
        let (trust, credential) = (agent.trust.clone(), Some(agent.credential.clone()));
        let tls = tls::client(provider(), trust, credential, Purpose::Proxies, &[]).unwrap();
        let accept = TlsAcceptor::from(proxy.clone()).accept(near);
        let (client, server) = tokio::join!(TlsConnector::from(tls).connect(name, far), accept);
        Ok(Self(client?, server?))
    }

    /// A byte each way.
    async fn is_alive(&mut self) -> bool {
        let exchange = async {
            let mut byte = [0];
            self.0.write_all(b"x").await?;
            self.0.flush().await?;
            self.1.read_exact(&mut byte).await?;
            self.1.write_all(b"y").await?;
            self.1.flush().await?;
            self.0.read_exact(&mut byte).await
        };
        exchange.await.is_ok()
    }
}

/// An agent with its tunnel.
struct Agent {
    subject: Subject,
    credential: CredentialSource,
    trust: TrustSource,
    tunnel: Option<Tunnel>,
}

impl Agent {
    /// Whether its tunnel, which nobody has ended, is up.
    async fn is_connected(&mut self) -> bool {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.is_alive().await,
            None => false,
        }
    }

    /// Make before break: whether both were up meanwhile.
    async fn dial_anew(&mut self, proxy: &Arc<ServerConfig>) -> bool {
        let Ok(mut fresh) = Tunnel::dial(self, proxy).await else { return false };
        let up = fresh.is_alive().await && self.is_connected().await;
        self.tunnel = Some(fresh);
        up
    }
}

async fn broken(agents: &mut [Agent]) -> usize {
    let mut broken = 0;
    for agent in agents {
        broken += usize::from(!agent.is_connected().await);
    }
    broken
}

/// Connects `agents` of two organisations to a proxy, and replaces the authority of all agents.
pub async fn rotate(agents: usize) -> Rotated {
    let world = World::empty(ztka_pki::Lifetimes::default()).await;
    world.join(Subject::Proxy(id("p1"))).await;
    for number in 0..agents {
        let org = if number % 2 == 0 { "acme" } else { "evil" };
        world.join(Subject::Agent { org: id(org), cluster: id("c1"), instance: InstanceId::generate() }).await;
    }
    let (proxy, mut all) = {
        let people = world.folk.0.lock().unwrap();
        let (proxy, agents) = people.members.split_first().unwrap();
        let auth = ClientAuth::Required(Purpose::Agents);
        let proxy = tls::server(provider(), proxy.credential.clone(), auth, proxy.trust.clone(), &[]).unwrap();
        let agent = |member: &crate::world::Member| Agent {
            subject: member.subject.clone(),
            credential: member.credential.clone(),
            trust: member.trust.clone(),
            tunnel: None,
        };
        (proxy, agents.iter().map(agent).collect::<Vec<_>>())
    };
    for agent in &mut all {
        agent.tunnel = Some(Tunnel::dial(agent, &proxy).await.unwrap());
    }

    let name: AuthorityName = "agents".parse().unwrap();
    let rotator = &world.process.rotator;
    let mut disconnected = 0;
    let begun = Instant::now();
    rotator.publish(&name, false).await.unwrap();
    waits_for(rotator.activate(&name, false).await, agents + 1); // the proxy as well
    world.hear().await;
    disconnected += broken(&mut all).await;
    rotator.activate(&name, false).await.unwrap();
    world.hear().await;
    disconnected += broken(&mut all).await;
    waits_for(rotator.retire(&name, false).await, agents);
    world.renew().await;
    for agent in &mut all {
        disconnected += usize::from(!agent.dial_anew(&proxy).await);
    }
    rotator.retire(&name, false).await.unwrap();
    world.hear().await;
    disconnected += broken(&mut all).await;
    let took = begun.elapsed();
    for agent in &all {
        let peer = agent.trust.verify(Purpose::Agents, agent.credential.current().chain()).unwrap();
        assert_eq!(peer.id.subject, agent.subject);
    }
    Rotated { agents, disconnected, took }
}

fn waits_for(step: Result<(), RotationError>, many: usize) {
    match step {
        Err(RotationError::Waiting(waiting)) => assert_eq!(waiting.len(), many),
        other => panic!("{many} are to be waited for: {other:?}"),
    }
}
