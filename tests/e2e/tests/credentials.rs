//! The life of a kubeconfig: used, renewed in place, listed, revoked by its own user.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

/// `ztka` of somebody who has nothing but these files.
async fn ztka(home: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = tokio::process::Command::new(ztka_e2e::program("ztka")?);
    command.args(arguments).env_remove("ZTKA_CREDENTIAL").env_remove("KUBECONFIG").env("HOME", home);
    let output = command.output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

async fn view(kubectl: &Kubectl) -> Result<Value> {
    Ok(serde_json::from_str(&kubectl.ok(["config", "view", "--raw", "-o", "json"]).await?)?)
}

#[tokio::test]
async fn a_kubeconfig_is_renewed_in_place_and_revoked_by_its_user() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "view", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;

    // The user's own tools have been at the file: kubectl writes it in its own form, with contexts of others.
    let plain = Kubectl::new(&alice.kubeconfig).await?;
    plain.ok(["config", "set-credentials", "other", "--token=secret"]).await?;
    plain.ok(["config", "set-cluster", "other", "--server=https://127.0.0.1:1"]).await?;
    plain.ok(["config", "set-context", "other", "--cluster=other", "--user=other"]).await?;
    let commented = format!("# mine\n{}", fs::read_to_string(&alice.kubeconfig)?);
    fs::write(&alice.kubeconfig, &commented)?;
    fs::set_permissions(&alice.kubeconfig, fs::Permissions::from_mode(0o644))?;
    let before = view(&plain).await?;

    let (home, file) = (fleet.path("home"), alice.kubeconfig.to_str().context("a path that is not UTF-8")?.to_owned());
    fs::create_dir_all(home.join(".kube"))?;
    // Where kubectl looks, by a link, which goes on being one.
    std::os::unix::fs::symlink(&alice.kubeconfig, home.join(".kube/config"))?;
    let (done, said) = ztka(&home, &["kubeconfig", "refresh"]).await?;
    ensure!(done, "{said}\n{}", fleet.tails());
    ensure!(fs::symlink_metadata(home.join(".kube/config"))?.is_symlink(), "the link");
    ensure!(fs::metadata(&alice.kubeconfig)?.permissions().mode() & 0o777 == 0o600, "the mode");
    let text = fs::read_to_string(&alice.kubeconfig)?;
    let changed: Vec<_> = commented.lines().zip(text.lines()).filter(|(old, new)| old != new).collect();
    ensure!(commented.lines().count() == text.lines().count() && changed.len() == 2, "{changed:?}");
    let after = view(&plain).await?;
    let user = |view: &Value, name: &str| {
        view["users"].as_array().into_iter().flatten().find(|user| user["name"] == name).cloned().unwrap_or_default()
    };
    for part in ["client-certificate-data", "client-key-data"] {
        let (old, new) = (&user(&before, "alice@acme")["user"][part], &user(&after, "alice@acme")["user"][part]);
        ensure!(new.is_string() && old != new, "{part} is the same");
    }
    ensure!(user(&before, "other") == user(&after, "other") && before["contexts"] == after["contexts"], "others");
    ensure!(before["clusters"] == after["clusters"], "clusters");
    kubectl.ok(["get", "pods"]).await?;

    // One credential, renewed and lately used.
    let listed = wait_for("the last use", || async {
        let listed = fleet.ztka_json("acme", &["credential", "list", "--user", "alice"]).await?;
        let [one] = listed.as_array().map(Vec::as_slice).unwrap_or_default() else { anyhow::bail!("{listed}") };
        ensure!(one["renewed"].is_string() && one["last_used"].is_string(), "{one}");
        Ok(one.clone())
    });
    let listed = listed.await.with_context(|| fleet.tails())?;
    let id = listed["id"].as_str().context("no id")?;
    let table = fleet.ztka(&["--org", "acme", "credential", "list", "--user", "alice"]).await?;
    ensure!(table.starts_with("CREDENTIAL") && table.contains("LAST USED") && table.contains(id), "{table}");

    // Alice comes with a credential file of her own, renews that too, and revokes the kubeconfig's.
    let own = fleet.path("alice.toml");
    let own = own.to_str().context("a path that is not UTF-8")?;
    fleet.ztka(&["--org", "acme", "credential", "--user", "alice", "--file", own]).await?;
    let before = fs::read_to_string(own)?;
    let (done, said) = ztka(&home, &["--credential", own, "credential", "refresh"]).await?;
    ensure!(done && fs::read_to_string(own)? != before, "{said}");
    let (done, said) = ztka(&home, &["--credential", own, "credential", "revoke", id]).await?;
    ensure!(done && said.contains(&format!("credential {id} of alice revoked")), "{said}");
    let refused = wait_for("the end of the credential", || async {
        let output = kubectl.run(["get", "pods"]).await?;
        ensure!(!output.success(), "still in");
        Ok(output.stderr)
    });
    refused.await.with_context(|| fleet.tails())?;
    let unchanged = fs::read_to_string(&alice.kubeconfig)?;
    let (done, said) = ztka(&home, &["kubeconfig", "refresh", "--file", &file]).await?;
    ensure!(!done && said.contains("revoked"), "{said}");
    ensure!(fs::read_to_string(&alice.kubeconfig)? == unchanged, "the file was changed");
    ensure!(!alice.kubeconfig.with_extension("kubeconfig.lock").exists(), "a lock is left");
    Ok(())
}
