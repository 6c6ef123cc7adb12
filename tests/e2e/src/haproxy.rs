//! A real HAProxy as a TCP balancer in front of proxies, which asks each of them whether it is ready.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use ztka_test_cluster::wait_for;

use crate::{Process, Proxy, free_port};

const PROGRAM: &str = "/usr/sbin/haproxy";

/// A running HAProxy; gone when dropped.
#[derive(Debug)]
pub struct Haproxy {
    /// The process.
    pub process: Process,
    /// The port that it balances.
    pub port: u16,
    _folder: TempDir,
}

impl Haproxy {
    /// Why it cannot be started here, or `None` when it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        (!Path::new(PROGRAM).exists()).then_some("HAProxy is missing; run apt-get install haproxy")
    }

    /// Starts it in front of `proxies`, which tell whether they are ready. Connections that are there stay where they are.
    pub async fn start(proxies: &[Proxy]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-haproxy-").tempdir()?;
        let port = free_port()?;
        let mut config = format!(
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
             timeout server 1h\n  timeout check 5s\n  retries 3\n  option redispatch 1\n\
             frontend users\n  bind 127.0.0.1:{port}\n  default_backend proxies\n\
             backend proxies\n  balance roundrobin\n  option httpchk GET /readyz\n"
        );
        for (number, proxy) in proxies.iter().enumerate() {
            let health = proxy.health.context("a proxy that does not tell whether it is ready")?;
            writeln!(
                config,
                "  server proxy-{number} 127.0.0.1:{} check port {health} inter 300ms fall 2 rise 1",
                proxy.port
            )?;
        }
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config)?;
        let arguments = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
        let process = Process::start(Path::new(PROGRAM), arguments, &folder.path().join("output"))?;
        let haproxy = Self { process, port, _folder: folder };
        let up = wait_for("HAProxy", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        });
        up.await.with_context(|| haproxy.process.tail())?;
        Ok(haproxy)
    }
}
