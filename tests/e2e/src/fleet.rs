//! Starting and administering an installation.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use ztka_test_cluster::{Cluster, Kubectl, wait_for, wait_for_within};

use self::controllers::{Balancer, Own};
use crate::{Process, free_port, program};

mod controllers;

/// Domain of every test installation; nothing resolves it, and nothing has to.
const DOMAIN: &str = "ztka.test";

/// How an installation differs from the usual one.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Proxies, each on a port of its own; agents keep a tunnel to each.
    pub proxies: usize,
    /// Agents are told of the first proxy alone, and hear of the others, which announce addresses of their own.
    pub by_front: bool,
    /// Proxies pass requests on to each other.
    pub peers: bool,
    /// Life of agents' certificates, such as `60s`.
    pub agent_certificates: Option<String>,
    /// How long proxies take in whoever comes after they were asked to stop, such as `1s`.
    pub shutdown_delay: String,
    /// How long what is open at a proxy goes on from then on.
    pub grace: String,
    /// Proxies tell on a port of their own whether they are ready.
    pub health: bool,
    /// Ports that agents dial instead of the proxies' own.
    pub agent_ports: Option<Vec<u16>>,
    /// Lines added to the controller's configuration.
    pub controller_config: String,
    /// Lines added to each proxy's configuration.
    pub proxy_config: String,
    /// Proxies write their events to a file of their own as well.
    pub event_files: bool,
    /// Environment variables of controllers.
    pub controller_environment: Vec<(String, String)>,
    /// Controllers are reached by way of a balancer, and there may be more of them: [`Fleet::add_controller`].
    pub balanced: bool,
    /// Port of the controller's own listener; a free one if it is not said.
    pub controller_port: Option<u16>,
    /// Lines added to each agent's configuration: whole tables.
    pub agent_config: String,
    /// Environment variables of agents.
    pub agent_environment: Vec<(String, String)>,
    /// Name of [`Self::address`] by which agents know the front, if they can reach one.
    pub agent_host: Option<String>,
    /// What controller, proxies and agents log, as a filter of `tracing`; `info` if it is not said.
    pub log: Option<String>,
    /// Address of this machine at which users and agents reach the proxies.
    pub address: Ipv4Addr,
    /// Name of that address that agents are told for tunnels, if they can resolve one.
    pub tunnel_host: Option<String>,
}

impl Default for Installation {
    fn default() -> Self {
        Self {
            proxies: 1,
            by_front: false,
            peers: false,
            agent_certificates: None,
            shutdown_delay: "0s".into(),
            grace: "2s".into(),
            health: false,
            agent_ports: None,
            controller_config: String::new(),
            proxy_config: String::new(),
            event_files: true,
            controller_environment: Vec::new(),
            balanced: false,
            controller_port: None,
            agent_config: String::new(),
            agent_environment: Vec::new(),
            agent_host: None,
            log: None,
            address: Ipv4Addr::LOCALHOST,
            tunnel_host: None,
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Its port for users and agents.
    pub port: u16,
    /// Where it tells whether it is ready, if it does.
    pub health: Option<u16>,
    config: PathBuf,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    config: PathBuf,
    environment: Vec<(String, String)>,
}

/// What an agent is in front of.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// `https` URL.
    pub url: &'a str,
    /// PEM file with the CA of its certificate.
    pub ca: &'a Path,
    /// File with the agent's own token.
    pub token: &'a Path,
}

/// A user with a kubeconfig.
#[derive(Clone, Debug)]
pub struct User {
    /// Name.
    pub name: String,
    /// The fleet kubeconfig.
    pub kubeconfig: PathBuf,
}

/// Controller, proxies and agents; gone when dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The controller's process.
    pub controller: Process,
    /// The proxies.
    pub proxies: Vec<Proxy>,
    /// Agents by organisation and cluster.
    pub agents: HashMap<(String, String), Agent>,
    /// Further controllers over the same database.
    pub controllers: Vec<Process>,
    balancers: Option<[Balancer; 2]>,
    folder: TempDir,
    ports: Ports,
    wanted: Installation,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    internal: u16,
    passed: u16,
    front: u16,
    address: Ipv4Addr,
}

fn start(name: &str, config: &Path) -> Result<Process> {
    start_in(name, config, &[])
}

/// Starts a server with an environment that says of egress proxies only what the test says.
fn start_in(name: &str, config: &Path, environment: &[(String, String)]) -> Result<Process> {
    let log = config.with_extension("log");
    Process::start_with(&program(name)?, ["--config".as_ref(), config.as_os_str()], &log, |command| {
        for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
            command.env_remove(variable);
        }
        command.envs(environment.iter().cloned());
    })
}

impl Fleet {
    /// Starts the usual installation: one controller, one proxy.
    pub async fn start() -> Result<Self> {
        Self::start_with(Installation::default()).await
    }

