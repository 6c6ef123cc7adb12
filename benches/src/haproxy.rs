//! Two TLS hops of HAProxy, to compare with: user –h1→ edge –h2→ inner –h1→ upstream, mutual on the first two legs.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use ztka_test_cluster::{Authority, Identity};

use crate::{
    Process, Target,
    process::{Running, free_port, listens},
};

/// Name in the certificates of both hops.
const NAME: &str = "hop.localhost";
/// A port that was free a moment ago may be taken; then others are tried.
const ATTEMPTS: u32 = 3;

/// Which settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settings {
    /// As installed: a thread per core.
    Default,
    /// The best that was found for small machines and large bodies: one thread per process, 64 KiB buffers, 1 MiB
    /// windows, connections shared by all, and the cipher suite that all the others have (AES-128-GCM).
    Tuned,
}

impl Settings {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "HAProxy, default",
            Self::Tuned => "HAProxy, tuned",
        }
    }

    fn global(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Tuned => {
                "  nbthread 1\n  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
                 ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n  tune.bufsize 65536\n  tune.h2.initial-window-size 1048576\n  tune.h2.max-frame-size 65536\n"
            }
        }
    }

    fn defaults(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Tuned => "  http-reuse always\n",
        }
    }
}

/// The two processes of a chain, killed when dropped.
#[derive(Debug)]
pub struct Chain {
    /// The way through it.
    pub target: Target,
    _edge: Running,
    _inner: Running,
}

/// Makes sure that there is a HAProxy: as root, missing, it is installed from Debian.
///
/// # Errors
/// When there is none and it cannot be installed; says what to do.
pub fn available() -> Result<()> {
    if is_there() {
        return Ok(());
    }
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        ztka_test_cluster::install_packages(&["haproxy"])?;
    }
    if !is_there() {
        bail!("haproxy is not installed; run apt-get install haproxy as root");
    }
    Ok(())
}

fn is_there() -> bool {
    Command::new("haproxy").arg("-v").output().is_ok_and(|output| output.status.success())
}

/// Starts both hops in front of `upstream`, with certificates of a new CA; their files go into `folder`.
///
/// # Errors
/// When a hop does not come up; with the end of its log.
pub fn start(folder: &Path, settings: Settings, upstream: &Target) -> Result<Chain> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let hops = Hops::new(folder, settings, upstream)?;
    for _ in 1..ATTEMPTS {
        if let Ok(chain) = hops.start() {
            return Ok(chain);
        }
    }
    hops.start()
}

struct Hops<'a> {
    folder: &'a Path,
    settings: Settings,
    upstream: &'a Target,
    ca: PathBuf,
    user: Identity,
    server: PathBuf,
    client: PathBuf,
    last: PathBuf,
}

impl<'a> Hops<'a> {
    fn new(folder: &'a Path, settings: Settings, upstream: &'a Target) -> Result<Self> {
        let authority = Authority::create(folder, "hops-ca")?;
        let bundle = |identity: &Identity, name: &str| {
            let file = folder.join(name);
            fs::write(&file, format!("{}{}", identity.certificate, identity.key)).map(|()| file)
        };
        let server = bundle(&authority.server("hop", &[NAME.to_owned()])?, "server.pem")?;
        let client = bundle(&authority.client("edge", &[])?, "client.pem")?;
        let last = folder.join("last.pem");
        let (certificate, key) = (fs::read_to_string(&upstream.certificate)?, fs::read_to_string(&upstream.key)?);
        fs::write(&last, format!("{certificate}\n{key}"))?;
        let user = authority.client("user", &[])?;
        Ok(Self { folder, settings, upstream, ca: authority.path().to_owned(), user, server, client, last })
    }

