//! A cluster that the user has: what the demo makes in it, by the user's own kubeconfig, and how that is removed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::process::Command;
use ztka_test_cluster::binaries::{self, Program};

use super::{Upstream, output, quoted};
use crate::run::say;

/// What the agent may do in a cluster.
const AGENT_RBAC: &str = include_str!("../../../ztka-agent/src/accounts/agent-rbac.yaml");
/// The agent's own namespace.
const SYSTEM: &str = "ztka-system";
/// Where the demo's people may do something.
pub(super) const NAMESPACE: &str = "ztka-demo";
/// Marks what the agent needs and what it makes.
const LABELLED: &str = "app.kubernetes.io/managed-by in (ztka,ztka-agent)";

/// One context of the user's kubeconfig.
pub(super) struct Existing {
    kubectl: PathBuf,
    context: String,
    /// True as soon as something may have been made.
    is_touched: bool,
}

impl Existing {
    pub(super) async fn new(context: &str) -> Result<Self> {
        // The user's own, which knows their cluster and its plugins.
        let path = env::var_os("PATH").unwrap_or_default();
        let own = env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
        let kubectl = match own {
            Some(own) => own,
            None => binaries::find_one(Program::Kubectl).await?,
        };
        Ok(Self { kubectl, context: context.to_owned(), is_touched: false })
    }

    pub(super) fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// In the user's own environment: a list of files in `KUBECONFIG` and plugins for credentials work as they always do.
    async fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg(format!("--context={}", self.context)).args(arguments);
        output(command, input).await
    }

    /// Makes what the agent needs, and a namespace for the demo's people.
    pub(super) async fn prepare(&mut self, folder: &Path) -> Result<Upstream> {
        let (url, ca) = self.server().await?;
        let mut found =
            self.run(&["get", "namespaces", SYSTEM, NAMESPACE, "--ignore-not-found", "-o=name"], None).await?;
        found +=
            &self.run(&["get", "clusterroles,clusterrolebindings", "--selector", LABELLED, "-o=name"], None).await?;
        if !found.is_empty() {
            let found = found.split_whitespace().collect::<Vec<_>>().join(", ");
            bail!(
                "the cluster has something of ZTKA already ({found}), and a demo would get into its way. Use another \
                 cluster; or, if it is what a demo left that was killed, remove it:\n{}",
                self.removal()
            );
        }
        say(&format!(
            "in the cluster at {url} the demo makes the namespaces {SYSTEM} and {NAMESPACE}, and roles and bindings \
             labelled {LABELLED}; it removes them when it stops. Should it be killed, remove them by\n{}",
            self.removal()
        ));
        self.is_touched = true;
        self.run(&["apply", "--filename=-"], Some(AGENT_RBAC)).await?;
        self.run(&["create", "namespace", NAMESPACE], None).await?;
        let namespace = format!("--namespace={SYSTEM}");
        let text = self.run(&["create", "token", "ztka-agent", &namespace, "--duration=8h"], None).await?;
        let (ca_file, token) = (folder.join("ca.crt"), folder.join("token"));
        fs::write(&ca_file, ca)?;
        fs::write(&token, text.trim())?;
        Ok(Upstream { url, ca: ca_file, token })
    }

    /// URL and CA of the apiserver.
    async fn server(&self) -> Result<(String, Vec<u8>)> {
        let view = self.run(&["config", "view", "--minify", "--flatten", "--raw", "--output=json"], None).await?;
        let view: Value = serde_json::from_str(&view)?;
        let cluster = view.pointer("/clusters/0/cluster").context("the context has no cluster")?;
        for unsupported in ["tls-server-name", "proxy-url", "insecure-skip-tls-verify"] {
            let is_set = cluster.get(unsupported).is_some_and(|value| !matches!(value, Value::Bool(false)));
            ensure!(
                !is_set,
                "the cluster of the context has {unsupported}, which the agent cannot use; choose another"
            );
        }
        let text = |key: &str| cluster.get(key).and_then(Value::as_str);
        let url = text("server").context("the cluster of the context has no server")?;
        let ca = text("certificate-authority-data").context(
            "the cluster of the context names no certificate-authority: the agent needs the CA of the apiserver's \
             certificate; add it by: kubectl config set-cluster NAME --certificate-authority=FILE --embed-certs",
        )?;
        Ok((url.to_owned(), BASE64_STANDARD.decode(ca).context("certificate-authority-data is not base64")?))
    }

    fn removals() -> [Vec<&'static str>; 3] {
        [
            // First what gives power.
            vec!["delete", "clusterrolebindings,clusterroles", "--selector", LABELLED],
            vec!["delete", "rolebindings,roles", "--all-namespaces", "--selector", LABELLED],
            vec!["delete", "namespace", NAMESPACE, SYSTEM, "--ignore-not-found", "--timeout=90s"],
        ]
    }

    /// The same as lines for a shell.
    fn removal(&self) -> String {
        let start = format!("  {} --context={}", quoted(&self.kubectl), quoted(&self.context));
        let line = |words: &Vec<&str>| words.iter().fold(start.clone(), |line, word| line + " " + &quoted(word));
        Self::removals().iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Removes everything that was made, also by the agent. Others' objects are not touched: with some of those labels
    /// or names there before, nothing would have been made.
    pub(super) async fn remove(&self) -> Result<()> {
        if !self.is_touched {
            return Ok(());
        }
        say("removing what the demo made in your cluster …");
        // What one of them cannot remove is no reason to leave the rest.
        let mut failed = None;
        for arguments in Self::removals() {
            failed = self.run(&arguments, None).await.err().or(failed);
        }
        failed.map_or(Ok(()), |error| Err(error.context(self.is_left("not all could be removed"))))
    }

    /// Tells the user what to do themselves.
    pub(super) fn is_left(&self, why: &str) -> Error {
        anyhow!("something of the demo is left in your cluster ({why}); remove it by\n{}", self.removal())
    }
}
