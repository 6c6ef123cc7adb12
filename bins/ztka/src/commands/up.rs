//! `ztka up`: controller, proxy and, for a cluster at hand, its agent in one process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use jiff::SignedDuration;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use ztka_api::{CreateCluster, CreateOrg, CreateToken, CredentialFile};
use ztka_controller::serve::Arrived;
use ztka_controller_server as controller;
use ztka_core::{ClusterName, OrgName};
use ztka_proxy::{PassOn, Passed};
use ztka_runtime::{Common, EgressConfig, Process};

use crate::{credential, output::Output, session::Session};

/// Connections on their way from the proxy to the controller in this process.
const PASSING: usize = 64;

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Where everything is kept: database, keys, credentials
    #[arg(long, env = "ZTKA_DATA", value_name = "DIR", default_value = "ztka-data")]
    data: PathBuf,
    /// Where users and agents connect
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// host:port that users and agents are told; the listening address by default
    #[arg(long, value_name = "HOST:PORT")]
    front: Option<String>,
    /// Domain of the installation; it cannot be changed later
    #[arg(long, default_value = "ztka.localhost")]
    domain: String,
    /// What is logged to standard error
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
    #[command(flatten)]
    agent: AgentOptions,
}

/// A cluster at hand: its agent runs in this process.
#[derive(Args, Debug)]
struct AgentOptions {
    /// https URL of an apiserver, to run its agent here as well
    #[arg(long, value_name = "URL", requires_all = ["apiserver_ca", "apiserver_token"])]
    apiserver: Option<String>,
    /// PEM file with the CA of its certificate
    #[arg(long, value_name = "FILE")]
    apiserver_ca: Option<PathBuf>,
    /// File with a token of the agent's service account in that cluster
    #[arg(long, value_name = "FILE")]
    apiserver_token: Option<PathBuf>,
    /// What the cluster is called; it belongs to the organisation --org, "default" if there is none
    #[arg(long, default_value = "local", value_name = "NAME")]
    cluster: ClusterName,
}

type Tasks = JoinSet<anyhow::Result<()>>;

impl Up {
    /// Runs until stopped; the agent's cluster is `org`'s, which is made if there is none of that name.
    pub(crate) async fn run(self, org: Option<String>) -> anyhow::Result<()> {
        let org = org.as_deref().unwrap_or("default").parse()?;
        ztka_runtime::init_logs(&Common { log: self.log.clone(), ..Common::default() })?;
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new();
        let started = self.start(org, &shutdown, &mut tasks).await;
        let outcome = match started {
            Ok(()) => {
                self.greet();
                tokio::select! {
                    stopped = stop_signal() => stopped,
                    Some(ended) = tasks.join_next() => ended.context("a part of the process broke")?,
                }
            }
            Err(error) => Err(error),
        };
        shutdown.cancel();
        while tasks.join_next().await.is_some() {}
        outcome
    }

    fn front(&self) -> String {
        self.front.clone().unwrap_or_else(|| self.listen.to_string())
    }

    async fn start(&self, org: OrgName, shutdown: &CancellationToken, tasks: &mut Tasks) -> anyhow::Result<()> {
        let process = || Process::new(shutdown.clone());
        // Proxy and controller meet on loopback; the public names come through the proxy.
        let internal = TcpListener::bind("127.0.0.1:0").await?;
        let address = internal.local_addr()?;
        let opened = controller::open(&self.controller_config(address)).await?;
        let passed = serve_controller(opened, internal, process(), tasks);

        let admin = credential::open(Some(&controller::admin_file(&self.data)))?;
        let direct = Session::new(&CredentialFile { address: address.to_string(), ..admin }, None, Output::Json)?;
        let config = self.proxy_config(address, &direct).await?;
        tasks.spawn(ztka_proxy_server::serve(config, PassOn::Channel(passed), process()));
        if let Some(apiserver) = &self.agent.apiserver {
            let config = self.agent_config(apiserver, org, &direct).await?;
            tasks.spawn(ztka_agent_server::run(config, process()));
        }
        Ok(())
    }

    fn controller_config(&self, listen: SocketAddr) -> controller::Config {
        controller::Config {
            domain: self.domain.clone(),
            data_dir: self.data.clone(),
            database: None,
            front: self.front(),
            tunnels: Vec::new(),
            listen,
            listen_passed: None,
            listen_crls: None,
            keys: controller::Keys::default(),
            encryption: controller::Encryption::default(),
            tree_heads: controller::TreeHeads::default(),
            certificates: controller::Certificates::default(),
            limits: ztka_controller::serve::Limits::default(),
            recordings: controller::Recordings::default(),
            runtime: Common::default(),
        }
    }

