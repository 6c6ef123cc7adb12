//! The controller's configuration file.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use ztka_controller::{Settings, serve::Limits};
use ztka_pki::Lifetimes;
use ztka_runtime::{Common, Configuration};
use ztka_store::Location;

/// The controller's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Domain of the installation, and its trust domain; it cannot be changed later.
    pub domain: String,
    /// Private directory (0700) for the database, the master key and the first administrator's credential.
    pub data_dir: PathBuf,
    /// `postgres://user@host/name`, for several controllers: each needs the same master key (see `encryption`), and
    /// finds the password in `PGPASSWORD` or in the file that `PGPASSFILE` names. Default: SQLite, in `data_dir`.
    #[serde(default)]
    pub database: Option<String>,
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
    /// Where CRLs are served over plain HTTP, to anybody: `GET /crl`, `GET /crl/<issuer>.crl`. They are at
    /// `https://api.<domain>/crl` in any case. Default: nowhere else.
    #[serde(default)]
    pub listen_crls: Option<SocketAddr>,
    /// How long certificates live.
    #[serde(default)]
    pub certificates: Certificates,
    /// Recordings of sessions.
    #[serde(default)]
    pub recordings: Recordings,
    /// Where the private keys of the certificate authorities are.
    #[serde(default)]
    pub keys: Keys,
    /// What the database is encrypted under.
    #[serde(default)]
    pub encryption: Encryption,
    /// Where signed heads of the transparency logs are published.
    #[serde(default)]
    pub tree_heads: TreeHeads,
    /// How many connections there may be, and for how long without a certificate.
    #[serde(default)]
    pub limits: Limits,
    /// Logs, health and metrics.
    #[serde(default)]
    pub runtime: Common,
}

/// The `[recordings]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recordings {
    /// How long they are kept, as in `720h`. Default 2,160 h, 90 days.
    #[serde(default)]
    pub keep: Option<SignedDuration>,
    /// How much an organisation may have; beyond that no new ones are taken, and they wait on the proxies. Default 10,240.
    #[serde(default)]
    pub org_mib: Option<u64>,
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

/// The `[keys]` table. It is chosen before the first start: keys do not move.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// In a PKCS#11 token, the same for all controllers. Default: in the database, encrypted as all that is secret there.
    #[serde(default)]
    pub token: Option<Token>,
}

/// The `[keys.token]` table: an HSM, or SoftHSM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The PKCS#11 library, such as `/usr/lib/softhsm/libsofthsm2.so`.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// Private file (0600) with the user's PIN, one line; read at every login.
    pub pin_file: PathBuf,
    /// Sessions, and threads, that use the token at once. Default 4.
    #[serde(default)]
    pub sessions: Option<usize>,
}

/// The `[tree_heads]` table: a place where every signed head of the transparency logs is kept, so that a controller that
/// changes its history is found out (`ztka audit verify --previous-head`). Better where its operators cannot change it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHeads {
    /// Each is appended to this file, one to a line; a file for each controller. Default: nowhere.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Each is sent to this URL, by each controller, until it answers 2xx: `POST`, JSON, as `ztka audit head` prints it.
    /// `https`, or `http` to this machine itself. Default: nowhere.
    #[serde(default)]
    pub webhook: Option<String>,
    /// Certificates (PEM) that the webhook's own has to lead to. Default: the system's.
    #[serde(default)]
    pub webhook_ca: Option<PathBuf>,
}

/// The `[encryption]` table: the master key, which wraps the data keys of the database and is never in it. The same for all
/// controllers; without it nothing that is stored can be read, so keep a copy elsewhere.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// Where it is: `{ file = "/path" }`, `{ environment = "NAME" }` or `{ token = { … } }`. Default: the file `master.key`
    /// in `data_dir`, which is made (0600) if the database is new.
    #[serde(default)]
    pub master: Option<Master>,
    /// Others that data keys may still be under, or are going to be: to replace the master key, add the new one here on
    /// all controllers, then make it `master` and put the old one here, then remove it when
    /// `ztka master-key list` shows no data key under it.
    #[serde(default)]
    pub other: Vec<Master>,
}

/// A master key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Master {
    /// A private file (0600) of 64 hexadecimal digits: `openssl rand -hex 32`.
    File(PathBuf),
    /// The name of an environment variable with 64 hexadecimal digits in it.
    Environment(String),
    /// An AES-256 key in a PKCS#11 token, which is made there if the database is new.
    Token(MasterToken),
}

/// A master key in a token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterToken {
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// Private file (0600) with the user's PIN.
    pub pin_file: PathBuf,
    /// The key's label. Default `ztka-master`.
    #[serde(default = "master_label")]
    pub key: String,
}

fn master_label() -> String {
    "ztka-master".into()
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
        let keep = self.recordings.keep;
        ensure!(keep.is_none_or(|keep| keep.is_positive()), "recordings.keep must be longer than 0 s");
        let mib = self.recordings.org_mib.unwrap_or(1);
        ensure!((1..=1 << 24).contains(&mib), "recordings.org_mib must be from 1 to 16777216 (16 TiB)");
        ensure!(self.limits.without_certificate.is_positive(), "limits.without_certificate must be longer than 0 s");
        self.database()?;
        Ok(())
    }
}

impl Config {
    /// Where everything is kept.
    pub(crate) fn database(&self) -> anyhow::Result<Location> {
        match &self.database {
            None => Ok(Location::Sqlite(self.data_dir.join("ztka.db"))),
            Some(database) => database.parse().context("database"),
        }
    }

    /// What the controller is made with.
    pub fn settings(&self) -> Settings {
        let mut lifetimes = Lifetimes::default();
        if let Some(agent) = self.certificates.agent {
            lifetimes.agent = agent;
        }
        if let Some(proxy) = self.certificates.proxy {
            lifetimes.proxy = proxy;
        }
        let usual = Settings::of(&self.domain, 443);
        let tunnels_at = if self.tunnels.is_empty() { vec![self.front.clone()] } else { self.tunnels.clone() };
        Settings {
            front: self.front.clone(),
            enrol_at: self.front.clone(),
            agents_at: self.front.clone(),
            tunnels_at,
            lifetimes,
            keep_recordings: self.recordings.keep.unwrap_or(usual.keep_recordings),
            recordings_of_org: self.recordings.org_mib.map_or(usual.recordings_of_org, |mib| mib << 20),
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_a_file_unless_a_server_is_named_and_its_password_is_not_here() {
        let config = |more: &str| {
            let text =
                "domain = 'example.com'\ndata_dir = '/data'\nfront = 'kube.example.com:443'\nlisten = '127.0.0.1:1'\n";
            toml::from_str::<Config>(&format!("{text}{more}")).unwrap()
        };
        assert_eq!(config("").database().unwrap(), Location::Sqlite("/data/ztka.db".into()));
        let server = "postgres://ztka@db.example.com/ztka";
        let named = config(&format!("database = '{server}'"));
        named.check().unwrap();
        assert_eq!(named.database().unwrap(), Location::Postgres(server.into()));
        let refused = config("database = 'postgres://ztka:secret@db/ztka'").check().unwrap_err();
        assert!(format!("{refused:#}").contains("PGPASSFILE"), "{refused:#}");
        assert!(config("database = 'ztka.db'").check().is_err());
    }
}
