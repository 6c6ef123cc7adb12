//! Several controllers over one database, behind a balancer, as proxies find them in production.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use ztka_test_cluster::wait_for;

use super::{Fleet, Ports, controller_config, start_in};
use crate::free_port;

/// A controller's own ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) internal: u16,
    pub(super) passed: u16,
}

/// Leads each connection to one of those that take it, in turn.
#[derive(Debug)]
pub(super) struct Balancer {
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Balancer {
    async fn start(port: u16, first: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let targets = Arc::new(Mutex::new(vec![SocketAddr::from(([127, 0, 0, 1], first))]));
        let shared = targets.clone();
        let task = tokio::spawn(async move {
            let mut turn = 0_usize;
            while let Ok((mut client, _)) = listener.accept().await {
                let mut targets = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                turn = turn.wrapping_add(1);
                let first = turn % targets.len();
                targets.rotate_left(first);
                tokio::spawn(async move {
                    for target in targets {
                        if let Ok(mut server) = TcpStream::connect(target).await {
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { targets, task })
    }

    fn add(&self, port: u16) {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).push(target);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Balancers at the ports that everybody knows, if there are to be any, and the first controller's own ports.
pub(super) async fn balanced(ports: Ports, balanced: bool) -> Result<(Option<[Balancer; 2]>, Own)> {
    let Ports { internal, passed, .. } = ports;
    if !balanced {
        return Ok((None, Own { internal, passed }));
    }
    let own = Own { internal: free_port()?, passed: free_port()? };
    let balancers = [Balancer::start(internal, own.internal).await?, Balancer::start(passed, own.passed).await?];
    Ok((Some(balancers), own))
}

impl Fleet {
    /// Starts a further controller over the same database, which the balancer leads to as well. Returns its number among
    /// [`Fleet::controllers`].
    pub async fn add_controller(&mut self) -> Result<usize> {
        let balancers = self.balancers.as_ref().context("the installation is not balanced")?;
        let number = self.controllers.len();
        let folder = self.path(&format!("further-{number}"));
        fs::create_dir_all(folder.join("controller"))?;
        fs::set_permissions(folder.join("controller"), fs::Permissions::from_mode(0o700))?;
        for file in ["master.key", "admin.toml"] {
            copy(&self.path("controller").join(file), &folder.join("controller").join(file))?;
        }
        let own = Own { internal: free_port()?, passed: free_port()? };
        let fronts: Vec<_> = self.proxies.iter().map(|proxy| proxy.port).collect();
        let config = controller_config(&folder, self.ports, own, &fronts, &self.wanted)?;
        let process = start_in("ztka-controller", &config, &self.wanted.controller_environment)?;
        wait_for("a further controller", || async {
            TcpStream::connect(("127.0.0.1", own.passed)).await?;
            Ok(())
        })
        .await
        .with_context(|| process.tail())?;
        for (balancer, port) in balancers.iter().zip([own.internal, own.passed]) {
            balancer.add(port);
        }
        self.controllers.push(process);
        ensure!(self.controllers.len() == number + 1, "another one came");
        Ok(number)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{} cannot be copied", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o600))?)
}
