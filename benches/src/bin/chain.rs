//! Starts an upstream and a whole installation in front of it, and measures both with `path`.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Deserialize;
use tempfile::TempDir;
use ztka_benches::{Kind, Paths, Process, Target, Upstream, load, process::Running, upstream};
use ztka_e2e::{Fleet, Installation};
use ztka_test_cluster::{BUSYBOX, Cluster, Options, wait_for};

/// Bytes of the long download; what `path` asks for by itself.
const DOWNLOAD: u64 = 1024 << 20;

/// What the way of a request through ZTKA costs, beside direct access and HAProxy
#[derive(Parser)]
struct Arguments {
    /// Measure in front of a real kube-apiserver instead of the small fast upstream
    #[arg(long)]
    apiserver: bool,
    /// Everything else is for `path`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    path: Vec<String>,
}

/// What is at the end of the way, and how the agent shows itself there.
struct End {
    upstream: Upstream,
    token: PathBuf,
    // Gone when dropped.
    _running: (Option<Running>, Option<Cluster>),
}

/// The part of a credential file that load needs.
#[derive(Deserialize)]
struct Credential {
    ca_bundle: String,
    chain: String,
    key: String,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { apiserver, path } = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let end = if apiserver { real(&folder).await? } else { fast(&folder)? };
    let (fleet, target) = chain(&folder, &end).await?;
    let (upstream_file, ztka_file) = (folder.path().join("upstream.json"), folder.path().join("ztka.json"));
    fs::write(&upstream_file, serde_json::to_vec(&end.upstream)?)?;
    fs::write(&ztka_file, serde_json::to_vec(&target)?)?;
    let mut command = Command::new(beside("path")?);
    command.arg("--upstream").arg(upstream_file).arg("--ztka").arg(ztka_file).args(path);
    let status = command.status().context("cannot run path")?;
    drop(fleet);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn beside(name: &str) -> Result<PathBuf> {
    let program = env::current_exe()?.with_file_name(name);
    ensure!(program.is_file(), "{} is not built; use: cargo xtask bench path", program.display());
    Ok(program)
}

fn fast(folder: &TempDir) -> Result<End> {
    let files = folder.path().join("upstream");
    fs::create_dir_all(&files)?;
    let args = ["--folder".as_ref(), files.as_os_str()];
    let mut running = Running::start(beside("bench-upstream")?, args, &files.join("log"))?;
    let file = files.join(upstream::FILE);
    let upstream = running.wait_for("the upstream", || file.exists().then(|| Upstream::read(&file)))??;
    let token = files.join("token");
    fs::write(&token, "agent")?;
    Ok(End { upstream, token, _running: (Some(running), None) })
}

/// A real kube-apiserver, with a real node if this machine can have one: exec and the download need a pod.
async fn real(folder: &TempDir) -> Result<End> {
    let (cluster, pod) = match Cluster::level2_or_skip(Options::default()).await? {
        Some(cluster) => (cluster, true),
        None => (Cluster::level1(Options::default()).await?, false),
    };
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let (_, client) = cluster.user("load", &["system:masters"])?;
    let paths = fill(&cluster, pod).await?;
    let authority = cluster.url().trim_start_matches("https://");
    let address = authority.parse().or_else(|_| format!("{authority}:443").parse())?;
    let target = Target {
        name: "direct".into(),
        address,
        server_name: "localhost".into(),
        ca: cluster.ca_path().into(),
        certificate: client.certificate_path.clone(),
        key: client.key_path.clone(),
        path_prefix: String::new(),
        processes: Vec::new(),
    };
    let token = folder.path().join("token");
    fs::copy(&account.token_path, &token)?;
    let upstream = Upstream { kind: Kind::Apiserver, target, paths };
    Ok(End { upstream, token, _running: (None, Some(cluster)) })
}

/// What is asked for: an object of 2 KB, a list of 1 MB, and with a `pod` its web server and exec into it.
async fn fill(cluster: &Cluster, pod: bool) -> Result<Paths> {
    let kubectl = cluster.kubectl();
    kubectl.ok(["create", "configmap", "small", &format!("--from-literal=text={}", "x".repeat(1900))]).await?;
    kubectl.ok(["create", "namespace", "list"]).await?;
    let object = |number: usize| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": format!("object-{number}"), "namespace": "list" },
            "data": { "text": "x".repeat(10_000) },
        })
    };
    let objects: Vec<_> = (0..100).map(object).collect();
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let created = kubectl.run_with_input(["create", "--filename", "-"], list.to_string()).await?;
    ensure!(created.success(), "the list cannot be made: {created:?}");
    let mut paths = Paths {
        list: Some("/api/v1/namespaces/list/configmaps".into()),
        download: None,
        exec: None,
        ..Paths::default()
    };
    if pod {
        let script = format!("mkdir /www; truncate -s {DOWNLOAD} /www/big; exec httpd -f -p 8080 -h /www");
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "echo" },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            }]},
        });
        kubectl.apply(pod.to_string()).await?;
        kubectl.ok(["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).await?;
        paths.download = Some("/api/v1/namespaces/default/pods/echo:8080/proxy/big".into());
        paths.exec = Paths::default().exec;
    }
    Ok(paths)
}