    /// Starts an installation.
    pub async fn start_with(wanted: Installation) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-fleet-").tempdir()?;
        let fronts = (0..wanted.proxies).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let front = *fronts.first().context("an installation has a proxy")?;
        let internal = wanted.controller_port.map_or_else(free_port, Ok)?;
        let ports = Ports { internal, passed: free_port()?, front, address: wanted.address };
        let (balancers, own) = controllers::balanced(ports, wanted.balanced).await?;
        let config = controller_config(folder.path(), ports, own, &fronts, &wanted)?;
        let controller = start_in("ztka-controller", &config, &wanted.controller_environment)?;
        let (proxies, agents, controllers) = (Vec::new(), HashMap::new(), Vec::new());
        let mut fleet = Self { controller, proxies, agents, controllers, balancers, folder, ports, wanted };
        let admin = fleet.path("controller/admin.toml");
        let written = wait_for("the controller's first credential", || async {
            ensure!(admin.exists(), "not written yet");
            Ok(())
        });
        written.await.with_context(|| fleet.controller.tail())?;
        fleet.admin_to_controller(&admin)?;
        for (number, port) in fronts.into_iter().enumerate() {
            let proxy = fleet.start_proxy(number, port).await?;
            fleet.proxies.push(proxy);
        }
        Ok(fleet)
    }

    /// The same, with agents from now on as `wanted` says.
    #[must_use]
    pub fn with_agents(mut self, wanted: Installation) -> Self {
        self.wanted = wanted;
        self
    }

    /// The written credential goes to the front, as an operator's would; while there is no proxy yet, it has to go to the
    /// controller itself.
    fn admin_to_controller(&self, admin: &Path) -> Result<()> {
        let text = fs::read_to_string(admin)?;
        let Ports { internal, front, address, .. } = self.ports;
        let direct = text.replace(&format!("{address}:{front}"), &format!("127.0.0.1:{internal}"));
        let path = self.path("admin-direct.toml");
        fs::write(&path, direct)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    async fn start_proxy(&self, number: usize, port: u16) -> Result<Proxy> {
        let wanted = &self.wanted;
        let token = self.ztka_direct(&["proxy", "create"]).await?;
        let base = self.path(&format!("proxy-{number}"));
        let token_file = base.with_extension("token");
        fs::write(&token_file, token)?;
        let Ports { internal, passed, address, .. } = self.ports;
        let config = base.with_extension("toml");
        let own = if wanted.by_front { format!("address = '{address}:{port}'\n") } else { String::new() };
        let health = wanted.health.then(free_port).transpose()?;
        let events = format!("[audit]\nfile = '{}'\n", base.with_extension("events").display());
        let events = if wanted.event_files { events } else { String::new() };
        let peers = match wanted.peers {
            true => {
                let at = format!("127.0.0.1:{}", free_port()?);
                format!("[peers]\nlisten = '{at}'\naddress = '{at}'\n")
            }
            false => String::new(),
        };
        let text = format!(
            "domain = '{DOMAIN}'\nlisten = '{address}:{port}'\nstate_dir = '{}'\ntoken_file = '{}'\n\
             controller = '127.0.0.1:{internal}'\npass_to = '127.0.0.1:{passed}'\n\
             shutdown_delay = '{}'\ngrace = '{}'\nlogin = 'log in again'\nzone = 'z{number}'\n{own}{}\n{}{events}{peers}",
            base.display(),
            token_file.display(),
            wanted.shutdown_delay,
            wanted.grace,
            wanted.proxy_config,
            runtime_with(wanted.log.as_deref(), health),
        );
        fs::write(&config, text)?;
        let process = start("ztka-proxy", &config)?;
        let mut proxy = Proxy { process, port, health, config };
        let up = wait_for("the proxy", || async {
            tokio::net::TcpStream::connect((address, port)).await?;
            Ok(())
        });
        up.await.with_context(|| proxy.process.tail())?;
        ensure!(proxy.process.is_running(), "the proxy has ended\n{}", proxy.process.tail());
        Ok(proxy)
    }

    /// A file of the installation.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The port that users reach.
    pub fn front(&self) -> u16 {
        self.ports.front
    }

    /// Where all of it is: configuration, state, records and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of events of a proxy.
    pub fn events_file(&self, proxy: usize) -> PathBuf {
        self.path(&format!("proxy-{proxy}.events"))
    }

    /// Runs `ztka` as the first administrator, by way of the front; its standard output without the line end.
    pub async fn ztka(&self, arguments: &[&str]) -> Result<String> {
        run_ztka(&self.path("controller/admin.toml"), arguments).await
    }

    async fn ztka_direct(&self, arguments: &[&str]) -> Result<String> {
        run_ztka(&self.path("admin-direct.toml"), arguments).await
    }

    /// The same in an organisation, with JSON as the answer.
    pub async fn ztka_json(&self, org: &str, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--org", org, "--output", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.ztka(&all).await?)?)
    }

    /// Makes an organisation.
    pub async fn org(&self, name: &str) -> Result<()> {
        // The first command of all: the proxy may still be joining.
        wait_for("the API by way of the front", || async { self.ztka(&["whoami"]).await }).await?;
        self.ztka(&["org", "create", name]).await.map(drop)
    }

    /// Makes a user and their kubeconfig.
    pub async fn user(&self, org: &str, name: &str, groups: &[&str]) -> Result<User> {
        let mut create = vec!["--org", org, "user", "create", name];
        for group in groups {
            create.extend(["--group", group]);
        }
        self.ztka(&create).await?;
        self.kubeconfig(org, name).await
    }

    /// A (new) kubeconfig of a user, with a context for each cluster that they may reach now.
    pub async fn kubeconfig(&self, org: &str, name: &str) -> Result<User> {
        let kubeconfig = self.path(&format!("{org}-{name}.kubeconfig"));
        self.ztka(&["--org", org, "kubeconfig", "--user", name, "--file", path_text(&kubeconfig)?]).await?;
        Ok(User { name: name.into(), kubeconfig })
    }

    /// Gives a user a role on a cluster, everywhere in it.
    pub async fn bind(&self, org: &str, user: &str, role: &str, cluster: &str) -> Result<()> {
        let name = format!("{user}-{role}-{cluster}");
        self.ztka(&["--org", org, "binding", "create", &name, "--role", role, "--user", user, "--cluster", cluster])
            .await
            .map(drop)
    }

    /// Makes a cluster and starts an agent for it outside of the cluster, which acts as a service account in it.
    pub async fn cluster(&mut self, org: &str, name: &str, cluster: &Cluster, labels: &[&str]) -> Result<()> {
        let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
        let upstream = Upstream { url: cluster.url(), ca: cluster.ca_path(), token: &account.token_path };
        self.cluster_at(org, name, upstream, labels).await
    }

    /// The same for whatever answers as an apiserver.
    pub async fn cluster_at(&mut self, org: &str, name: &str, upstream: Upstream<'_>, labels: &[&str]) -> Result<()> {
        let mut create = vec!["--org", org, "cluster", "create", name];
        for label in labels {
            create.extend(["--label", label]);
        }
        self.ztka(&create).await?;
        let token = self.ztka(&["--org", org, "cluster", "token", name]).await?;
        self.start_agent(org, name, upstream, &token)?;
        self.enrolled(org, name).await
    }

    /// Waits until the agent of a cluster has enrolled.
    pub async fn enrolled(&self, org: &str, name: &str) -> Result<()> {
        let connected = wait_for("the agent's enrolment", || async {
            let clusters = self.ztka_json(org, &["cluster", "list"]).await?;
            let listed = clusters.as_array().into_iter().flatten().find(|listed| listed["name"] == name);
            let agents = listed.and_then(|listed| listed["instances"].as_array()).map_or(0, Vec::len);
            ensure!(agents > 0, "no agent has enrolled");
            Ok(())
        });
        let agent = self.agents.get(&(org.to_owned(), name.to_owned())).context("no such agent")?;
        connected.await.with_context(|| agent.process.tail())
    }

    /// Starts an agent for a cluster that is there, with this token; it may not be let in yet.
    pub fn start_agent(&mut self, org: &str, name: &str, upstream: Upstream<'_>, token: &str) -> Result<()> {
        let base = self.path(&format!("agent-{org}-{name}"));
        let token_file = base.with_extension("token");
        fs::write(&token_file, token)?;
        let host = self.wanted.agent_host.clone().unwrap_or_else(|| self.ports.address.to_string());
        let told = if self.wanted.by_front { 1 } else { self.proxies.len() };
        let own = self.proxies.iter().take(told).map(|proxy| proxy.port).collect();
        let ports: Vec<u16> = self.wanted.agent_ports.clone().unwrap_or(own);
        let proxies: Vec<_> = ports.iter().map(|port| format!("'{host}:{port}'")).collect();
        let config = base.with_extension("toml");
        let text = format!(
            "domain = '{DOMAIN}'\nfront = '{host}:{}'\nproxies = [{}]\nstate_dir = '{}'\ntoken_file = '{}'\n\
             {}{}[apiserver]\nurl = '{}'\nca_file = '{}'\ntoken_file = '{}'\n",
            self.ports.front,
            proxies.join(", "),
            base.display(),
            token_file.display(),
            self.wanted.agent_config,
            runtime(self.wanted.log.as_deref()),
            upstream.url,
            upstream.ca.display(),
            upstream.token.display(),
        );
        fs::write(&config, text)?;
        let environment = self.wanted.agent_environment.clone();
        let process = start_in("ztka-agent", &config, &environment)?;
        self.agents.insert((org.into(), name.into()), Agent { process, config, environment });
        Ok(())
    }

    /// Starts the controller again after it was killed.
    pub fn restart_controller(&mut self) -> Result<()> {
        let environment = &self.wanted.controller_environment;
        self.controller = start_in("ztka-controller", &self.path("controller.toml"), environment)?;
        Ok(())
    }

    /// kubectl of a user in the context of a cluster, once the cluster answers.
    pub async fn kubectl(&self, user: &User, cluster: &str) -> Result<Kubectl> {
        let kubectl = Kubectl::new(&user.kubeconfig).await?.context(cluster);
        let answers = wait_for_within(Duration::from_secs(60), "an answer of the cluster", || async {
            kubectl.ok(["get", "--raw", "/version"]).await
        });
        answers.await.with_context(|| self.tails())?;
        Ok(kubectl)
    }

    /// The same by way of another port: that of one of the proxies, or of a balancer in front of them.
    pub async fn kubectl_by(&self, user: &User, cluster: &str, port: u16) -> Result<Kubectl> {
        let text = fs::read_to_string(&user.kubeconfig)?.replace(&format!(":{}", self.front()), &format!(":{port}"));
        let kubeconfig = self.path(&format!("{}-by-{port}.kubeconfig", user.name));
        fs::write(&kubeconfig, text)?;
        let by = User { name: user.name.clone(), kubeconfig };
        self.kubectl(&by, cluster).await
    }

    /// What kubectl is told, once it is refused.
    pub async fn refused(&self, kubectl: &Kubectl, words: &str) -> Result<String> {
        let refused = wait_for("a refusal", || async {
            let output = kubectl.run(words.split(' ')).await?;
            ensure!(!output.success(), "{words}: still in");
            Ok(output.stderr)
        });
        refused.await.with_context(|| self.tails())
    }

    /// What kubectl is told, once it is let in.
    pub async fn allowed(&self, kubectl: &Kubectl, words: &str) -> Result<String> {
        let allowed = wait_for("access", || async { kubectl.ok(words.split(' ')).await });
        allowed.await.with_context(|| self.tails())
    }

    /// The last lines of every process' log.
    pub fn tails(&self) -> String {
        let mut all = vec![self.controller.tail()];
        all.extend(self.proxies.iter().map(|proxy| proxy.process.tail()));
        all.extend(self.agents.values().map(|agent| agent.process.tail()));
        all.join("\n")
    }
}

