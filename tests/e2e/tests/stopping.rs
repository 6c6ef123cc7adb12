//! Servers are asked to stop (SIGTERM): what is open has its grace, and then ends in its own words and on record.

use std::{
    fs,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use ztka_e2e::{Client, Exec, Fleet, Installation, Load, Process, Raw, Upstream, User};
use ztka_test_cluster::{Cluster, Options, wait_for, wait_for_within};

const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1";
const NAMESPACE: &str = "/api/v1/namespaces/default";
const BOUND: Duration = Duration::from_secs(60);
const DELAY: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(4);
/// Of an agent: long enough for all that is asked while it leaves, on a busy machine too.
const AGENT_GRACE: Duration = Duration::from_secs(20);
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "web:1"}]}
"#;

/// A cluster with a pod, in front of it the installation with two agents, and alice.
async fn start(wanted: Installation) -> Result<(Fleet, Cluster, User)> {
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let upstream = Upstream { url: cluster.url(), ca: cluster.ca_path(), token: &account.token_path };
    fleet.cluster_at("acme", "dev", upstream, &[]).await?;
    let token = fleet.ztka(&["--org", "acme", "cluster", "token", "dev"]).await?;
    fleet.start_agent("acme", "dev-too", upstream, &token)?;
    let alice = fleet.user("acme", "alice", &[]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", &alice.name).await?;
    let direct = cluster.kubectl();
    wait_for("the default account", || direct.ok(["get", "serviceaccount", "default"])).await?;
    direct.apply(POD).await?;
    direct.ok(["wait", "pod/web", "--for=condition=Ready", "--timeout=30s"]).await?;
    for agent in ["agent-acme-dev.log", "agent-acme-dev-too.log"] {
        wait_for_within(BOUND, "tunnels of both agents", || async {
            let log = fs::read_to_string(fleet.path(agent))?;
            ensure!(log.matches("tunnel is ready").count() >= fleet.proxies.len(), "{log}");
            Ok(())
        })
        .await?;
    }
    Ok((fleet, cluster, alice))
}

/// The end of a record, and why.
fn end(fleet: &Fleet, proxy: usize, id: &str) -> Result<(String, String)> {
    let text = fs::read_to_string(fleet.events_file(proxy))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ends = events.filter(|event| event["auditID"] == id && event["stage"] == "ResponseComplete");
    let event = ends.next().with_context(|| format!("{id} has no end on record"))?;
    let fact = |name: &str| {
        let annotations = event["annotations"].as_object().into_iter().flatten();
        let mut found = annotations.filter(|(key, _)| key.ends_with(&format!("/{name}")));
        found.next().and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
    };
    Ok((fact("end"), fact("reason")))
}

async fn readiness(port: u16) -> Result<u16> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).context("no status")?.parse()?)
}

