//! The controller's configuration file.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::ensure;
use jiff::SignedDuration;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use ztka_controller::{Settings, serve::Limits};
use ztka_pki::Lifetimes;
use ztka_runtime::{Common, Configuration};

/// The controller's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Domain of the installation, and its trust domain; it cannot be changed later.
    pub domain: String,
    /// Private directory (0700) for the database, the master key and the first administrator's credential.
    pub data_dir: PathBuf,
    /// `host:port` where users, agents and the command line reach the installation: the proxies, or a balancer.
    pub front: String,
    /// `host:port` of each proxy, for agents' tunnels. Default: `front` alone.
    #[serde(default)]
    pub tunnels: Vec<String>,
    /// Where proxies reach this controller; not for the public.
    pub listen: SocketAddr,
    /// Where proxies pass connections for the controller's public names on, each with a PROXY protocol header. Default:
    /// nowhere, as when the proxy is in the same process.
    #[serde(default)]
    pub listen_passed: Option<SocketAddr>,
    /// How long certificates live.
    #[serde(default)]
    pub certificates: Certificates,
    /// How many connections there may be, and for how long without a certificate.
    #[serde(default)]
    pub limits: Limits,
    /// Logs, health and metrics.
    #[serde(default)]
    pub runtime: Common,
}

/// The `[certificates]` table; each is renewed at two thirds of its life.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Of agents. Default 72 h.
    #[serde(default)]
    pub agent: Option<SignedDuration>,
    /// Of proxies. Default 72 h.
    #[serde(default)]
    pub proxy: Option<SignedDuration>,
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.runtime
    }

    fn check(&self) -> anyhow::Result<()> {
        let is_name = ServerName::try_from(format!("api.{}", self.domain)).is_ok();
        ensure!(is_name, "domain = {:?} is not a DNS name", self.domain);
        ensure!(self.front.contains(':'), "front must be host:port, such as kube.{}:443", self.domain);
        let short = [self.certificates.agent, self.certificates.proxy];
        let short = short.into_iter().flatten().any(|life| life < SignedDuration::from_secs(10));
        ensure!(!short, "certificates must live for 10 s at least");
        ensure!(self.limits.without_certificate.is_positive(), "limits.without_certificate must be longer than 0 s");
        Ok(())
    }
}

impl Config {
    pub(crate) fn settings(&self) -> Settings {
        let mut lifetimes = Lifetimes::default();
        if let Some(agent) = self.certificates.agent {
            lifetimes.agent = agent;
        }
        if let Some(proxy) = self.certificates.proxy {
            lifetimes.proxy = proxy;
        }
        let tunnels_at = if self.tunnels.is_empty() { vec![self.front.clone()] } else { self.tunnels.clone() };
        Settings {
            front: self.front.clone(),
            enrol_at: self.front.clone(),
            agents_at: self.front.clone(),
            tunnels_at,
            lifetimes,
            ..Settings::of(&self.domain, 443)
        }
    }
}
