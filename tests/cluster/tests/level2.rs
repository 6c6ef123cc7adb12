//! The kit against itself: one real node, whose exec has real exit codes.

use anyhow::{Result, ensure};
use ztka_test_cluster::{BUSYBOX, Cluster, Image, Options, wait_for};

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
