//! What is planted by way of the API is not in the database's files; keys are replaced and an organisation is deleted by the
//! command line, under a controller that serves.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::Fleet;
use ztka_test_cluster::wait_for;

const USER: &str = "planted-user@example.com";
const RULE: &str = "planted-in-a-rule";
const BOUND: &str = "planted-in-a-binding@example.com";
const SCOPE: &str = "planted-namespace";

/// The database file, its WAL and whatever else is beside it.
fn database(fleet: &Fleet) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(fleet.path("controller"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ztka.db") {
            all.extend(fs::read(entry.path())?);
        }
    }
    Ok(all)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn is_sealed(fleet: &Fleet) -> Result<()> {
    let raw = database(fleet)?;
    for planted in [USER, RULE, BOUND, SCOPE, "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY"] {
        ensure!(!holds(&raw, planted), "{planted} is in the database");
    }
    // It is the database that was read: names of things are in clear.
    ensure!(holds(&raw, "planted-role") && holds(&raw, "acme"), "the database was not read");
    Ok(())
}

async fn is_served(fleet: &Fleet) -> Result<()> {
    wait_for("the API", || async { fleet.ztka(&["--org", "acme", "user", "list"]).await }).await?;
    let users = fleet.ztka_json("acme", &["user", "list"]).await?;
    ensure!(users.to_string().contains(USER), "{users}");
    let policy = fleet.ztka_json("acme", &["role", "list"]).await?.to_string();
    let policy = policy + &fleet.ztka_json("acme", &["binding", "list"]).await?.to_string();
    ensure!(policy.contains(RULE) && policy.contains(BOUND) && policy.contains(SCOPE), "{policy}");
    Ok(())
}

fn new_master_key(path: &Path, digit: &str) -> Result<()> {
    fs::write(path, digit.repeat(64))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

/// How many data keys each master key wraps: the current one's first.
async fn wrapped(fleet: &Fleet) -> Result<(u64, u64)> {
    let keys: Value = serde_json::from_str(&fleet.ztka(&["--output", "json", "master-key", "list"]).await?)?;
    let keys = keys["keys"].as_array().context("no master keys")?.clone();
    let count = |current: bool| {
        let some = keys.iter().filter(move |key| key["current"] == current);
        some.filter_map(|key| key["data_keys"].as_u64()).sum::<u64>()
    };
    Ok((count(true), count(false)))
}

#[tokio::test]
async fn planted_secrets_are_in_no_file_and_keys_are_replaced_while_it_serves() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.ztka(&["--org", "acme", "user", "create", USER]).await?;
    let role = ["role", "create", "planted-role", "--verb", "get", "--resource", "secrets", "--resource-name", RULE];
    fleet.ztka(&[&["--org", "acme"], &role[..]].concat()).await?;
    let binding = ["binding", "create", "planted", "--role", "planted-role", "--user", BOUND, "--all-clusters"];
    fleet.ztka(&[&["--org", "acme"], &binding[..], &["--namespace", SCOPE]].concat()).await?;
    is_served(&fleet).await?;
    is_sealed(&fleet)?;

    // A new data key: returns when everything is under it.
    let told = fleet.ztka(&["--org", "acme", "org", "rotate-key"]).await?;
    assert!(told.starts_with("everything is sealed under a new data key"), "{told}");
    let listed = fleet.ztka(&["--org", "acme", "org", "keys"]).await?;
    assert_eq!(listed.lines().count(), 3, "two keys, newest first\n{listed}");
    assert!(listed.lines().nth(1).is_some_and(|line| line.ends_with("seals")), "{listed}");
    is_served(&fleet).await?;
    is_sealed(&fleet)?;
    wait_for("a record of it", || async {
        let events = fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "--lines", "200"]).await?;
        ensure!(events.contains("/data-keys"), "{events}");
        Ok(())
    })
    .await?;

    // A new master key, with the one before beside it until nothing is under that any more.
    let (before, _) = wrapped(&fleet).await?;
    let (old, new) = (fleet.path("controller/master.key"), fleet.path("new-master.key"));
    new_master_key(&new, "7")?;
    let config = fleet.path("controller.toml");
    let text = fs::read_to_string(&config)?;
    let (old, new) = (old.display(), new.display());
    let both = format!("{text}\n[encryption]\nmaster = {{ file = '{new}' }}\nother = [{{ file = '{old}' }}]\n");
    fs::write(&config, both)?;
    fleet.controller.kill();
    fleet.restart_controller()?;
    is_served(&fleet).await.with_context(|| fleet.tails())?;
    wait_for("every data key under the new master key", || async {
        let (current, other) = wrapped(&fleet).await?;
        ensure!(other == 0 && current >= before, "{current}, {other} of {before}");
        Ok(())
    })
    .await?;
    fs::write(&config, format!("{text}\n[encryption]\nmaster = {{ file = '{new}' }}\n"))?;
    fs::remove_file(fleet.path("controller/master.key"))?;
    fleet.controller.kill();
    fleet.restart_controller()?;
    is_served(&fleet).await.with_context(|| fleet.tails())?;
    is_sealed(&fleet)?;

    // The organisation goes with everything it has.
    assert!(fleet.ztka(&["--org", "acme", "org", "delete"]).await.is_err(), "nobody is there to ask");
    let told = fleet.ztka(&["--org", "acme", "org", "delete", "--yes"]).await?;
    assert!(told.starts_with("organisation acme deleted"), "{told}");
    let gone = fleet.ztka(&["org", "deletions"]).await?;
    assert!(gone.contains("gone since"), "{gone}");
    assert!(fleet.ztka(&["--org", "acme", "user", "list"]).await.is_err());
    assert!(!fleet.ztka(&["org", "list"]).await?.contains("acme"));
    fleet.org("acme").await?;
    let users = fleet.ztka_json("acme", &["user", "list"]).await?;
    assert_eq!(users, Value::Array(Vec::new()), "another one of the same name");
    Ok(())
}
