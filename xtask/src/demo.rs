//! `cargo xtask demo`: a real Kubernetes, throwaway or the user's own, behind `ztka up`, and the kubectl lines to try.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};
use ztka_test_cluster::{
    Cluster, Options,
    binaries::{self, Program},
    wait_for,
};

use self::existing::Existing;
use crate::{
    run::{cargo, say},
    workspace,
};

mod existing;
pub(crate) mod rehearsal;

/// The last line before the demo waits.
const READY: &str = "Ctrl-C stops and removes everything.";

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use the cluster of this context of your kubeconfig instead of a throwaway one; needs cluster-admin there. What
    /// the demo makes in it is removed when it stops.
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
}

/// What is there while the demo goes on, and is to go when it ends in whatever way.
struct Stage {
    folder: TempDir,
    existing: Option<Existing>,
    // Gone, with all it runs, when dropped.
    throwaway: Option<Cluster>,
    up: Option<Child>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let folder = tempfile::Builder::new().prefix("ztka-demo-").tempdir()?;
        let mut stage = Stage { folder, existing: None, throwaway: None, up: None };
        let outcome = tokio::select! {
            outcome = demo(args, &mut stage) => outcome,
            stopped = interrupted() => stopped.map(|()| ExitCode::SUCCESS),
        };
        match (outcome, stage.clear().await) {
            (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
            (outcome, cleared) => outcome.and_then(|code| cleared.map(|()| code)),
        }
    })
}

impl Stage {
    async fn clear(self) -> Result<()> {
        if let Some(mut up) = self.up {
            // It may have ended by the same Ctrl-C.
            let _ = up.kill().await;
        }
        if let Some(existing) = &self.existing {
            tokio::select! {
                removed = existing.remove() => removed?,
                _ = interrupted() => return Err(existing.is_left("stopped while it was removed")),
            }
        }
        Ok(())
    }
}

async fn demo(args: &Args, stage: &mut Stage) -> Result<ExitCode> {
    say("building ztka …");
    let built = cargo(&["build", "--quiet", "--package", "ztka-cli"]).status()?;
    ensure!(built.success(), "ztka cannot be built");
    let (upstream, kubectl, namespace) = match &args.context {
        Some(context) => {
            let existing = stage.existing.insert(Existing::new(context).await?);
            let upstream = existing.prepare(stage.folder.path()).await?;
            (upstream, existing.kubectl().to_owned(), Some(existing::NAMESPACE))
        }
        None => {
            let (cluster, upstream) = throwaway().await?;
            stage.throwaway = Some(cluster);
            (upstream, binaries::find_one(Program::Kubectl).await?, None)
        }
    };
    let (data, ztka) = (stage.folder.path().join("data"), workspace::target()?.join("debug/ztka"));
    let installation = Installation { data, ztka, kubectl, namespace };
    say("starting ztka up …");
    stage.up = Some(installation.up(&upstream)?);
    wait_for("ztka up", || async { installation.ztka(&["whoami"]).await }).await?;
    installation.fill().await?;

    let lines = installation.lines();
    if args.check {
        return check(&lines).await;
    }
    say("\nA real Kubernetes is behind ZTKA. In another terminal, try:\n");
    for line in &lines {
        say(&format!("  # {}\n  {}\n", line.about, line.command));
    }
    say(READY);
    std::future::pending().await
}

/// A cluster of our own, with a simulated node so that pods run.
async fn throwaway() -> Result<(Cluster, Upstream)> {
    say("starting a throwaway Kubernetes (the first time its programs are built, which takes some ten minutes) …");
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let kubectl = cluster.kubectl();
    kubectl.ok(["create", "deployment", "web", "--image=web", "--replicas=2"]).await?;
    kubectl.ok(["create", "secret", "generic", "password", "--from-literal=of=somebody"]).await?;
    let (url, ca) = (cluster.url().to_owned(), cluster.ca_path().to_owned());
    Ok((cluster, Upstream { url, ca, token: account.token_path }))
}

struct Installation {
    data: PathBuf,
    ztka: PathBuf,
    kubectl: PathBuf,
    /// The only namespace that the demo's people may touch; all of them if there is none.
    namespace: Option<&'static str>,
}

/// One line to try.
struct Line {
    about: &'static str,
    command: String,
    succeeds: bool,
}

