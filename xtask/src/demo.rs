//! `cargo xtask demo`: a throwaway real Kubernetes behind `ztka up`, and the kubectl lines to try.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};
use ztka_test_cluster::{
    Cluster, Kubectl, Options,
    binaries::{self, Program},
    wait_for,
};

use crate::{
    run::{cargo, say},
    workspace,
};

/// What the agent may do in a cluster, for clusters that somebody has already.
const AGENT_RBAC: &str = include_str!("../../ztka-agent/src/accounts/agent-rbac.yaml");

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use the cluster of this context of your kubeconfig instead of a throwaway one; needs cluster-admin there, and
    /// leaves the namespace ztka-system behind.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Run the lines once instead of waiting for Ctrl-C.
    #[arg(long)]
    check: bool,
}

/// Where the agent finds its apiserver and how it shows itself there.
struct Upstream {
    url: String,
    ca: PathBuf,
    token: PathBuf,
    // Gone, with all it runs, when dropped.
    _cluster: Option<Cluster>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        // Dropped in every case, so that nothing is left behind.
        tokio::select! {
            outcome = demo(args) => outcome,
            stopped = interrupted() => stopped.map(|()| ExitCode::SUCCESS),
        }
    })
}

async fn demo(args: &Args) -> Result<ExitCode> {
    say("building ztka …");
    let built = cargo(&["build", "--quiet", "--package", "ztka-cli"]).status()?;
    ensure!(built.success(), "ztka cannot be built");
    let folder = tempfile::Builder::new().prefix("ztka-demo-").tempdir()?;
    let upstream = match &args.context {
        Some(context) => existing(context, folder.path()).await?,
        None => throwaway().await?,
    };
    let installation = Installation { data: folder.path().join("data"), ztka: workspace::target()?.join("debug/ztka") };
    say("starting ztka up …");
    let _up = installation.up(&upstream).await?;
    installation.fill().await?;

    let kubectl = binaries::find_one(Program::Kubectl).await?;
    let lines = installation.lines(&kubectl);
    if args.check {
        return check(&lines).await;
    }
    say("\nA real Kubernetes is behind ZTKA. In another terminal, try:\n");
    for line in &lines {
        say(&format!("  # {}\n  {}\n", line.about, line.command));
    }
    say("Ctrl-C stops and removes everything.");
    std::future::pending().await
}

/// A cluster of our own, with a simulated node so that pods run.
async fn throwaway() -> Result<Upstream> {
    say("starting a throwaway Kubernetes (the first time its programs are built, which takes some ten minutes) …");
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let kubectl = cluster.kubectl();
    kubectl.ok(["create", "deployment", "web", "--image=web", "--replicas=2"]).await?;
    kubectl.ok(["create", "secret", "generic", "password", "--from-literal=of=somebody"]).await?;
    let (url, ca) = (cluster.url().to_owned(), cluster.ca_path().to_owned());
    Ok(Upstream { url, ca, token: account.token_path, _cluster: Some(cluster) })
}

/// A cluster that the user has: prepared by their own kubeconfig.
async fn existing(context: &str, folder: &Path) -> Result<Upstream> {
    let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let kubeconfig = kubeconfig.or(home).context("neither KUBECONFIG nor HOME is set")?;
    let kubectl = Kubectl::new(kubeconfig).await?.context(context);
    kubectl.apply(AGENT_RBAC).await?;
    let token = kubectl.ok(["create", "token", "ztka-agent", "--namespace=ztka-system", "--duration=8h"]).await?;
    let view = kubectl.ok(["config", "view", "--minify", "--flatten", "--output=json"]).await?;
    let view: Value = serde_json::from_str(&view)?;
    let cluster = view.pointer("/clusters/0/cluster").context("the context has no cluster")?;
    let text = |key: &str| cluster.get(key).and_then(Value::as_str);
    let url = text("server").context("the cluster has no server")?.to_owned();
    let ca = text("certificate-authority-data").context("the cluster has no certificate-authority-data")?;
    let decoded = BASE64_STANDARD.decode(ca).context("certificate-authority-data is not base64")?;
    let (ca, token_file) = (folder.join("ca.crt"), folder.join("token"));
    fs::write(&ca, decoded)?;
    fs::write(&token_file, token.trim())?;
    Ok(Upstream { url, ca, token: token_file, _cluster: None })
}

