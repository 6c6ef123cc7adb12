//! The agent as a pod of a real node, from its bootstrap manifest.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::{Fleet, Installation, program};
use ztka_test_cluster::{BUSYBOX, Cluster, Image, Options, wait_for, wait_for_within};

const IMAGE: &str = "ztka.test/agent:1";
/// A name that only the pod's own aliases know.
const TUNNELS: &str = "proxies.ztka.test";
/// A new pod needs an image, a token and a tunnel.
const POD_START: Duration = Duration::from_secs(60);

/// An image of the agent with the shared libraries that it is linked against.
fn image() -> Result<Image> {
    let agent = program("ztka-agent")?;
    let output = Command::new("ldd").arg(&agent).output().context("cannot run ldd")?;
    let text = String::from_utf8(output.stdout)?;
    let libraries = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(libraries.fold(Image::of_program(IMAGE, &agent), |image, path| image.file(path, Path::new(path))))
}

/// The process of the agent in the pod, as this machine sees it.
fn process_of(pod: &str) -> Result<u32> {
    let processes = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut agents = processes.filter(|id| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        read("cmdline").starts_with("/ztka-agent") && read("mountinfo").contains(pod)
    });
    agents.next().context("the agent does not run")
}

#[tokio::test]
async fn the_bootstrap_manifest_starts_an_agent_that_kubectl_reaches() -> Result<()> {
    let Some(cluster) = Cluster::level2_or_skip(Options::default().image(image()?)).await? else { return Ok(()) };
    let address = cluster.host_address();
    let wanted = Installation { address, tunnel_host: Some(TUNNELS.into()), ..Installation::default() };
    let fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.ztka(&["--org", "acme", "cluster", "create", "dev"]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alias = format!("{address}={TUNNELS}");
    let bootstrap = [
        ["--org", "acme", "cluster", "manifest", "dev"].as_slice(),
        &["--image", IMAGE, "--apiserver", cluster.url(), "--host-alias", &alias],
    ]
    .concat();
    let direct = cluster.kubectl();
    direct.apply(fleet.ztka(&bootstrap).await?).await?;

    // Whatever goes wrong is in the pod's log.
    let state = || async {
        let pods = direct.run(["describe", "pods", "-n", "ztka-system"]).await.map(|output| output.stdout);
        let log = direct.run(["logs", "-n", "ztka-system", "deployment/ztka-agent"]).await.map(|output| output.stdout);
        format!("{}\n{}\n{}", pods.unwrap_or_default(), log.unwrap_or_default(), fleet.tails())
    };
    let rollout = ["rollout", "status", "deployment/ztka-agent", "-n", "ztka-system", "--timeout=40s"];
    if let Err(error) = direct.ok(rollout).await {
        return Err(error.context(state().await));
    }
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = match fleet.kubectl(&alice, "dev").await {
        Ok(kubectl) => kubectl,
        Err(error) => return Err(error.context(state().await)),
    };
    let nodes = ["get", "nodes", "-o", "name"];
    assert_eq!(kubectl.ok(nodes).await?, direct.ok(nodes).await?);
    assert_eq!(kubectl.ok(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?, "alice");

    // A stream by way of the pod into another pod.
    kubectl.ok(["run", "main", "--image", BUSYBOX, "--image-pull-policy=Never", "--", "sleep", "1000"]).await?;
    kubectl.ok(["wait", "--for=condition=Ready", "pod/main", "--timeout=30s"]).await?;
    let exec = ["exec", "--stdin", "main", "--", "sh", "-c", "cat; exit 3"];
    let output = kubectl.run_with_input(exec, "through two pods").await?;
    assert_eq!((output.stdout.as_str(), output.code), ("through two pods", Some(3)), "{}", output.stderr);

    // The container is killed: the credential is in a volume that outlives it, and the spent token is not needed.
    let pods = || async {
        let text = direct.ok(["get", "pods", "-n", "ztka-system", "-o", "json"]).await?;
        let pods: Value = serde_json::from_str(&text)?;
        anyhow::Ok(pods["items"].as_array().cloned().unwrap_or_default())
    };
    let agent = pods().await?.pop().context("no pod of the agent")?;
    let uid = agent["metadata"]["uid"].as_str().context("no uid")?;
    let killed = Command::new("kill").arg("-KILL").arg(process_of(uid)?.to_string()).status()?;
    ensure!(killed.success(), "cannot kill the container's process");
    wait_for("the container's restart", || async {
        let agent = pods().await?.pop().context("no pod of the agent")?;
        let status = &agent["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 1 && status["ready"] == true, "{status}");
        Ok(())
    })
    .await?;
    let again = wait_for_within(POD_START, "an answer by the restarted agent", || kubectl.ok(nodes)).await;
    if let Err(error) = again {
        return Err(error.context(state().await));
    }

    // A pod that is made anew has to enrol again: with a new manifest it does, for the same cluster and kubeconfigs.
    direct.apply(fleet.ztka(&bootstrap).await?).await?;
    direct.ok(["rollout", "restart", "deployment/ztka-agent", "-n", "ztka-system"]).await?;
    wait_for_within(POD_START, "a new pod of the agent", || async {
        let pods = pods().await?;
        let [pod] = pods.as_slice() else { anyhow::bail!("{} pods", pods.len()) };
        ensure!(pod["metadata"]["uid"] != uid, "the old pod is still there");
        ensure!(pod["status"]["containerStatuses"][0]["ready"] == true, "{}", pod["status"]);
        Ok(())
    })
    .await?;
    let again = wait_for_within(POD_START, "an answer by the new agent", || kubectl.ok(nodes)).await;
    if let Err(error) = again {
        return Err(error.context(state().await));
    }
    Ok(())
}