impl Proxy {
    /// Starts it again after it was killed.
    pub fn restart(&mut self) -> Result<()> {
        self.process = start("ztka-proxy", &self.config)?;
        Ok(())
    }
}

impl Agent {
    /// Starts it again after it was killed.
    pub fn restart(&mut self) -> Result<()> {
        self.process = start_in("ztka-agent", &self.config, &self.environment)?;
        Ok(())
    }
}

fn controller_config(folder: &Path, ports: Ports, own: Own, fronts: &[u16], wanted: &Installation) -> Result<PathBuf> {
    let Ports { front, address, .. } = ports;
    let Own { internal, passed } = own;
    let host = wanted.tunnel_host.clone().unwrap_or_else(|| address.to_string());
    let tunnels: Vec<_> = fronts.iter().map(|port| format!("'{host}:{port}'")).collect();
    let certificates = match &wanted.agent_certificates {
        Some(life) => format!("[certificates]\nagent = '{life}'\n"),
        None => String::new(),
    };
    let text = format!(
        "domain = '{DOMAIN}'\ndata_dir = '{}'\nfront = '{address}:{front}'\ntunnels = [{}]\n\
         listen = '127.0.0.1:{internal}'\nlisten_passed = '127.0.0.1:{passed}'\n{certificates}{}{}",
        folder.join("controller").display(),
        tunnels.join(", "),
        wanted.controller_config,
        runtime(wanted.log.as_deref()),
    );
    let config = folder.join("controller.toml");
    fs::write(&config, text)?;
    Ok(config)
}

fn runtime(log: Option<&str>) -> String {
    runtime_with(log, None)
}

fn runtime_with(log: Option<&str>, health: Option<u16>) -> String {
    let log = log.map(|log| format!("log = '{log}'\n")).unwrap_or_default();
    let health = health.map(|port| format!("health = '127.0.0.1:{port}'\n")).unwrap_or_default();
    if log.is_empty() && health.is_empty() { String::new() } else { format!("[runtime]\n{log}{health}") }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of the test is not UTF-8")
}

async fn run_ztka(credential: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program("ztka")?);
    command.arg("--credential").arg(credential).args(arguments).kill_on_drop(true);
    let output = command.output().await?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "ztka {}: {}{stdout}{stderr}", arguments.join(" "), output.status);
    Ok(stdout.trim_end().to_owned())
}
