//! The proxy's configuration file.

use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use ztka_audit::Input;
use ztka_core::{HostPort, Recording, Zone};
use ztka_pki::EnrolmentToken;
use ztka_proxy::{Cidr, Limits};
use ztka_runtime::{Common, Configuration, EgressConfig};

use crate::{LevelsConfig, SpoolConfig};

/// The proxy's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Domain of the installation.
    pub domain: String,
    /// Where users and agents connect, such as `0.0.0.0:443`.
    pub listen: SocketAddr,
    /// Where this proxy is, such as `eu-1a`: agents hold tunnels to proxies of different zones. Default: none.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// `host:port` at which agents reach this proxy and no other, if there is such an address: they find it there without
    /// trying a shared name until it leads here. Default: none.
    #[serde(default)]
    pub address: Option<HostPort>,
    /// Requests of which other proxies have no tunnel. Default: none are taken, and none are sent on to others.
    #[serde(default)]
    pub peers: Option<PeersConfig>,
    /// Further server names at which users may ask by path, as that of a balancer in front.
    #[serde(default)]
    pub fronts: Vec<String>,
    /// Private directory (0700) for the credential, documents and the audit spool; has to survive restarts.
    pub state_dir: PathBuf,
    /// File with the one-time join token; needed until the proxy has joined.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// `host:port` of the controller's `listen`.
    pub controller: String,
    /// `host:port` of the controller's `listen_passed`, for the names that it serves on this port. Default: none.
    #[serde(default)]
    pub pass_to: Option<String>,
    /// Users' clients that know TLS 1.2 only are let in as well, with AEAD cipher suites and forward secrecy. Everything
    /// else is TLS 1.3 alone, always. Default: false.
    #[serde(default)]
    pub allow_tls12: bool,
    /// What a user without a session is told to do.
    #[serde(default = "login")]
    pub login: String,
    /// After it was asked to stop the proxy is not ready, but serves for so long whoever comes all the same: longer than a
    /// balancer in front needs to see it. Default 5 s.
    #[serde(default = "shutdown_delay")]
    pub shutdown_delay: SignedDuration,
    /// After that, streams may go on for so long before they are ended; 3 s later the process is gone. Default 20 s.
    #[serde(default = "grace")]
    pub grace: SignedDuration,
    /// Balancers in front that begin each connection with a PROXY protocol header.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// The audit spool.
    #[serde(default)]
    pub audit: Audit,
    /// Recordings of sessions.
    #[serde(default)]
    pub recordings: RecordingsConfig,
    /// How much one user, and all together, may have going on.
    #[serde(default)]
    pub limits: Limits,
    /// The way to the controller, through an HTTP proxy if need be.
    #[serde(default)]
    pub egress: EgressConfig,
    /// Logs, health and metrics.
    #[serde(default)]
    pub runtime: Common,
}

/// The `[peers]` table: how proxies pass requests on to each other, each to one that has a tunnel of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersConfig {
    /// Where other proxies connect, such as `0.0.0.0:8444`. Nobody else needs to reach it; it takes no PROXY protocol header.
    pub listen: SocketAddr,
    /// `host:port` at which the other proxies reach it, as a pod's own address.
    pub address: HostPort,
}

/// The `[proxy_protocol]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks of balancers that are believed, such as `10.0.0.0/8`. Default: none.
    #[serde(default)]
    pub trusted: Vec<String>,
}

/// More than any machine has, in MiB.
const USER_MEMORY: usize = 1 << 24;
/// More than any disk has; in bytes it is far from what a number holds.
const QUOTA: u64 = 1 << 24;

/// The `[audit]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// At this size of the spool new requests are refused, unless what has been shipped can be removed. Default 1,024.
    #[serde(default)]
    pub quota_mib: Option<u64>,
    /// Events are appended to this file as well, one JSON object a line.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// An audit policy in Kubernetes' own format, for every organisation without one of its own. Default: everything is
    /// recorded at level Metadata.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Audit policies of organisations, and what of bodies is recorded.
    #[serde(default)]
    pub levels: LevelsConfig,
    /// When records are on the disk, and how long they stay.
    #[serde(default)]
    pub spool: SpoolConfig,
}

