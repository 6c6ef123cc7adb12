//! The agent's configuration file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use jiff::SignedDuration;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::Deserialize;
use ztka_agent::accounts::{AgentToken, Mode, Settings};
use ztka_authz::LocalLimits;
use ztka_core::{HostPort, ProxyId};
use ztka_pki::EnrolmentToken;
use ztka_runtime::{Common, Configuration, EgressConfig};
use ztka_tunnel::ProxyAddress;

/// Where a pod finds the CA of its apiserver.
const CA_IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Within this time the first retry comes.
const LEAST_RETRY: SignedDuration = SignedDuration::from_millis(500);

/// Use is noted in the cluster at a quarter of it.
const LEAST_IDLE: SignedDuration = SignedDuration::from_mins(5);

/// Heads come every ten seconds.
const LEAST_STALENESS: SignedDuration = SignedDuration::from_secs(30);
/// As long as what is signed is believed at all.
const MOST_STALENESS: SignedDuration = SignedDuration::from_hours(24);

/// As many as a proxy takes of one cluster.
const MOST_TUNNELS: usize = 64;

/// The agent's configuration file. Only `domain`, `front` and `state_dir` are needed in a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Domain of the installation: servers are called `tunnel.<domain>`, `agents.<domain>`, `enroll.<domain>`.
    pub domain: String,
    /// `host:port` where the installation is reached, for enrolment and documents. Its name need not be of the domain.
    pub front: String,
    /// `host:port` at which proxies are reached; behind each there may be one or several. Default: `front` alone.
    #[serde(default)]
    pub proxies: Vec<String>,
    /// Tunnels at a time, each to another proxy, in different zones where that can be; from 1 to 64. Default: 2, or as many
    /// as `proxies` has addresses if that is more.
    #[serde(default)]
    pub tunnels: Option<usize>,
    /// No two attempts to dial a proxy are further apart, from 500 ms; the first retry comes within half a second, and each
    /// wait is anywhere between nothing and a bound that doubles up to this. Default 10 s.
    #[serde(default = "max_retry")]
    pub max_retry: SignedDuration,
    /// Private directory (0700) for the credential, documents and receipts; has to survive restarts.
    pub state_dir: PathBuf,
    /// Where the credential that the token gives is kept: `"directory"` is `state_dir`; `"secret"`, for pods, is the Secret
    /// `ztka-agent-credential` of the namespace `ztka-system`, which all agents of the cluster share. By it each obtains a
    /// certificate of its own, which is in `state_dir`; a pod that is made anew, or one more of them, needs no token.
    /// Default `"directory"`.
    #[serde(default)]
    pub credential: Keep,
    /// File with the one-time enrolment token; needed until the agent has enrolled. A token that the kept credential was
    /// not had by is used at the next start, and replaces it.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Streams may go on for so long after the agent was asked to stop, beside which no new ones are begun. Default 20 s.
    #[serde(default = "grace")]
    pub grace: SignedDuration,
    /// How the agent comes by the permissions that it hands on to users: `"dynamic"` writes roles, `"ceiling"` binds the
    /// ClusterRoles `ztka:ceiling:…` that came with its manifest. Default `"dynamic"`.
    #[serde(default)]
    pub mode: AgentMode,
    /// In mode `"ceiling"`: the roles of policy that may do anything here, each as far as its ClusterRole goes.
    #[serde(default)]
    pub ceiling: Vec<String>,
    /// Whether limits are read from the ConfigMap `ztka-agent-limits` of the namespace `ztka-system` as well, and those in
    /// force said in it. Default no.
    #[serde(default)]
    pub limits_config_map: bool,
    /// Nobody is let in when what the agent knows is older than this, because it hears nothing of the controller, or not all,
    /// neither itself nor by a proxy; from 30 s to 24 h. Default 24 h.
    #[serde(default = "max_staleness")]
    pub max_staleness: SignedDuration,
    /// The cluster's apiserver. Default: that of the pod.
    #[serde(default)]
    pub apiserver: Apiserver,
    /// Users' accounts in the cluster.
    #[serde(default)]
    pub accounts: Accounts,
    /// Limits that hold here whatever policy gives: see docs/agent.md. Default none.
    #[serde(default)]
    pub limits: LocalLimits,
    /// The way out to the installation, through an HTTP proxy if need be. The apiserver is always reached directly.
    #[serde(default)]
    pub egress: EgressConfig,
    /// Logs, health and metrics.
    #[serde(default)]
    pub runtime: Common,
}

