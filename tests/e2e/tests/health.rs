//! Health and metrics: on a loopback listener of their own, and nowhere else.

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use ztka_e2e::{Fleet, Installation, free_port};
use ztka_test_cluster::{Cluster, Options, wait_for};

async fn get(port: u16, path: &str) -> Result<String> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_proxy_tells_its_state_on_loopback_and_no_name_of_anybody() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let health = free_port()?;
    let proxy_config = format!("[runtime]\nhealth = '127.0.0.1:{health}'\n");
    let mut fleet = Fleet::start_with(Installation { proxy_config, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "view", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    fleet.kubectl(&alice, "dev").await?.ok(["get", "pods"]).await?;

    ensure!(get(health, "/livez").await?.starts_with("HTTP/1.1 200"), "not alive");
    ensure!(get(health, "/readyz").await?.starts_with("HTTP/1.1 200"), "not ready");
    let metrics = wait_for("the agent's tunnel in the metrics", || async {
        let metrics = get(health, "/metrics").await?;
        ensure!(metrics.contains("\nztka_tunnel_tunnels{end=\"proxy\"} 1"), "{metrics}");
        Ok(metrics)
    });
    let metrics = metrics.await.with_context(|| fleet.tails())?;
    // What somebody has to be woken for.
    for quiet in ["ztka_audit_records_lost_total 0", "ztka_audit_spool_failing 0"] {
        ensure!(metrics.contains(&format!("\n{quiet}\n")), "no {quiet} in\n{metrics}");
    }
    // How old what the proxy knows is: heads come every ten seconds.
    let age = metrics.lines().find_map(|line| line.strip_prefix("ztka_view_age_seconds "));
    let age: f64 = age.context("no ztka_view_age_seconds")?.parse()?;
    ensure!((0.0..60.0).contains(&age), "the proxy's view is {age} s old");
    ensure!(!metrics.contains("alice") && !metrics.contains("acme"), "a name is in the metrics:\n{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_controller_tells_its_state_on_loopback_and_no_name_of_anybody() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let health = free_port()?;
    let controller_config = format!("[runtime]\nhealth = '127.0.0.1:{health}'\n");
    let mut fleet = Fleet::start_with(Installation { controller_config, ..Installation::default() }).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;

    ensure!(get(health, "/livez").await?.starts_with("HTTP/1.1 200"), "not alive");
    ensure!(get(health, "/readyz").await?.starts_with("HTTP/1.1 200"), "not ready");
    let metrics = wait_for("the fleet in the metrics", || async {
        let metrics = get(health, "/metrics").await?;
        for line in [
            "ztka_controller_clusters_connected 1",
            "ztka_controller_feed_subscribers{kind=\"agent\"} 1",
            "ztka_controller_feed_subscribers{kind=\"proxy\"} 1",
            "ztka_controller_enrolments_total{outcome=\"enrolled\"} 2",
            "ztka_controller_api_requests_total{method=\"POST\",route=\"/orgs/{org}/users\",status=\"201\"} 1",
        ] {
            ensure!(metrics.lines().any(|shown| shown == line), "no line {line}:\n{metrics}");
        }
        Ok(metrics)
    });
    let metrics = metrics.await.with_context(|| fleet.tails())?;
    ensure!(!metrics.contains("alice") && !metrics.contains("acme"), "a name is in the metrics:\n{metrics}");
    Ok(())
}