impl Installation {
    fn up(&self, upstream: &Upstream) -> Result<Child> {
        let listen = format!("127.0.0.1:{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let mut up = Command::new(&self.ztka);
        up.args(["up", "--listen", &listen, "--cluster", "demo", "--org", "demo"]).arg("--data").arg(&self.data);
        up.args(["--apiserver", &upstream.url]).arg("--apiserver-ca").arg(&upstream.ca);
        up.arg("--apiserver-token").arg(&upstream.token);
        up.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        up.spawn().context("cannot start ztka up")
    }

    async fn ztka(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.ztka);
        command.arg("--credential").arg(self.data.join("admin.toml")).args(arguments);
        output(command, None).await
    }

    async fn kubectl(&self, user: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig(user)).args(arguments);
        output(command, None).await
    }

    /// Two people: alice may edit, bob may only look.
    async fn fill(&self) -> Result<()> {
        for (user, role) in [("alice", "edit"), ("bob", "view")] {
            let kubeconfig = self.kubeconfig(user);
            let kubeconfig = kubeconfig.to_str().context("the folder's name is not UTF-8")?;
            self.ztka(&["--org", "demo", "user", "create", user]).await?;
            let mut bind =
                vec!["--org", "demo", "binding", "create", user, "--role", role, "--user", user, "--cluster", "demo"];
            bind.extend(self.namespace.iter().flat_map(|namespace| ["--namespace", namespace]));
            self.ztka(&bind).await?;
            self.ztka(&["--org", "demo", "kubeconfig", "--user", user, "--file", kubeconfig]).await?;
            if let Some(namespace) = self.namespace {
                let namespace = format!("--namespace={namespace}");
                self.kubectl(user, &["config", "set-context", "--current", &namespace]).await?;
            }
            wait_for("the cluster behind the proxy", || self.kubectl(user, &["get", "pods"])).await?;
        }
        Ok(())
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.data.join(format!("{user}.kubeconfig"))
    }

    fn lines(&self) -> Vec<Line> {
        let kubectl = |user: &str, what: &str| {
            format!("{} --kubeconfig {} {what}", quoted(&self.kubectl), quoted(self.kubeconfig(user)))
        };
        let ztka = format!("{} --credential {}", quoted(&self.ztka), quoted(self.data.join("admin.toml")));
        let line = |about, command, succeeds| Line { about, command, succeeds };
        // Nobody knows whether the images of the demo could be had in a cluster that is not ours.
        let things = if self.namespace.is_some() { "get configmaps" } else { "get pods" };
        let mut lines = vec![
            line("plain kubectl, through proxy, tunnel and agent", kubectl("alice", things), true),
            line("who the cluster takes alice for", kubectl("alice", "auth whoami"), true),
            line("alice may edit", kubectl("alice", "create configmap hello --from-literal=from=alice"), true),
            line("bob may look", kubectl("bob", "get configmaps"), true),
            line("but not at secrets", kubectl("bob", "get secrets"), false),
        ];
        if self.namespace.is_some() {
            let elsewhere = kubectl("alice", "get configmaps --namespace kube-system");
            lines.push(line("nobody of the demo has anything to do with the rest of your cluster", elsewhere, false));
        }
        lines.push(line("all of it is on record", format!("{ztka} --org demo audit tail"), true));
        lines
    }
}

/// Runs every line as it is printed.
async fn check(lines: &[Line]) -> Result<ExitCode> {
    for line in lines {
        say(&format!("$ {}", line.command));
        let mut command = Command::new("sh");
        let status = command.args(["-c", &line.command]).stdin(Stdio::null()).kill_on_drop(true).status().await?;
        ensure!(status.success() == line.succeeds, "{}: {status}", line.command);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that has to succeed; its standard output.
async fn output(mut command: Command, input: Option<&str>) -> Result<String> {
    use tokio::io::AsyncWriteExt as _;

    let line = command.as_std().get_args().fold(
        Path::new(command.as_std().get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned(),
        |line, argument| line + " " + &argument.to_string_lossy(),
    );
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot run {line}"))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A command that ends before it has read all of its input says so by its exit code.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
    ensure!(output.status.success(), "{line}: {}", said.trim());
    Ok(said.into_owned())
}

/// As a shell takes it for one word.
fn quoted(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@=+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

async fn interrupted() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    say("stopping");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_pasted() {
        assert_eq!(quoted("/tmp/a-b_c/alice.kubeconfig"), "/tmp/a-b_c/alice.kubeconfig");
        assert_eq!(quoted("my cluster"), "'my cluster'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
