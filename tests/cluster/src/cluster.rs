//! A running cluster and what a test gets from it.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Authority, Identity, Image, Kubectl, Options, Slot, containerd,
    control_plane::{ControlPlane, Credential, write_kubeconfig},
    kubelet, missing_for_level2,
    process::Process,
    simulated, wait_for, wait_for_within,
    watchdog::Watchdog,
};

/// A control plane on a busy small machine takes this long at most.
const START: Duration = Duration::from_secs(180);

/// A real Kubernetes. Everything of it ends and is removed when it is dropped or when the test process dies.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: the watchdog kills what runs, then the processes are waited for.
    _watchdog: Watchdog,
    processes: Vec<Process>,
    plane: ControlPlane,
    options: Options,
    kubectl: Kubectl,
    level: u8,
    slot: Slot,
}

/// A ServiceAccount with everything that a client outside of the cluster needs to use it.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A bearer token, valid for 24 hours.
    pub token: String,
    /// File with the token alone.
    pub token_path: PathBuf,
    /// A kubeconfig with the token.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts a control plane, with simulated nodes if [`Options::nodes`] says so. Ready when it returns.
    ///
    /// # Errors
    /// When a program cannot be had, ends early or is not ready in time: with the end of its log.
    pub async fn level1(options: Options) -> Result<Self> {
        let slot = Slot::claim()?;
        let port = slot.kit_port(2);
        let mut cluster = Self::control_plane(slot, options, 1, Ipv4Addr::LOCALHOST, port).await?;
        if cluster.options.nodes > 0 {
            let scheduler = cluster.plane.start_scheduler(&cluster.slot).await?;
            cluster.processes.push(scheduler);
            let kwok = simulated::start(&cluster.slot, &cluster.plane).await?;
            cluster.processes.push(kwok);
            cluster.kubectl.apply(simulated::nodes(cluster.options.nodes)).await?;
            cluster.nodes_ready("the simulated nodes").await?;
        }
        Ok(cluster)
    }

    /// Starts a control plane and one real node, `node-0`. Needs what [`missing_for_level2`] names.
    ///
    /// The apiserver listens on the address of the `kubernetes` Service, port 443, so pods reach it by the usual
    /// environment variables although no kube-proxy runs.
    ///
    /// # Errors
    /// As [`Cluster::level1`], and when the machine lacks something.
    pub async fn level2(options: Options) -> Result<Self> {
        if let Some(missing) = missing_for_level2() {
            bail!("a cluster with a real node cannot be started here: {missing}");
        }
        let slot = Slot::claim()?;
        let address = slot.service_address();
        let mut cluster = Self::control_plane(slot, options, 2, address, 443).await?;
        let scheduler = cluster.plane.start_scheduler(&cluster.slot).await?;
        cluster.processes.push(scheduler);
        let node = kubelet::start(&cluster.slot, &cluster.plane, &cluster.options.images).await?;
        cluster.processes.push(node);
        cluster.nodes_ready("the real node").await?;
        Ok(cluster)
    }

    /// [`Cluster::level2`], or `None` with a loud line on standard error where it cannot run.
    ///
    /// # Errors
    /// As [`Cluster::level2`]; with `CI=true` also when the machine lacks something.
    pub async fn level2_or_skip(options: Options) -> Result<Option<Self>> {
        match missing_for_level2() {
            Some(missing) if std::env::var("CI").is_ok_and(|ci| ci == "true") => bail!("{missing}"),
            Some(missing) => {
                // Past the capture of the test harness; `cargo xtask test` counts these lines.
                let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED a test with a real node: {missing}");
                Ok(None)
            }
            None => Self::level2(options).await.map(Some),
        }
    }

    async fn control_plane(slot: Slot, options: Options, level: u8, address: Ipv4Addr, port: u16) -> Result<Self> {
        let watchdog = Watchdog::start(&slot, options.logs.as_deref())?;
        if level == 2 {
            kubelet::make_bridge(&slot)?;
        }
        let plane = ControlPlane::prepare(&slot, &options, address, port)?;
        let kubectl = Kubectl::new(&plane.kubeconfig).await?;
        let processes = Vec::new();
        let mut cluster = Self { _watchdog: watchdog, processes, plane, options, kubectl, level, slot };
        cluster.processes.push(ControlPlane::start_etcd(&cluster.slot).await?);
        let apiserver = cluster.plane.start_apiserver(&cluster.slot, &cluster.options).await?;
        cluster.processes.push(apiserver);
        cluster.apiserver_ready().await?;
        if !cluster.options.without_controllers {
            let controllers = cluster.plane.start_controller_manager(&cluster.slot).await?;
            cluster.processes.push(controllers);
            let kubectl = cluster.kubectl();
            let account = || kubectl.ok(["get", "serviceaccount", "default"]);
            cluster.wait("the ServiceAccount default/default", account).await?;
        }
        Ok(cluster)
    }

    async fn apiserver_ready(&self) -> Result<()> {
        let kubectl = self.kubectl.clone().bound(Duration::from_secs(10));
        self.wait("kube-apiserver to be ready", || kubectl.ok(["get", "--raw", "/readyz"])).await?;
        Ok(())
    }

    async fn nodes_ready(&self, what: &str) -> Result<()> {
        let expected = if self.level == 2 { 1 } else { usize::from(self.options.nodes) };
        let path = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        let condition = || async {
            let states = self.kubectl.ok(["get", "nodes", "-o", path]).await?;
            let ready = states.split_whitespace().filter(|state| *state == "True").count();
            ensure!(ready == expected, "{ready} of {expected} nodes are Ready");
            Ok(())
        };
        self.wait(what, condition).await
    }

    /// Waits for a start-up condition; a process that ended fails it at once, with its log.
    async fn wait<T, F, Fut>(&self, what: &str, mut condition: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let outcome = wait_for_within(START, what, || {
            let ended = self.processes.iter().find_map(|process| process.check().err());
            let next = condition();
            async move {
                match ended {
                    Some(error) => Ok(Err(error)),
                    None => next.await.map(Ok),
                }
            }
        });
        match outcome.await {
            Ok(result) => result,
            Err(error) => {
                let logs = self.processes.iter().map(|p| format!("--- end of {}.log\n{}", p.name(), p.log_tail()));
                Err(error.context(logs.collect::<Vec<_>>().join("\n")))
            }
        }
    }

    /// The apiserver's URL: `https://127.0.0.1:<port>`, on level 2 `https://<service address>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.plane.url
    }

    /// The admin kubeconfig: client certificate of `kubernetes-admin` in `system:masters`.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.plane.kubeconfig
    }

    /// kubectl as the admin, straight to the apiserver.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl.clone()
    }

    /// The cluster's authority: for servers and, as Kubernetes has it, for clients.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.plane.authority
    }

    /// File with the certificate that verifies the apiserver.
    #[must_use]
    pub fn ca_path(&self) -> &Path {
        self.plane.authority.path()
    }

    /// The apiserver's own audit log, a JSON event per line.
    #[must_use]
    pub fn audit_log(&self) -> &Path {
        &self.plane.audit_log
    }

    /// The events of the apiserver's own audit log so far; a line that is still being written is left out.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit_events(&self) -> Result<Vec<Value>> {
        let text = match fs::read_to_string(self.audit_log()) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read {}", self.audit_log().display()))?,
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The cluster's place on the machine: its folder and ports for the test's own servers.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// An address of this machine that the pods reach; on level 1, where no pod is real, the loopback address.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        if self.level == 2 { self.slot.bridge_address() } else { Ipv4Addr::LOCALHOST }
    }

    /// A kubeconfig and certificate of `user` in `groups`, straight to the apiserver.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn user(&self, user: &str, groups: &[&str]) -> Result<(PathBuf, Identity)> {
        let identity = self.plane.authority.client(user, groups)?;
        let path = identity.key_path.with_extension("kubeconfig");
        write_kubeconfig(&path, self.url(), &self.plane.authority, &Credential::Certificate(&identity))?;
        Ok((path, identity))
    }

    /// Makes a namespace and a ServiceAccount in it that is cluster-admin, as an agent's owner would, and its token.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn admin_service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount> {
        let manifest = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } },
            { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
              "metadata": { "name": format!("{namespace}-{name}") },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
              "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }] },
        ]});
        self.kubectl.apply(manifest.to_string()).await?;
        let args = ["create", "token", name, "--namespace", namespace, "--duration=24h"];
        let token = wait_for("a token of the ServiceAccount", || self.kubectl.ok(args)).await?.trim().to_owned();
        let base = self.slot.folder().join(format!("{namespace}-{name}"));
        let (token_path, kubeconfig) = (base.with_extension("token"), base.with_extension("kubeconfig"));
        fs::write(&token_path, &token)?;
        write_kubeconfig(&kubeconfig, self.url(), &self.plane.authority, &Credential::Token(&token))?;
        Ok(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned(), token, token_path, kubeconfig })
    }

    /// Level 2: brings one more image into the node.
    ///
    /// # Errors
    /// When the image cannot be made or containerd refuses it; on level 1.
    pub async fn import_image(&self, image: &Image) -> Result<()> {
        ensure!(self.level == 2, "simulated nodes run no images");
        containerd::import(&self.slot, image).await
    }

    /// Kills the apiserver (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_apiserver(&self) -> Result<()> {
        self.processes.get(1).context("there is no apiserver")?.kill()
    }

    /// Starts the apiserver again after [`Cluster::kill_apiserver`] and waits until it is ready.
    ///
    /// # Errors
    /// As [`Cluster::level1`].
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let apiserver = self.plane.start_apiserver(&self.slot, &self.options).await?;
        *self.processes.get_mut(1).context("there is no apiserver")? = apiserver;
        self.apiserver_ready().await
    }

    /// The end of a process' log (`etcd`, `kube-apiserver`, …), for a failing test.
    #[must_use]
    pub fn log_tail(&self, process: &str) -> String {
        crate::tail(&self.slot.folder().join(format!("{process}.log")), 40)
    }
}
