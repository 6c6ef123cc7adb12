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

    // The container is killed: the pod's own certificate is in a volume that outlives it.
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

    // A pod that is made anew needs no new token: the credential is in a Secret, which no user reaches.
    let ready = async |count: usize| {
        wait_for_within(POD_START, "the pods of the agent", || async {
            let pods = pods().await?;
            let not_ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] != true).count();
            ensure!(pods.len() == count && not_ready == 0, "{} pods, {not_ready} of them not ready", pods.len());
            Ok(pods)
        })
        .await
    };
    let names = async || {
        let clusters = fleet.ztka_json("acme", &["cluster", "list"]).await?;
        let instances = clusters[0]["instances"].as_array().context("no agents")?.clone();
        anyhow::Ok((clusters[0]["id"].clone(), instances.len()))
    };
    let (id, had) = names().await?;
    assert_eq!(had, 2, "the cluster's own, and that of the pod");
    direct.ok(["delete", "secret", "ztka-agent-enrolment", "-n", "ztka-system"]).await?;
    direct.ok(["delete", "pod", "-n", "ztka-system", "-l", "app.kubernetes.io/name=ztka-agent"]).await?;
    let made = ready(1).await?;
    ensure!(made[0]["metadata"]["uid"] != uid, "the old pod is still there");
    let again = wait_for_within(POD_START, "an answer by the new agent", || kubectl.ok(nodes)).await;
    if let Err(error) = again {
        return Err(error.context(state().await));
    }
    assert_eq!(names().await?, (id.clone(), 3), "the same cluster, and a name of its own for the new pod");
    let secret = kubectl.run(["get", "secret", "ztka-agent-credential", "-n", "ztka-system"]).await?;
    assert!(secret.stderr.contains("forbidden"), "{secret:?}");

    // Two at once, each with a name and tunnels of its own; either is enough.
    direct.ok(["scale", "deployment/ztka-agent", "-n", "ztka-system", "--replicas=2"]).await?;
    let two = ready(2).await?;
    wait_for_within(POD_START, "the second agent's certificate", || async {
        ensure!(names().await? == (id.clone(), 4), "{:?}", names().await?);
        Ok(())
    })
    .await?;
    for pod in &two {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        wait_for_within(POD_START, "a tunnel of each pod", || async {
            let log = direct.ok(["logs", "-n", "ztka-system", name]).await?;
            ensure!(log.contains("tunnel is ready"), "{log}");
            Ok(())
        })
        .await?;
    }
    let first = two[0]["metadata"]["name"].as_str().context("no name")?;
    direct.ok(["delete", "pod", "-n", "ztka-system", first]).await?;
    for _ in 0..20 {
        wait_for("an answer by the agent that is left", || kubectl.ok(nodes)).await?;
    }

    // Everything is lost: with a new manifest it joins again, for the same cluster and kubeconfigs.
    direct.ok(["scale", "deployment/ztka-agent", "-n", "ztka-system", "--replicas=0"]).await?;
    direct.ok(["delete", "secret", "ztka-agent-credential", "-n", "ztka-system"]).await?;
    direct.apply(fleet.ztka(&bootstrap).await?).await?;
    ready(1).await?;
    let again = wait_for_within(POD_START, "an answer by the agent that has joined again", || kubectl.ok(nodes)).await;
    if let Err(error) = again {
        return Err(error.context(state().await));
    }
    assert_eq!(names().await?.0, id);
    Ok(())
}