/// Controller, proxy and agent in front of `end`, and a user who may do everything.
async fn chain(folder: &TempDir, end: &End) -> Result<(Fleet, Target)> {
    // One user holds ten thousand watches here.
    let proxy_config =
        "limits.user_streams = 20000\nlimits.cluster_streams = 20000\nlimits.user_resets_burst = 100000\nlimits.user_new_connections_burst = 100000\nlimits.new_connections_burst = 100000\n".into();
    let mut fleet =
        Fleet::start_with(Installation { event_files: false, proxy_config, ..Installation::default() }).await?;
    fleet.org("bench").await?;
    let direct = &end.upstream.target;
    let at = ztka_e2e::Upstream { url: &format!("https://{}", direct.address), ca: &direct.ca, token: &end.token };
    fleet.cluster_at("bench", "upstream", at, &[]).await?;
    fleet.ztka(&["--org", "bench", "user", "create", "load"]).await?;
    fleet.bind("bench", "load", "cluster-admin", "upstream").await?;
    let file = folder.path().join("load.toml");
    let file = file.to_str().context("the temporary folder is not UTF-8")?;
    fleet.ztka(&["--org", "bench", "credential", "--user", "load", "--file", file]).await?;
    let credential: Credential = toml::from_str(&fs::read_to_string(file)?)?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let clusters = fleet.ztka_json("bench", &["cluster", "list"]).await?;
    let server_name = clusters.pointer("/0/server_name").and_then(serde_json::Value::as_str);
    let agent = fleet.agents.values().next().context("no agent")?;
    let proxy = fleet.proxies.first().context("no proxy")?;
    let process = |name: &str, pid| Process { name: name.into(), pid };
    let target = Target {
        name: "ZTKA".into(),
        address: ([127, 0, 0, 1], fleet.front()).into(),
        server_name: server_name.context("the cluster has no server name")?.into(),
        ca: write("ca.pem", &credential.ca_bundle)?,
        certificate: write("load.pem", &credential.chain)?,
        key: write("load.key", &credential.key)?,
        path_prefix: String::new(),
        processes: vec![process("proxy", proxy.process.pid()), process("agent", agent.process.pid())],
    };
    wait_for("an answer through the chain", || async { answers(&target, &end.upstream.paths.get) })
        .await
        .with_context(|| fleet.tails())?;
    Ok((fleet, target))
}

fn answers(target: &Target, path: &str) -> Result<()> {
    // A runtime of its own, which is not to be entered from within one.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| load::once(target, path).map(drop));
        asked.join().unwrap_or_else(|_| anyhow::bail!("the request panicked"))
    })
}
