//! The installation that is measured, and the addresses by which its user reaches the cluster.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use ztka_e2e::{Agent, Client, Fleet, User};
use ztka_test_cluster::{Cluster, Kubectl, Options};

use super::{ask::Asker, balancer::Balancer, watch};

const ORG: &str = "bench";
const CLUSTER: &str = "upstream";

/// One cluster behind two proxies. Everything ends when it is dropped.
pub(super) struct Installation {
    pub(super) fleet: Fleet,
    /// Straight to the apiserver, as its administrator.
    pub(super) direct: Client,
    /// By the address that the kubeconfig has.
    pub(super) through: Asker,
    /// By each proxy's own address.
    pub(super) by_proxy: Vec<Asker>,
    /// By an address behind which both are.
    pub(super) balanced: Asker,
    _balancer: Balancer,
    _cluster: Cluster,
}

impl Installation {
    pub(super) async fn start() -> Result<Self> {
        let cluster = Cluster::level1(Options::default()).await?;
        cluster.kubectl().apply(watch::object().to_string()).await?;
        let mut fleet =
            Fleet::start_with(ztka_e2e::Installation { proxies: 2, ..ztka_e2e::Installation::default() }).await?;
        fleet.org(ORG).await?;
        fleet.cluster(ORG, CLUSTER, &cluster, &[]).await?;
        let user = fleet.user(ORG, "load", &[]).await?;
        fleet.bind(ORG, "load", "cluster-admin", CLUSTER).await?;
        let user = User { kubeconfig: fleet.kubeconfig(ORG, "load").await?.kubeconfig, ..user };

        let through = Asker::new(fleet.kubectl(&user, CLUSTER).await?).await?;
        let ports: Vec<u16> = fleet.proxies.iter().map(|proxy| proxy.port).collect();
        let mut by_proxy = Vec::new();
        for port in &ports {
            by_proxy.push(by_port(&fleet, &user, *port).await?);
        }
        let balancer = Balancer::start(ports).await?;
        let balanced = by_port(&fleet, &user, balancer.port).await?;
        let direct = direct(&cluster, &fleet).await?;
        Ok(Self { fleet, direct, through, by_proxy, balanced, _balancer: balancer, _cluster: cluster })
    }

    pub(super) fn agent(&mut self) -> Result<&mut Agent> {
        self.fleet.agents.get_mut(&(ORG.into(), CLUSTER.into())).context("no agent")
    }

    /// Waits until the cluster is behind every proxy, so that one measure does not suffer from the one before.
    pub(super) async fn settled(&self) -> Result<()> {
        for user in &self.by_proxy {
            user.answered().await?;
        }
        Ok(())
    }
}

/// The user's kubeconfig with another port of this machine.
async fn by_port(fleet: &Fleet, user: &User, port: u16) -> Result<Asker> {
    let kubeconfig = fleet.path(&format!("by-{port}.kubeconfig"));
    let text = fs::read_to_string(&user.kubeconfig)?;
    fs::write(&kubeconfig, text.replace(&format!("127.0.0.1:{}", fleet.front()), &format!("127.0.0.1:{port}")))?;
    Asker::new(fleet.kubectl(&User { name: user.name.clone(), kubeconfig }, CLUSTER).await?).await
}

async fn direct(cluster: &Cluster, fleet: &Fleet) -> Result<Client> {
    let text = cluster.kubectl().ok(["config", "view", "--raw", "--flatten", "-o", "json"]).await?;
    let mut config: Value = serde_json::from_str(&text)?;
    let entry = config.pointer_mut("/clusters/0/cluster").and_then(Value::as_object_mut);
    entry.context("the kubeconfig has no cluster")?.insert("tls-server-name".into(), json!("localhost"));
    let file = fleet.path("direct.kubeconfig");
    fs::write(&file, config.to_string())?;
    Client::of(&Kubectl::new(file).await?).await
}
