//! The same command straight to the apiserver and through the installation, and what of the two outputs must be alike.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_test_cluster::{Cluster, Kubectl, Options, Output};

use crate::{Fleet, User};

/// Namespaces for commands that change something: of one length, so that tables have the same widths.
pub const DIRECT: &str = "direct1";
/// See [`DIRECT`].
pub const THROUGH: &str = "through";

/// One cluster `dev` of the organisation `acme`, and kubectl of its `cluster-admin` `alice` in two ways.
#[derive(Debug)]
pub struct Both {
    /// The installation.
    pub fleet: Fleet,
    /// The cluster.
    pub cluster: Cluster,
    /// The user.
    pub alice: User,
    /// Straight to the apiserver, as its own administrator.
    pub direct: Kubectl,
    /// As alice, through proxy and agent.
    pub through: Kubectl,
}

impl Both {
    /// Starts a cluster of level 1 and an installation around it.
    pub async fn start(options: Options) -> Result<Self> {
        Self::around(Cluster::level1(options).await?).await
    }

    /// Starts the usual installation around a cluster.
    pub async fn around(cluster: Cluster) -> Result<Self> {
        Self::in_fleet(cluster, Fleet::start().await?).await
    }

    /// Enters a cluster into a fresh installation.
    pub async fn in_fleet(cluster: Cluster, mut fleet: Fleet) -> Result<Self> {
        fleet.org("acme").await?;
        fleet.cluster("acme", "dev", &cluster, &["env=dev"]).await?;
        fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
        fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
        let alice = fleet.kubeconfig("acme", "alice").await?;
        let through = fleet.kubectl(&alice, "dev").await?;
        let direct = cluster.kubectl();
        Ok(Self { fleet, cluster, alice, direct, through })
    }

    /// A user with one role on the cluster, and their kubectl.
    pub async fn colleague(&self, name: &str, role: &str) -> Result<(User, Kubectl)> {
        self.fleet.ztka(&["--org", "acme", "user", "create", name]).await?;
        self.fleet.bind("acme", name, role, "dev").await?;
        let user = self.fleet.kubeconfig("acme", name).await?;
        let kubectl = self.fleet.kubectl(&user, "dev").await?;
        Ok((user, kubectl))
    }

    /// Runs a command (words, separated by spaces) both ways and requires the same answer; returns it.
    pub async fn same(&self, words: &str) -> Result<String> {
        let arguments: Vec<_> = words.split(' ').collect();
        let direct = self.direct.run(&arguments).await?;
        let through = self.through.run(&arguments).await?;
        alike(words, &direct, &through)
    }

    /// Runs a command that changes something in each one's own namespace, with the same standard input.
    pub async fn same_in_own(&self, arguments: &[&str], input: &str) -> Result<String> {
        let run = async |kubectl: &Kubectl, namespace: &str| {
            let mut all = vec!["--namespace", namespace];
            all.extend(arguments);
            kubectl.run_with_input(all, input).await
        };
        let direct = run(&self.direct, DIRECT).await?;
        let through = run(&self.through, THROUGH).await?;
        alike(&arguments.join(" "), &direct, &through)
    }
}

fn alike(line: &str, direct: &Output, through: &Output) -> Result<String> {
    let (stdout, stderr) = (normal(&through.stdout), normal(&through.stderr));
    ensure!(
        (direct.code, normal(&direct.stdout), normal(&direct.stderr)) == (through.code, stdout, stderr),
        "kubectl {line}: not the same\n=== direct: {:?}\n{}{}\n=== through: {:?}\n{}{}",
        direct.code,
        direct.stdout,
        direct.stderr,
        through.code,
        through.stdout,
        through.stderr,
    );
    Ok(through.stdout.clone())
}

/// The text without what two runs never have in common: ages and times, versions and ids of objects, the namespace.
fn normal(text: &str) -> String {
    if let Ok(mut json) = serde_json::from_str::<Value>(text) {
        strip(&mut json);
        return json.to_string().replace(DIRECT, THROUGH);
    }
    let lines = text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" "));
    // An age of another width moves the columns.
    let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").replace(DIRECT, THROUGH)
}

fn word(word: &str) -> &str {
    let bare = word.trim_matches(['(', ')', '"', ',']);
    let is_age = bare.ends_with(['s', 'm', 'h', 'd'])
        && bare.starts_with(|c: char| c.is_ascii_digit())
        && bare.chars().all(|c| c.is_ascii_digit() || "smhd.".contains(c));
    let is_id = bare.len() == 36 && bare.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let is_time = bare.len() == 20 && bare.ends_with('Z') && bare.contains('T');
    if is_age || is_id || is_time { "*" } else { word }
}

fn strip(json: &mut Value) {
    match json {
        Value::Object(map) => {
            for own in ["uid", "resourceVersion", "creationTimestamp", "time", "lastUpdateTime", "lastTransitionTime"] {
                map.remove(own);
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The requests that the apiserver saw of the user's account, by its own audit log.
///
/// # Errors
/// The log cannot be read.
pub fn seen_of(cluster: &Cluster, holds: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    let events = cluster.audit_events().context("the apiserver's audit log")?;
    Ok(events.into_iter().filter(|event| holds(event)).collect())
}
