//! The kit against itself: one real node, whose exec has real exit codes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use ztka_test_cluster::{BUSYBOX, Cluster, Image, Kubectl, Options, missing_for_level2, wait_for};

fn pod(name: &str, image: &str, script: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        }]},
    })
    .to_string()
}

#[tokio::test]
async fn a_real_node_runs_pods() -> Result<()> {
    let own = Image::busybox()?.file("greeting", "/etc/hostname".as_ref());
    let Some(cluster) = Cluster::level2_or_skip(Options::default()).await? else { return Ok(()) };
    let kubectl = cluster.kubectl();
    kubectl.apply(pod("a", BUSYBOX, "echo started; sleep 1000")).await?;
    kubectl.ok(["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"]).await?;

    let exit = kubectl.run(["exec", "a", "--", "sh", "-c", "exit 3"]).await?;
    assert_eq!(exit.code, Some(3), "{}", exit.stderr);
    assert_eq!(kubectl.ok(["logs", "a"]).await?, "started\n");

    // Pods reach the apiserver by their own environment and servers of the test by the bridge.
    let in_pod = "echo -n $KUBERNETES_SERVICE_HOST; nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null && echo ' reached'";
    let reached = kubectl.ok(["exec", "a", "--", "sh", "-c", in_pod]).await?;
    assert_eq!(format!("https://{}", reached.trim()), format!("{} reached", cluster.url()));

    cluster.import_image(&own).await?;
    assert_eq!(own.name(), BUSYBOX);
    kubectl.apply(pod("b", BUSYBOX, "cat /greeting; sleep 1000")).await?;
    wait_for("the log of the pod of the new image", || async {
        let log = kubectl.ok(["logs", "b"]).await?;
        ensure!(!log.is_empty(), "nothing yet");
        Ok(())
    })
    .await?;

    let folder = cluster.slot().folder().to_owned();
    drop(cluster);
    ensure!(!folder.exists(), "{} is left", folder.display());
    Ok(())
}

#[tokio::test]
async fn two_real_nodes_at_once() -> Result<()> {
    let both =
        tokio::try_join!(Cluster::level2_or_skip(Options::default()), Cluster::level2_or_skip(Options::default()))?;
    let (Some(one), Some(two)) = both else { return Ok(()) };
    for cluster in [&one, &two] {
        cluster.kubectl().apply(pod("a", BUSYBOX, "sleep 1000")).await?;
        cluster.kubectl().ok(["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"]).await?;
    }
    Ok(())
}

/// Containers, mounts, the bridge and cgroups go with a process that is killed, not only with one that ends well.
#[tokio::test]
async fn a_killed_process_leaves_no_node() -> Result<()> {
    if missing_for_level2().is_some() {
        // Says so, or fails where it has to run.
        return Cluster::level2_or_skip(Options::default()).await.map(drop);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_ztka-test-cluster"))
        .arg("--real-node")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    let kubeconfig = line.trim().strip_prefix("KUBECONFIG=").context("no kubeconfig was printed")?;
    let folder = Path::new(kubeconfig).parent().context("it has no folder")?;
    let kubectl = Kubectl::new(kubeconfig).await?;
    let marker = format!("86400.{}", child.id());
    kubectl.apply(pod("a", BUSYBOX, &format!("exec sleep {marker}"))).await?;
    kubectl.ok(["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"]).await?;
    ensure!(running(&marker)?, "the container's process is not seen from here");
    let bridges = || -> Result<usize> {
        let number = folder.file_name().context("no number")?.to_string_lossy().into_owned();
        Ok(usize::from(Path::new("/sys/class/net").join(format!("ztka{number}")).exists()))
    };
    assert_eq!(bridges()?, 1);

    child.kill()?;
    child.wait()?;
    wait_for("the watchdog to clean up", || async {
        ensure!(!folder.exists(), "{} is left", folder.display());
        ensure!(bridges()? == 0, "the bridge is left");
        ensure!(!running(&marker)?, "the container's process is left");
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(&folder.display().to_string()), "mounts are left");
        Ok(())
    })
    .await
}

/// Whether any process on this machine has `marker` on its command line.
fn running(marker: &str) -> Result<bool> {
    let mut processes = fs::read_dir("/proc")?.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    Ok(processes.any(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())))
}