/// Where the credential that the token gives is kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// In the state directory.
    #[default]
    Directory,
    /// In a Secret of the cluster.
    Secret,
}

/// How the agent comes by the permissions that it hands on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// It writes roles from policy.
    #[default]
    Dynamic,
    /// It binds what the cluster's owner has in hand.
    Ceiling,
}

/// The `[accounts]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// `"service_account"`: each user is a ServiceAccount with what policy gives. `"impersonate"`, in mode `"dynamic"`: each
    /// comes in their own name, `ztka:<name>` with the groups `ztka:<group>`, with what the cluster's own RBAC gives those.
    /// Default `"service_account"`.
    pub mode: AccountMode,
    /// An account that nobody has used for so long is removed, from 5 minutes. Default 1 h.
    pub idle: SignedDuration,
}

/// How users come to the apiserver.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum AccountMode {
    /// As a ServiceAccount with their own permissions.
    #[default]
    ServiceAccount,
    /// As a ServiceAccount that may impersonate them.
    Impersonate,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { mode: AccountMode::default(), idle: SignedDuration::from_hours(1) }
    }
}

/// The `[apiserver]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apiserver {
    /// `https://host:port`. Default: as every pod finds it, by `KUBERNETES_SERVICE_HOST` and `_PORT`.
    #[serde(default)]
    pub url: Option<String>,
    /// PEM file with the CA of its certificate. Default: the pod's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// File with the token of the agent's own service account, read anew for each use. Default: the pod's.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

fn max_retry() -> SignedDuration {
    SignedDuration::from_secs(10)
}

fn max_staleness() -> SignedDuration {
    MOST_STALENESS
}

fn grace() -> SignedDuration {
    SignedDuration::from_secs(20)
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.runtime
    }

    fn check(&self) -> anyhow::Result<()> {
        self.server_name("agents")?;
        ensure!(self.front.contains(':'), "front must be host:port, such as kube.{}:443", self.domain);
        self.addresses()?;
        ensure!((1..=MOST_TUNNELS).contains(&self.tunnels()), "tunnels must be from 1 to {MOST_TUNNELS}");
        ensure!(!self.grace.is_negative(), "grace must not be negative");
        ensure!(self.max_retry >= LEAST_RETRY, "max_retry must not be shorter than {LEAST_RETRY:#}");
        ensure!(
            (LEAST_STALENESS..=MOST_STALENESS).contains(&self.max_staleness),
            "max_staleness must be from {LEAST_STALENESS:#} to {MOST_STALENESS:#}"
        );
        self.accounts()?;
        self.limits.clone().compile().context("limits cannot be used; correct them, the agent does not run without")?;
        self.apiserver.url()?;
        self.apiserver.roots()?;
        read(self.apiserver.token_file(), "apiserver.token_file")?;
        self.token()?;
        self.egress.egress()?;
        Ok(())
    }
}