/// The `[recordings]` table: sessions of exec and attach.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingsConfig {
    /// What is recorded whatever policy says: `off`, `on` (if it can be) or `required` (or it does not take place). Default
    /// `off`: what policy says.
    #[serde(default)]
    pub at_least: Least,
    /// What of the input is recorded: `off`, `echoed` (what the terminal shows again, the rest is hidden) or `all`, passwords
    /// as well. Default `echoed`.
    #[serde(default)]
    pub input: Input,
    /// Most of one session; one that has to be recorded ends there. Default 256.
    #[serde(default)]
    pub session_mib: Option<u64>,
    /// Most of one organisation that waits here to be brought away; then sessions that have to be recorded are refused.
    /// Default 1,024.
    #[serde(default)]
    pub org_mib: Option<u64>,
    /// The same of all. Default 4,096.
    #[serde(default)]
    pub total_mib: Option<u64>,
    /// Directory in which they are kept as files, in clear, and not by the controller: `<id>.cast` and `<id>.json`. Default: none,
    /// the controller keeps them.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// File with the key that encrypts them here, 32 bytes; made if it is not there. Default: one beside them.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// How much is recorded at least.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Least {
    /// What policy says.
    #[default]
    Off,
    /// Every session, if it can be.
    On,
    /// Every session, or it does not take place.
    Required,
}

impl RecordingsConfig {
    pub(crate) fn at_least(&self) -> Recording {
        match self.at_least {
            Least::Off => Recording::Off,
            Least::On => Recording::On,
            Least::Required => Recording::Required,
        }
    }

    pub(crate) fn limits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let limits = [("session_mib", self.session_mib), ("org_mib", self.org_mib), ("total_mib", self.total_mib)];
        limits.into_iter().filter_map(|(name, limit)| Some((name, limit?)))
    }
}

fn login() -> String {
    "ask your administrator for a new kubeconfig".into()
}

fn shutdown_delay() -> SignedDuration {
    SignedDuration::from_secs(5)
}

fn grace() -> SignedDuration {
    SignedDuration::from_secs(20)
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.runtime
    }

    fn check(&self) -> anyhow::Result<()> {
        self.server_name("controllers")?;
        ensure!(self.controller.contains(':'), "controller must be host:port");
        let is_address = self.pass_to.as_ref().is_none_or(|address| address.contains(':'));
        ensure!(is_address, "pass_to must be host:port");
        ensure!(!self.grace.is_negative(), "grace must not be negative");
        ensure!(!self.shutdown_delay.is_negative(), "shutdown_delay must not be negative");
        ensure!(self.limits.without_certificate.is_positive(), "limits.without_certificate must be longer than 0 s");
        ensure!(
            (1..=USER_MEMORY).contains(&self.limits.user_memory_mib),
            "limits.user_memory_mib must be from 1 to {USER_MEMORY}"
        );
        let quota = self.audit.quota_mib.unwrap_or(1);
        ensure!((1..=QUOTA).contains(&quota), "audit.quota_mib must be from 1 to {QUOTA} (16 TiB)");
        for (name, limit) in self.recordings.limits() {
            ensure!((1..=QUOTA).contains(&limit), "recordings.{name} must be from 1 to {QUOTA} (16 TiB)");
        }
        self.audit.spool.check()?;
        self.audit.levels()?;
        self.balancers()?;
        self.token()?;
        self.egress.egress()?;
        Ok(())
    }
}

impl Config {
    /// `<role>.<domain>`
    pub(crate) fn server_name(&self, role: &str) -> anyhow::Result<ServerName<'static>> {
        let name = format!("{role}.{}", self.domain);
        ServerName::try_from(name).with_context(|| format!("domain = {:?} is not a DNS name", self.domain))
    }

    /// The networks of balancers that are believed.
    ///
    /// # Errors
    /// One that is no network.
    pub fn balancers(&self) -> anyhow::Result<Vec<Cidr>> {
        let parse = |text: &String| {
            text.parse()
                .with_context(|| format!("proxy_protocol.trusted: {text:?} is not a network such as 10.0.0.0/8"))
        };
        self.proxy_protocol.trusted.iter().map(parse).collect()
    }

    /// The join token; none if there is no file, as after a restart without it.
    pub(crate) fn token(&self) -> anyhow::Result<Option<EnrolmentToken>> {
        let Some(file) = &self.token_file else { return Ok(None) };
        if !file.exists() && self.state_dir.exists() {
            return Ok(None);
        }
        let name = file.display();
        let text = fs::read_to_string(file)
            .with_context(|| format!("token_file: cannot read {name}; check that it exists, its owner and its mode"))?;
        text.trim().parse().map(Some).with_context(|| format!("token_file: {name} holds no join token"))
    }

    pub(crate) fn pass_to(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let Some(address) = &self.pass_to else { return Ok(Vec::new()) };
        let addresses = address.to_socket_addrs();
        Ok(addresses.with_context(|| format!("pass_to: {address:?} is not host:port of anything known"))?.collect())
    }
}
