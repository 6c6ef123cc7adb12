//! All proxies are restarted one after the other behind a real balancer, under load: no request that may be repeated fails,
//! and nothing that is open ends before its own proxy's grace is over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use ztka_e2e::{Client, Connection, Exec, Fleet, Haproxy, Installation, Raw, Upstream, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for, wait_for_within};

const PROXIES: usize = 3;
const DELAY: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(60);
/// Between two requests of one caller.
const PACE: Duration = Duration::from_millis(15);
const NAMESPACE: &str = "/api/v1/namespaces/default";
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "web:1"}]}
"#;

/// A client as Go's `net/http` is one: it keeps its connection or not, and repeats a read on a new one where the connection
/// that it has kept turns out to be over before an answer has begun.
struct Caller {
    client: Client,
    version: Version,
    keeps: bool,
    kept: Option<Connection>,
}

impl Caller {
    async fn read(&mut self) -> Result<()> {
        loop {
            let (mut connection, is_kept) = match self.kept.take() {
                Some(connection) => (connection, true),
                None => (self.client.connect(self.version).await.context("a new connection")?, false),
            };
            let answer = match connection.begin(Method::GET, NAMESPACE, "").await {
                Err(_) if is_kept => continue,
                answer => answer.context("the first request of a connection")?,
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await.context("the body of an answer")?.to_bytes();
            ensure!(head.status == StatusCode::OK, "{}: {body:?}", head.status);
            if self.keeps && head.headers.get("connection").is_none_or(|value| value != "close") {
                self.kept = Some(connection);
            }
            return Ok(());
        }
    }
}

/// Reads again and again until the sender is gone; how many were answered.
async fn call(mut caller: Caller, mut stop: watch::Receiver<()>) -> Result<usize> {
    for count in 0.. {
        let read = timeout(BOUND, caller.read()).await.context("no answer")?;
        read.with_context(|| format!("{:?}, keeps: {}, after {count} answers", caller.version, caller.keeps))?;
        if timeout(PACE, stop.changed()).await.is_ok() {
            return Ok(count);
        }
    }
    Ok(0)
}

async fn command(kubectl: Kubectl, stop: watch::Receiver<()>) -> Result<usize> {
    let mut count = 0;
    while stop.has_changed().is_ok() {
        kubectl.ok(["get", "namespaces", "-o", "name"]).await?;
        count += 1;
    }
    Ok(count)
}

async fn is_ready(port: u16) -> Result<()> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

/// What is open by way of one proxy, as tasks that end with it.
struct Open {
    watch: JoinHandle<Result<Instant>>,
    exec: JoinHandle<Result<(Instant, u16, String)>>,
}

async fn open(fleet: &Fleet, alice: &User, proxy: usize) -> Result<Open> {
    let kubectl = fleet.kubectl_by(alice, "dev", fleet.proxies[proxy].port).await?;
    let mut connection = Client::of(&kubectl).await?.connect(Version::HTTP_2).await?;
    let answer = connection.begin(Method::GET, WATCH, "").await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    let watch = tokio::spawn(async move {
        answer.into_body().collect().await.context("a watch broke off")?;
        drop(connection);
        Ok(Instant::now())
    });
    let mut exec = Exec::start(&Raw::of(&kubectl).await?, "web").await?;
    exec.echo("begin").await?;
    let exec = tokio::spawn(async move {
        let (code, reason) = exec.closed().await?;
        Ok((Instant::now(), code, reason))
    });
    Ok(Open { watch, exec })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_a_balancer_fails_no_request_and_ends_nothing_early() -> Result<()> {
    if let Some(why) = Haproxy::missing() {
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
        eprintln!("SKIPPED: {why}");
        return Ok(());
    }
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let wanted = Installation {
        proxies: PROXIES,
        health: true,
        shutdown_delay: format!("{}s", DELAY.as_secs()),
        grace: format!("{}s", GRACE.as_secs()),
        ..Installation::default()
    };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let upstream = Upstream { url: cluster.url(), ca: cluster.ca_path(), token: &account.token_path };
    fleet.cluster_at("acme", "dev", upstream, &[]).await?;
    let token = fleet.ztka(&["--org", "acme", "cluster", "token", "dev"]).await?;
    fleet.start_agent("acme", "dev-too", upstream, &token)?;
    fleet.user("acme", "alice", &[]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let direct = cluster.kubectl();
    wait_for("the default account", || direct.ok(["get", "serviceaccount", "default"])).await?;
    direct.apply(POD).await?;
    direct.ok(["wait", "pod/web", "--for=condition=Ready", "--timeout=30s"]).await?;

    let mut open_by = Vec::new();
    for proxy in 0..PROXIES {
        let health = fleet.proxies[proxy].health.context("no health")?;
        wait_for("a proxy that is ready", || is_ready(health)).await.with_context(|| fleet.tails())?;
        open_by.push(open(&fleet, &alice, proxy).await.with_context(|| fleet.tails())?);
    }
    let haproxy = Haproxy::start(&fleet.proxies).await?;
    let kubectl = fleet.kubectl_by(&alice, "dev", haproxy.port).await?;
    let client = Client::of(&kubectl).await?;
    let (stop, stopped) = watch::channel(());
    let mut load = JoinSet::new();
    for (version, keeps) in [Version::HTTP_11, Version::HTTP_2].into_iter().flat_map(|v| [(v, true), (v, false)]) {
        for _ in 0..2 {
            let caller = Caller { client: client.clone(), version, keeps, kept: None };
            load.spawn(call(caller, stopped.clone()));
        }
    }
    load.spawn(command(kubectl, stopped));

    let mut open_by = open_by.into_iter();
    let mut later: Vec<Open> = open_by.by_ref().collect();
    for proxy in 0..PROXIES {
        let mine = later.remove(0);
        let asked = Instant::now();
        fleet.proxies[proxy].process.signal("TERM")?;
        let ended = timeout(BOUND, mine.watch).await.context("a watch goes on")??;
        let ended = ended.with_context(|| fleet.tails())?.duration_since(asked);
        ensure!(ended >= DELAY + GRACE, "a watch by proxy {proxy} ended after {ended:?}");
        let (ended, code, reason) =
            timeout(BOUND, mine.exec).await.context("an exec goes on")??.with_context(|| fleet.tails())?;
        ensure!((code, reason.contains("the proxy stops")) == (1001, true), "{code} {reason}");
        let ended = ended.duration_since(asked);
        ensure!(ended >= DELAY + GRACE, "an exec by proxy {proxy} ended after {ended:?}");
        for (number, other) in later.iter().enumerate() {
            let is_open = !other.watch.is_finished() && !other.exec.is_finished();
            ensure!(is_open, "proxy {proxy} took what is open {} proxies further with it", number + 1);
        }
        let begun = Instant::now();
        while fleet.proxies[proxy].process.ended()?.is_none() {
            ensure!(begun.elapsed() < BOUND, "proxy {proxy} goes on\n{}", fleet.tails());
            sleep(Duration::from_millis(50)).await;
        }
        fleet.proxies[proxy].restart()?;
        let health = fleet.proxies[proxy].health.context("no health")?;
        wait_for_within(BOUND, "the proxy again", || is_ready(health)).await.with_context(|| fleet.tails())?;
        if let Some(Ok(failed)) = load.try_join_next() {
            failed.with_context(|| format!("while proxy {proxy} was restarted\n{}", fleet.tails()))?;
        }
    }
    drop(stop);
    let mut answered = 0;
    while let Some(ended) = load.join_next().await {
        answered += ended?.with_context(|| fleet.tails())?;
    }
    println!("{answered} requests were answered meanwhile, and none failed");
    ensure!(answered > 500, "only {answered} requests were answered");
    Ok(())
}