    async fn proxy_config(
        &self,
        controller: SocketAddr,
        direct: &Session,
    ) -> anyhow::Result<ztka_proxy_server::Config> {
        let state_dir = self.data.join("proxy");
        let token_file = self.data.join("proxy.token");
        if !state_dir.join("credential.pem").exists() {
            let token = direct.api.create_proxy(&CreateToken::default()).await?;
            ztka_pki::file::write_private(&token_file, token.token.as_bytes())?;
        }
        Ok(ztka_proxy_server::Config {
            domain: self.domain.clone(),
            listen: self.listen,
            zone: None,
            address: None,
            peers: None,
            fronts: Vec::new(),
            state_dir,
            token_file: Some(token_file),
            controller: controller.to_string(),
            pass_to: None,
            allow_tls12: false,
            login: "ask your administrator for a new kubeconfig (ztka kubeconfig)".into(),
            shutdown_delay: SignedDuration::ZERO,
            grace: SignedDuration::from_secs(3),
            proxy_protocol: ztka_proxy_server::ProxyProtocol::default(),
            audit: ztka_proxy_server::Audit::default(),
            recordings: ztka_proxy_server::RecordingsConfig::default(),
            limits: ztka_proxy::Limits::default(),
            egress: EgressConfig::direct(),
            runtime: Common::default(),
        })
    }

    async fn agent_config(
        &self,
        apiserver: &str,
        org: OrgName,
        direct: &Session,
    ) -> anyhow::Result<ztka_agent_server::Config> {
        let AgentOptions { cluster, apiserver_ca, apiserver_token, .. } = &self.agent;
        let state_dir = self.data.join(format!("agent-{cluster}"));
        let token_file = self.data.join(format!("agent-{cluster}.token"));
        if !state_dir.join("credential.pem").exists() {
            let orgs = direct.api.orgs().await?;
            let org = match orgs.into_iter().find(|known| known.name == org) {
                Some(known) => known.id,
                None => direct.api.create_org(&CreateOrg { name: org }).await?.id,
            };
            let clusters = direct.api.clusters(&org).await?;
            let id = match clusters.into_iter().find(|known| known.name == *cluster) {
                Some(known) => known.id,
                None => {
                    let wanted = CreateCluster { name: cluster.clone(), labels: Default::default() };
                    direct.api.create_cluster(&org, &wanted).await?.id
                }
            };
            let token = direct.api.create_enrolment_token(&org, &id, &CreateToken::default()).await?;
            ztka_pki::file::write_private(&token_file, token.token.as_bytes())?;
        }
        Ok(ztka_agent_server::Config {
            domain: self.domain.clone(),
            front: self.front(),
            proxies: Vec::new(),
            state_dir,
            tunnels: None,
            max_retry: SignedDuration::from_secs(10),
            grace: SignedDuration::from_secs(3),
            credential: ztka_agent_server::Keep::Directory,
            token_file: Some(token_file),
            apiserver: ztka_agent_server::Apiserver {
                url: Some(apiserver.into()),
                ca_file: apiserver_ca.clone(),
                token_file: apiserver_token.clone(),
            },
            mode: ztka_agent_server::AgentMode::default(),
            ceiling: Vec::new(),
            limits_config_map: false,
            max_staleness: SignedDuration::from_hours(24),
            accounts: ztka_agent_server::Accounts::default(),
            limits: Default::default(),
            egress: EgressConfig::direct(),
            runtime: Common::default(),
        })
    }

    fn greet(&self) {
        let admin = controller::admin_file(&self.data);
        println!("ZTKA is up at https://{}, domain {}.", self.front(), self.domain);
        println!("You administer it with the credential in {}:", admin.display());
        println!("  export ZTKA_CREDENTIAL={}", absolute(&admin).display());
        println!("  ztka org create acme");
        println!("Stop it with Ctrl-C.");
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Serves the controller's own listener and what the proxy passes on; returns where the proxy passes it to.
fn serve_controller(
    opened: controller::Opened,
    internal: TcpListener,
    process: Process,
    tasks: &mut Tasks,
) -> mpsc::Sender<Passed> {
    let (sender, mut receiver) = mpsc::channel::<Passed>(PASSING);
    let arrived = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|passed| passed.map(arrived)));
    let opened = Arc::new(opened);
    let (everything, public) = (opened.internal.clone().and(opened.public.clone()), opened.public.clone());
    let stop = process.shutdown().clone();
    tasks.spawn(async move {
        let ended = || stop.clone().cancelled_owned();
        tokio::join!(
            opened.tend(&process),
            everything.serve(internal, false, ended()),
            public.serve_arrived(arrived, ended()),
        );
        match Arc::try_unwrap(opened) {
            Ok(opened) => opened.close().await,
            Err(_) => return Err(anyhow!("the store is still in use")),
        }
        Ok(())
    });
    sender
}

fn arrived(passed: Passed) -> Arrived {
    let client = Some(passed.arrival.client);
    Arrived { io: Box::new(passed), client }
}

async fn stop_signal() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("stopping");
    Ok(())
}
