//! A real egress proxy: Squid, which knows the names of the installation that nobody else can look up.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;
use ztka_test_cluster::wait_for_within;

use crate::{Process, free_port};

const PROGRAM: &str = "/usr/sbin/squid";
/// A machine that is short of CPU starts it in seconds.
const START: Duration = Duration::from_secs(60);

/// A running Squid with Basic authentication; gone when dropped.
#[derive(Debug)]
pub struct Squid {
    /// The process.
    pub process: Process,
    /// The port for plain CONNECT.
    pub port: u16,
    /// The port for CONNECT within TLS; its certificate is for `localhost`.
    pub tls_port: u16,
    folder: TempDir,
}

impl Squid {
    /// Its only user, and the password.
    pub const USER: (&str, &str) = ("ztka", "open sesame");

    /// Why it cannot be started here, or `None` when it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        (!Path::new(PROGRAM).exists()).then_some("Squid is missing; run apt-get install squid-openssl")
    }

    /// Starts it. It connects to `ports` alone, and knows `host` as this machine.
    pub async fn start(host: &str, ports: &[u16]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-squid-").tempdir()?;
        let path = folder.path();
        // As root it becomes another user.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".into()])?.signed_by(&key, &ca)?;
        fs::write(path.join("ca.pem"), ca.pem())?;
        fs::write(path.join("server.pem"), certificate.pem())?;
        fs::write(path.join("server.key"), key.serialize_pem())?;
        fs::write(path.join("hosts"), format!("127.0.0.1 {host}\n"))?;
        let hash = Command::new("openssl").args(["passwd", "-apr1", Self::USER.1]).output().await?;
        ensure!(hash.status.success(), "openssl passwd: {}", String::from_utf8_lossy(&hash.stderr));
        fs::write(path.join("users"), format!("{}:{}", Self::USER.0, String::from_utf8(hash.stdout)?))?;
        let (port, tls_port) = (free_port()?, free_port()?);
        let allowed: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let path = path.display();
        let config = format!(
            "http_port 127.0.0.1:{port}\n\
             https_port 127.0.0.1:{tls_port} tls-cert={path}/server.pem tls-key={path}/server.key\n\
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {path}/users\n\
             auth_param basic children 2 startup=1\n\
             acl users proxy_auth REQUIRED\nacl allowed port {}\n\
             http_access deny CONNECT !allowed\nhttp_access allow CONNECT users\nhttp_access deny all\n\
             hosts_file {path}/hosts\npid_filename none\ncache deny all\ncoredump_dir {path}\n\
             access_log stdio:{path}/access.log\ncache_log {path}/cache.log\nshutdown_lifetime 1 second\n\
             via off\nvisible_hostname squid.test\npinger_enable off\n",
            allowed.join(" "),
        );
        fs::write(folder.path().join("squid.conf"), config)?;
        let process = run(folder.path())?;
        let mut squid = Self { process, port, tls_port, folder };
        squid.listens().await?;
        Ok(squid)
    }

    /// Waits until it takes connections.
    pub async fn listens(&mut self) -> Result<()> {
        let ports = [self.port, self.tls_port];
        let up = wait_for_within(START, "Squid", || async move {
            for port in ports {
                tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            }
            Ok(())
        });
        up.await.with_context(|| self.said())
    }

    /// Starts it again after it was killed.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = run(self.folder.path())?;
        self.listens().await
    }

    /// A file of it: `ca.pem` has the CA of its certificate.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// What it was asked and how that ended, a line each: a tunnel is there when it has ended.
    pub fn asked(&self) -> String {
        fs::read_to_string(self.path("access.log")).unwrap_or_default()
    }

    /// What it has to say for itself.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(self.path("cache.log")).unwrap_or_default();
        format!("{}\n{log}\n{}", self.process.tail(), self.asked())
    }
}

fn run(folder: &Path) -> Result<Process> {
    let config = folder.join("squid.conf");
    let arguments = ["-N".as_ref(), "-f".as_ref(), config.as_os_str()];
    Process::start(Path::new(PROGRAM), arguments, &folder.join("output"))
}