/// Waits until a program has ended by itself.
async fn ended(process: &mut Process) -> Result<ExitStatus> {
    let ended = wait_for_within(BOUND, "the end of a program", || {
        let ended = process.ended().and_then(|ended| ended.context("it runs"));
        async { ended }
    });
    ended.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gives_what_is_open_its_grace_and_ends_it_in_its_own_words() -> Result<()> {
    let wanted = Installation {
        proxies: 2,
        health: true,
        shutdown_delay: format!("{}s", DELAY.as_secs()),
        grace: format!("{}s", GRACE.as_secs()),
        ..Installation::default()
    };
    let (mut fleet, cluster, alice) = start(wanted).await?;
    let [own, other] = [fleet.proxies[0].port, fleet.proxies[1].port];
    let kubectl = fleet.kubectl_by(&alice, "dev", own).await?;
    let elsewhere = fleet.kubectl_by(&alice, "dev", other).await?;
    let client = Client::of(&kubectl).await?;
    let mut watches = Vec::new();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut connection = client.connect(version).await?;
        let answer = connection.begin(Method::GET, WATCH, "").await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        let id = answer.headers()["audit-id"].to_str()?.to_owned();
        watches.push((version, id, connection, answer.into_body()));
    }
    let mut exec = Exec::start(&Raw::of(&kubectl).await?, "web").await?;
    exec.echo("before").await?;
    let mut session = kubectl.spawn(["exec", "--stdin", "web", "--", "cat"])?;
    session.write("before\n").await?;
    session.read_until("before").await?;
    let mut forward = kubectl.spawn(["port-forward", "pod/web", ":8080"])?;
    forward.read_until("-> 8080").await?;
    let mut kept = client.connect(Version::HTTP_11).await?;
    kept.read(NAMESPACE).await?;
    let load = Load::start(&elsewhere, 2, NAMESPACE).await?;

    let health = fleet.proxies[0].health.context("no health")?;
    ensure!(readiness(health).await? == 200, "not ready");
    let asked = Instant::now();
    fleet.proxies[0].process.signal("TERM")?;
    wait_for("the end of readiness", || async {
        let code = readiness(health).await?;
        ensure!(code == 503, "{code}");
        Ok(())
    })
    .await?;
    // Whoever has not seen it yet is served, and told to go.
    kept.read(NAMESPACE).await.context("a connection that is there")?;
    // What is open goes on.
    exec.echo("meanwhile").await?;
    cluster.kubectl().ok(["create", "configmap", "meanwhile"]).await?;

    for (version, id, connection, body) in watches {
        let text = timeout(BOUND, body.collect()).await.context("a watch goes on")?;
        let text = text.with_context(|| format!("a watch by {version:?} broke off"))?.to_bytes();
        ensure!(text.windows(11).any(|part| part == b"\"meanwhile\""), "{version:?}: no event of the last moment");
        ensure!(asked.elapsed() >= DELAY + GRACE, "{version:?}: ended after {:?}", asked.elapsed());
        let (end, why) = wait_for("the end on record", || async { end(&fleet, 0, &id) }).await?;
        ensure!(end == "stopped" && why == "the proxy stops; connect again", "{version:?}: {end} {why}");
        drop(connection);
    }
    let id = exec.audit_id.clone();
    let (code, reason) = exec.closed().await.with_context(|| fleet.tails())?;
    ensure!((code, reason.as_str()) == (1001, "the proxy stops; connect again"), "{code} {reason}");
    ensure!(asked.elapsed() >= DELAY + GRACE, "exec ended after {:?}", asked.elapsed());
    let (end, why) = wait_for("the end on record", || async { end(&fleet, 0, &id) }).await?;
    ensure!(end == "stopped" && why.contains("stops"), "exec: {end} {why}");
    let code = session.ended().await.context("kubectl exec")?;
    ensure!(code != Some(0), "kubectl takes a session that was ended for one that has ended");
    forward.ended().await.context("kubectl port-forward")?;
    let process = &mut fleet.proxies[0].process;
    let status = ended(process).await.context("the proxy goes on")?;
    ensure!(status.success(), "{status}: {}", process.tail());
    load.go_on(20).await?;
    load.finish().await.with_context(|| fleet.tails())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lets_what_is_open_go_on_for_its_grace_and_another_takes_the_rest() -> Result<()> {
    let agent_config = format!("grace = '{}s'\n", AGENT_GRACE.as_secs());
    let (mut fleet, cluster, alice) = start(Installation { agent_config, ..Installation::default() }).await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;
    let client = Client::of(&kubectl).await?;
    let raw = Raw::of(&kubectl).await?;
    // Enough that some are with either agent: each goes to the one that has fewer.
    let mut watches = Vec::new();
    for _ in 0..6 {
        let mut connection = client.connect(Version::HTTP_2).await?;
        let answer = connection.begin(Method::GET, WATCH, "").await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        watches.push((connection, answer.into_body()));
    }
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Exec::start(&raw, "web").await?);
    }
    let load = Load::start(&kubectl, 3, NAMESPACE).await?;
    load.go_on(20).await?;

    let asked = Instant::now();
    fleet.agents[&("acme".to_owned(), "dev".to_owned())].process.signal("TERM")?;
    for session in &mut sessions {
        session.echo("meanwhile").await.with_context(|| format!("{:?} later\n{}", asked.elapsed(), fleet.tails()))?;
    }
    cluster.kubectl().ok(["create", "configmap", "meanwhile"]).await?;
    load.go_on(50).await.with_context(|| fleet.tails())?;
    let agent = fleet.agents.get_mut(&("acme".to_owned(), "dev".to_owned())).context("no agent")?;
    let status = ended(&mut agent.process).await.context("the agent goes on")?;
    ensure!(status.success(), "{status}: {}", agent.process.tail());
    ensure!(asked.elapsed() >= AGENT_GRACE, "gone after {:?}", asked.elapsed());
    load.go_on(20).await?;
    load.finish().await.with_context(|| fleet.tails())?;

    // Watches that were with it have ended cleanly, the others go on and hear what is new.
    cluster.kubectl().ok(["create", "configmap", "afterwards"]).await?;
    let (mut ended, mut live) = (0, 0);
    for (_connection, mut body) in watches {
        let mut text = Vec::new();
        loop {
            match timeout(BOUND, body.frame()).await.context("neither news nor an end")? {
                Some(frame) => {
                    let frame = frame.context("a watch broke off")?;
                    text.extend_from_slice(&frame.into_data().unwrap_or_default());
                    if text.windows(12).any(|part| part == b"\"afterwards\"") {
                        live += 1;
                        break;
                    }
                }
                None => {
                    ended += 1;
                    break;
                }
            }
        }
        ensure!(text.windows(11).any(|part| part == b"\"meanwhile\""), "it has not heard of the last moment");
    }
    ensure!(ended > 0 && live > 0 && ended + live == 6, "{ended} have ended, {live} go on");
    let (mut ended, mut live) = (0, 0);
    for mut session in sessions {
        match session.echo("afterwards").await {
            Ok(()) => live += 1,
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("agent stops; connect again"), "not in its words: {said}");
                ended += 1;
            }
        }
    }
    ensure!(ended > 0 && live > 0 && ended + live == 4, "{ended} sessions have ended, {live} go on");
    Ok(())
}