impl Config {
    /// `<role>.<domain>`
    pub fn server_name(&self, role: &str) -> anyhow::Result<ServerName<'static>> {
        let name = format!("{role}.{}", self.domain);
        ServerName::try_from(name).with_context(|| format!("domain = {:?} is not a DNS name", self.domain))
    }

    /// How accounts are kept.
    pub(crate) fn accounts(&self) -> anyhow::Result<Settings> {
        let mode = match (self.mode, self.accounts.mode) {
            (AgentMode::Dynamic, AccountMode::ServiceAccount) => Mode::ServiceAccount,
            (AgentMode::Dynamic, AccountMode::Impersonate) => Mode::Impersonate,
            (AgentMode::Ceiling, AccountMode::ServiceAccount) => Mode::Ceiling(self.ceiling.iter().cloned().collect()),
            (AgentMode::Ceiling, AccountMode::Impersonate) => {
                bail!("accounts.mode = \"impersonate\" needs mode = \"dynamic\": under a ceiling no role is written")
            }
        };
        ensure!(
            self.ceiling.is_empty() || self.mode == AgentMode::Ceiling,
            "ceiling is for mode = \"ceiling\"; set it"
        );
        ensure!(
            self.mode == AgentMode::Dynamic || !self.ceiling.is_empty(),
            "mode = \"ceiling\" needs the roles of policy that count here, such as ceiling = [\"view\"]"
        );
        ensure!(self.accounts.idle >= LEAST_IDLE, "accounts.idle must not be shorter than {LEAST_IDLE:#}");
        Ok(Settings { mode, idle: self.accounts.idle.unsigned_abs(), ..Settings::default() })
    }

    /// How many tunnels there are to be. Users who come to a proxy without one find no cluster there, so that where
    /// proxies are listed one by one there is one to each.
    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.unwrap_or(self.proxies.len().max(2))
    }

    /// Where proxies are reached.
    pub fn addresses(&self) -> anyhow::Result<Vec<ProxyAddress>> {
        let name = self.server_name("tunnel")?;
        let address = |text: &String| {
            let (host, port) = text.rsplit_once(':').with_context(|| format!("proxies: {text:?} is not host:port"))?;
            let port = port.parse().with_context(|| format!("proxies: {text:?} does not end with a port"))?;
            let address = ProxyAddress::new(host.trim_matches(['[', ']']), port);
            Ok(address.with_context(|| format!("proxies: {text:?} is not host:port"))?.named(name.clone()))
        };
        let proxies = if self.proxies.is_empty() { std::slice::from_ref(&self.front) } else { &self.proxies };
        proxies.iter().map(address).collect()
    }

    /// Of one proxy, which has to prove by its certificate that it is `id`.
    pub(crate) fn own_address(&self, id: &ProxyId, address: &HostPort) -> anyhow::Result<ProxyAddress> {
        let name = self.server_name(&format!("{id}.tunnel"))?;
        Ok(ProxyAddress::new(address.host(), address.port())?.named(name))
    }

    /// The enrolment token; none if there is no file, as after a restart without its Secret.
    pub(crate) fn token(&self) -> anyhow::Result<Option<EnrolmentToken>> {
        let Some(file) = &self.token_file else { return Ok(None) };
        // A pod's Secret with the token may be gone once there is a credential in the other one.
        if !file.exists() && (self.credential == Keep::Secret || self.state_dir.exists()) {
            return Ok(None);
        }
        let text = read(file, "token_file")?;
        let token = text.trim().parse();
        token.map(Some).with_context(|| format!("token_file: {} holds no enrolment token", file.display()))
    }
}

impl Apiserver {
    /// Where the apiserver is; in a pod the one of its cluster.
    ///
    /// # Errors
    /// It is not an https address, or this is no pod.
    pub fn url(&self) -> anyhow::Result<http::Uri> {
        let variable = |name| std::env::var(name).context("apiserver.url is not set, and this is not a pod");
        let url = match &self.url {
            Some(url) => url.clone(),
            None => {
                let host = variable("KUBERNETES_SERVICE_HOST")?;
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                format!("https://{host}:{}", variable("KUBERNETES_SERVICE_PORT")?)
            }
        };
        let parsed: http::Uri = url.parse().with_context(|| format!("apiserver.url = {url:?} is not a URL"))?;
        ensure!(
            parsed.scheme_str() == Some("https") && parsed.host().is_some(),
            "apiserver.url = {url:?} must be https://host:port: tokens are sent to nothing else"
        );
        Ok(parsed)
    }

    /// The CAs that the apiserver's certificate may lead up to.
    pub(crate) fn roots(&self) -> anyhow::Result<RootCertStore> {
        let file = self.ca_file.as_deref().unwrap_or(Path::new(CA_IN_POD));
        let (text, name) = (read(file, "apiserver.ca_file")?, file.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.with_context(|| format!("apiserver.ca_file: {name} is not PEM"))?;
            roots
                .add(certificate)
                .with_context(|| format!("apiserver.ca_file: {name} holds something that is no CA"))?;
        }
        ensure!(!roots.is_empty(), "apiserver.ca_file: {name} holds no certificate; it takes the cluster's CA as PEM");
        Ok(roots)
    }

    fn token_file(&self) -> &Path {
        self.token_file.as_deref().unwrap_or(Path::new(AgentToken::IN_POD))
    }

    pub(crate) fn token(&self) -> AgentToken {
        AgentToken::file(self.token_file())
    }
}

fn read(file: &Path, key: &str) -> anyhow::Result<String> {
    fs::read_to_string(file)
        .with_context(|| format!("{key}: cannot read {}; check that it exists, its owner and its mode", file.display()))
}