struct Installation {
    data: PathBuf,
    ztka: PathBuf,
}

/// One line to try.
struct Line {
    about: &'static str,
    command: String,
    succeeds: bool,
}

impl Installation {
    async fn up(&self, upstream: &Upstream) -> Result<Child> {
        let listen = format!("127.0.0.1:{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let up = Command::new(&self.ztka)
            .args(["up", "--listen", &listen, "--cluster", "demo", "--org", "demo"])
            .arg("--data")
            .arg(&self.data)
            .args(["--apiserver", &upstream.url])
            .arg("--apiserver-ca")
            .arg(&upstream.ca)
            .arg("--apiserver-token")
            .arg(&upstream.token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start ztka up")?;
        wait_for("ztka up", || async { self.ztka(&["whoami"]).await }).await?;
        Ok(up)
    }

    async fn ztka(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.ztka);
        command.arg("--credential").arg(self.data.join("admin.toml")).args(arguments).stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        ensure!(output.status.success(), "ztka {}: {said}", arguments.join(" "));
        Ok(said.into_owned())
    }

    /// Two people: alice may edit, bob may only look.
    async fn fill(&self) -> Result<()> {
        for (user, role) in [("alice", "edit"), ("bob", "view")] {
            let kubeconfig = self.kubeconfig(user);
            let kubeconfig = kubeconfig.to_str().context("the folder's name is not UTF-8")?;
            self.ztka(&["--org", "demo", "user", "create", user]).await?;
            let bind =
                ["--org", "demo", "binding", "create", user, "--role", role, "--user", user, "--cluster", "demo"];
            self.ztka(&bind).await?;
            self.ztka(&["--org", "demo", "kubeconfig", "--user", user, "--file", kubeconfig]).await?;
            let kubectl = Kubectl::new(kubeconfig).await?;
            wait_for("the cluster behind the proxy", || async { kubectl.ok(["get", "pods"]).await }).await?;
        }
        Ok(())
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.data.join(format!("{user}.kubeconfig"))
    }

    fn lines(&self, kubectl: &Path) -> Vec<Line> {
        let kubectl = |user: &str, what: &str| {
            format!("{} --kubeconfig {} {what}", kubectl.display(), self.kubeconfig(user).display())
        };
        let ztka = format!("{} --credential {}", self.ztka.display(), self.data.join("admin.toml").display());
        let line = |about, command, succeeds| Line { about, command, succeeds };
        vec![
            line("plain kubectl, through proxy, tunnel and agent", kubectl("alice", "get pods"), true),
            line("who the cluster takes alice for", kubectl("alice", "auth whoami"), true),
            line("alice may edit", kubectl("alice", "create configmap hello --from-literal=from=alice"), true),
            line("bob may look", kubectl("bob", "get configmaps"), true),
            line("but not at secrets", kubectl("bob", "get secrets"), false),
            line("all of it is on record", format!("{ztka} --org demo audit tail"), true),
        ]
    }
}

/// Runs every line as it is printed.
async fn check(lines: &[Line]) -> Result<ExitCode> {
    for line in lines {
        say(&format!("$ {}", line.command));
        let status = Command::new("sh").args(["-c", &line.command]).stdin(Stdio::null()).status().await?;
        ensure!(status.success() == line.succeeds, "{}: {status}", line.command);
    }
    Ok(ExitCode::SUCCESS)
}

async fn interrupted() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    say("stopping");
    Ok(())
}
