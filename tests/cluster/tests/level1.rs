//! The kit against itself: a control plane, simulated nodes, several at once, and that nothing is left.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ztka_test_cluster::{Cluster, Options, wait_for};

#[tokio::test]
async fn a_control_plane_serves_kubectl() -> Result<()> {
    let mut cluster = Cluster::level1(Options::default()).await?;
    let kubectl = cluster.kubectl();
    let version = kubectl.ok(["version", "-o", "json"]).await?;
    let version: serde_json::Value = serde_json::from_str(&version)?;
    assert_eq!(version["serverVersion"]["gitVersion"], ztka_test_cluster::binaries::KUBERNETES);
    assert_eq!(version["clientVersion"]["gitVersion"], ztka_test_cluster::binaries::KUBERNETES);
    kubectl.ok(["create", "configmap", "a", "--from-literal=k=v"]).await?;
    assert_eq!(kubectl.ok(["get", "configmap", "a", "-o", "jsonpath={.data.k}"]).await?, "v");

    let missing = kubectl.run(["get", "configmap", "b"]).await?;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("NotFound"), "{}", missing.stderr);

    let events = cluster.audit_events()?;
    assert!(events.iter().any(|event| event["verb"] == "create" && event["objectRef"]["name"] == "a"));

    let account = cluster.admin_service_account("agents", "agent").await?;
    let agent = ztka_test_cluster::Kubectl::new(&account.kubeconfig).await?;
    assert!(agent.ok(["auth", "whoami"]).await?.contains("system:serviceaccount:agents:agent"));
    assert_eq!(agent.ok(["auth", "can-i", "*", "*"]).await?.trim(), "yes");

    let (kubeconfig, _) = cluster.user("jane", &["dev"])?;
    let jane = ztka_test_cluster::Kubectl::new(kubeconfig).await?;
    assert!(jane.run(["get", "secrets"]).await?.stderr.contains(r#"User "jane" cannot list resource "secrets""#));

    cluster.kill_apiserver()?;
    assert!(!kubectl.run(["get", "configmap", "a"]).await?.success());
    cluster.start_apiserver().await?;
    kubectl.ok(["get", "configmap", "a"]).await?;
    Ok(())
}

#[tokio::test]
async fn simulated_nodes_run_pods_with_streams() -> Result<()> {
    let cluster = Cluster::level1(Options::default().nodes(2)).await?;
    let kubectl = cluster.kubectl();
    kubectl.ok(["create", "deployment", "web", "--image=web", "--replicas=3"]).await?;
    kubectl.ok(["rollout", "status", "deployment/web", "--timeout=30s"]).await?;
    assert!(kubectl.ok(["logs", "deployment/web"]).await?.contains("second line"));
    assert_eq!(kubectl.ok(["exec", "deployment/web", "--", "echo", "hello"]).await?, "hello\n");
    // A simulated node does not pass on the end of input, so the command has to know it.
    let head = ["exec", "-i", "deployment/web", "--", "head", "-c", "7"];
    let echoed = kubectl.run_with_input(head, "through").await?;
    assert_eq!(echoed.stdout, "through");
    kubectl.ok(["delete", "deployment", "web"]).await?;
    wait_for("the pods to be gone", || async {
        let left = kubectl.ok(["get", "pods", "-o", "name"]).await?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_clusters_at_once_and_nothing_is_left() -> Result<()> {
    let options = || Options::default().without_controllers();
    let (one, two) = tokio::try_join!(Cluster::level1(options()), Cluster::level1(options()))?;
    assert_ne!(one.url(), two.url());
    one.kubectl().ok(["create", "namespace", "only-one"]).await?;
    assert!(!two.kubectl().run(["get", "namespace", "only-one"]).await?.success());
    let mut watch = two.kubectl().spawn(["get", "namespaces", "--watch", "-o", "name"])?;
    watch.read_until("namespace/default").await?;
    two.kubectl().ok(["create", "namespace", "seen"]).await?;
    watch.read_until("namespace/seen").await?;
    watch.kill().await?;

    let folders = [one.slot().folder().to_owned(), two.slot().folder().to_owned()];
    assert_eq!(processes_in(&folders[0])?.len(), 2);
    drop((one, two));
    for folder in folders {
        assert!(!folder.exists(), "{} is left", folder.display());
        assert_eq!(processes_in(&folder)?, Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_process_leaves_nothing() -> Result<()> {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_ztka-test-cluster")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    let kubeconfig = Path::new(line.trim().strip_prefix("KUBECONFIG=").context("no kubeconfig was printed")?);
    let folder = kubeconfig.parent().context("it has no folder")?;
    assert_eq!(processes_in(folder)?.len(), 3);
    child.kill()?;
    child.wait()?;
    wait_for("the watchdog to clean up", || async {
        ensure!(!folder.exists(), "{} is left", folder.display());
        let left = processes_in(folder)?;
        ensure!(left.is_empty(), "processes are left: {left:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_apiserver_that_cannot_start_says_why() -> Result<()> {
    let options = Options::default().apiserver_arg("--authorization-mode=Nonsense");
    let error = Cluster::level1(options).await.err().context("it started")?;
    assert!(format!("{error:#}").contains("Nonsense"), "{error:#}");
    Ok(())
}

/// The programs whose working directory is `folder`.
fn processes_in(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)) {
            found.push(fs::read_to_string(path.join("comm")).unwrap_or_default());
        }
    }
    Ok(found)
}