    fn start(&self) -> Result<Chain> {
        let (edge_port, inner_port) = (free_port()?, free_port()?);
        let (ca, client, last) = (self.ca.display(), self.client.display(), self.last.display());
        let to_inner = format!(
            "127.0.0.1:{inner_port} ssl crt {client} ca-file {ca} verify required sni str({NAME}) verifyhost {NAME} \
             alpn h2 ws h2"
        );
        let Target { address, server_name, ca, .. } = self.upstream;
        let named = match server_name.parse::<std::net::IpAddr>() {
            Ok(_) => String::new(),
            Err(_) => format!(" sni str({server_name}) verifyhost {server_name}"),
        };
        let to_upstream =
            format!("{address} ssl crt {last} ca-file {ca} verify required{named} alpn http/1.1", ca = ca.display());
        let inner = self.hop("inner", inner_port, "h2", &to_upstream)?;
        let edge = self.hop("edge", edge_port, "h2,http/1.1", &to_inner)?;
        let process = |name: &str, hop: &Running| Process { name: name.into(), pid: hop.pid() };
        let target = Target {
            name: self.settings.name().into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, edge_port)),
            server_name: NAME.into(),
            ca: self.ca.clone(),
            certificate: self.user.certificate_path.clone(),
            key: self.user.key_path.clone(),
            path_prefix: String::new(),
            processes: vec![process("edge", &edge), process("inner", &inner)],
        };
        Ok(Chain { target, _edge: edge, _inner: inner })
    }

    fn hop(&self, name: &str, port: u16, alpn: &str, server: &str) -> Result<Running> {
        let file = self.folder.join(format!("{name}.cfg"));
        fs::write(&file, self.config(port, alpn, server)?)?;
        let log = self.folder.join(format!("{name}.log"));
        let mut running = Running::start("haproxy", ["-db".as_ref(), "-f".as_ref(), file.as_os_str()], &log)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        running.wait_for("haproxy", || listens(address).then_some(()))?;
        Ok(running)
    }

    fn config(&self, port: u16, alpn: &str, server: &str) -> Result<String> {
        let (ca, certificate) = (self.ca.display(), self.server.display());
        let (global, defaults) = (self.settings.global(), self.settings.defaults());
        // Each is two sockets, and HAProxy does not start with fewer than it might need.
        let connections = (open_files().unwrap_or(8_192) / 2).saturating_sub(200).clamp(400, 12_000);
        let mut text = String::new();
        write!(
            text,
            "global\n  maxconn {connections}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
             ssl-default-server-options ssl-min-ver TLSv1.3\n{global}\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  \
             timeout tunnel 1h\n{defaults}\
             frontend users\n  \
             bind 127.0.0.1:{port} ssl crt {certificate} ca-file {ca} verify required alpn {alpn}\n  \
             default_backend next\n\
             backend next\n  server next {server}\n"
        )?;
        Ok(text)
    }
}

/// The hard limit of open files of this process, which its children have too.
fn open_files() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_accepts_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "ca").unwrap();
        let client = authority.client("load", &[]).unwrap();
        for (name, settings) in [("localhost", Settings::Default), ("127.0.0.1", Settings::Tuned)] {
            let upstream = Target {
                name: "direct".into(),
                address: "127.0.0.1:9".parse().unwrap(),
                server_name: name.into(),
                ca: authority.path().to_owned(),
                certificate: client.certificate_path.clone(),
                key: client.key_path.clone(),
                path_prefix: String::new(),
                processes: Vec::new(),
            };
            let hops = Hops::new(folder.path(), settings, &upstream).unwrap();
            let config = hops.config(4711, "h2", "127.0.0.1:9").unwrap();
            assert!(config.contains("bind 127.0.0.1:4711 ssl"), "{config}");
            assert_eq!(config.contains("nbthread"), settings == Settings::Tuned);
            // Without a HAProxy on the machine, the text is all that there is to look at.
            if is_there() {
                let chain = start(folder.path(), settings, &upstream).unwrap();
                assert_eq!(chain.target.processes.len(), 2);
            }
        }
    }
}
