//! A backup is restored under proxies and agents that have seen newer versions, and moves an installation to PostgreSQL.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use ztka_e2e::{Fleet, Load};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};
use ztka_test_postgres::Server;

const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn forbidden(kubectl: &Kubectl, fleet: &Fleet) -> Result<()> {
    wait_for("the end of the permission", || async {
        let output = kubectl.run(["get", "configmaps"]).await?;
        ensure!(!output.success() && output.stderr.contains("Forbidden"), "{}{}", output.stdout, output.stderr);
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())
}

async fn allowed(kubectl: &Kubectl, fleet: &Fleet) -> Result<()> {
    let again = || kubectl.ok(["get", "configmaps", "-o", "name"]);
    wait_for("the permission again", again).await.map(drop).with_context(|| fleet.tails())
}

/// Arguments, one behind the other.
fn all<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

#[tokio::test]
async fn what_was_restored_is_believed_by_those_who_had_seen_newer_versions() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    for user in ["alice", "bob"] {
        fleet.ztka(&["--org", "acme", "user", "create", user]).await?;
        fleet.bind("acme", user, "cluster-admin", "dev").await?;
    }
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let bob = fleet.kubeconfig("acme", "bob").await?;
    let (alice, bob) = (fleet.kubectl(&alice, "dev").await?, fleet.kubectl(&bob, "dev").await?);

    let (passphrase, file, data) = (fleet.path("passphrase"), fleet.path("backup"), fleet.path("controller"));
    fs::write(&passphrase, "correct horse battery\n")?;
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))?;
    let place = ["--passphrase-file", text(&passphrase)?, "--file", text(&file)?];
    let here = ["--data", text(&data)?];
    // While users and the controller are at work.
    let load = Load::start(&bob, 2, NAMESPACE).await?;
    let told = fleet.ztka(&all(&[&["backup", "--verify"], &place, &here])).await?;
    assert!(told.starts_with("backed up and verified") && told.contains("3 users, 1 clusters"), "{told}");
    assert!(fleet.ztka(&all(&[&["backup"], &place, &here])).await.is_err(), "never over another one");
    let bytes = fs::read(&file)?;
    assert!(!bytes.windows(5).any(|some| some == b"alice"), "a name can be read in the backup");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);

    // Everybody goes on to newer versions.
    fleet.ztka(&["--org", "acme", "binding", "delete", "alice-cluster-admin-dev"]).await?;
    for number in 0..5 {
        let name = format!("later-{number}");
        fleet.ztka(&["--org", "acme", "role", "create", &name, "--verb", "get", "--resource", "pods"]).await?;
    }
    forbidden(&alice, &fleet).await?;

    // Not under a controller that is at work, and not over an installation without a word.
    let restore = |more: &[&'static str]| all(&[&["restore"], &place, &here, more]);
    let refused = fleet.ztka(&restore(&["--force"])).await.err().context("a controller runs")?.to_string();
    assert!(refused.contains("stop every controller"), "{refused}");
    fleet.controller.kill();
    let refused = fleet.ztka(&restore(&[])).await.err().context("something is there")?.to_string();
    assert!(refused.contains("--force"), "{refused}");
    assert!(fleet.ztka(&restore(&["--check"])).await?.starts_with("whole"));
    // Nor with another master key than that of the time, which is said before anything is written.
    let other = fleet.path("other-master.key");
    fs::write(&other, "0".repeat(64))?;
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600))?;
    let with_other = all(&[&["restore"], &place, &here, &["--force", "--master-key-file", text(&other)?]]);
    let refused = fleet.ztka(&with_other).await.err().context("another master key")?.to_string();
    assert!(refused.contains("give the master key of that time"), "{refused}");
    let told = fleet.ztka(&restore(&["--force"])).await?;
    assert!(told.starts_with("restored") && told.contains("master key fits"), "{told}");
    fleet.restart_controller()?;
    allowed(&alice, &fleet).await?;
    let roles = fleet.ztka_json("acme", &["role", "list"]).await?;
    assert!(!roles.to_string().contains("later-"), "{roles}");
    let events = fleet.ztka(&["--output", "json", "audit", "tail", "--lines", "100"]).await?;
    assert!(events.contains("\"restore\""), "the restore is on record: {events}");
    // And changes go on from there.
    fleet.ztka(&["--org", "acme", "binding", "delete", "alice-cluster-admin-dev"]).await?;
    forbidden(&alice, &fleet).await?;

    // The same backup again, into the other database: users of whom nothing has changed notice nothing.
    if let Some(server) = Server::shared_or_skip()? {
        let database = server.database()?;
        fleet.controller.kill();
        let there = ["restore", "--database", &database];
        fleet.ztka(&all(&[&there, &place])).await?;
        let config = fleet.path("controller.toml");
        let moved = fs::read_to_string(&config)?.replacen("front =", &format!("database = '{database}'\nfront ="), 1);
        fs::write(&config, moved)?;
        fleet.restart_controller()?;
        allowed(&alice, &fleet).await?;
        fleet.ztka(&["--org", "acme", "binding", "delete", "alice-cluster-admin-dev"]).await?;
        forbidden(&alice, &fleet).await?;
    }
    load.go_on(50).await?;
    load.finish().await.with_context(|| fleet.tails())?;
    Ok(())
}
