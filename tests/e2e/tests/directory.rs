//! Agents that are told of one proxy hear of the others, and hold tunnels to two of them, whichever go.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use ztka_e2e::{Client, Fleet, Installation, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for_within};

const PROXIES: usize = 3;
const BOUND: Duration = Duration::from_secs(60);

/// Clients of the user by each of the proxies.
async fn clients(fleet: &Fleet, user: &User) -> Result<Vec<Client>> {
    let text = fs::read_to_string(&user.kubeconfig)?;
    let mut clients = Vec::new();
    for (number, proxy) in fleet.proxies.iter().enumerate() {
        let kubeconfig = fleet.path(&format!("by-proxy-{number}.kubeconfig"));
        fs::write(&kubeconfig, text.replace(&format!(":{}", fleet.front()), &format!(":{}", proxy.port)))?;
        clients.push(Client::of(&Kubectl::new(&kubeconfig).await?.context("dev")).await?);
    }
    Ok(clients)
}

/// The proxies by which the cluster answers.
async fn answering(clients: &[Client]) -> Vec<usize> {
    let mut answering = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let Ok(mut connection) = client.connect(Version::HTTP_11).await else { continue };
        let answer = connection.send(Method::GET, "/api/v1/namespaces/default", "").await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            answering.push(number);
        }
    }
    answering
}

#[tokio::test]
async fn an_agent_finds_other_proxies_than_the_one_that_it_is_told_of() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let wanted = Installation { proxies: PROXIES, by_front: true, ..Installation::default() };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let clients = clients(&fleet, &alice).await?;
    let two = || async {
        let answering = answering(&clients).await;
        ensure!(answering.len() == 2, "answers come by {answering:?}");
        Ok(answering)
    };
    let held = wait_for_within(BOUND, "tunnels to two proxies", two).await.with_context(|| fleet.tails())?;

    // One that goes is replaced by the third; the one that comes back is found again when it is needed.
    let lost = held.into_iter().find(|number| *number != 0).context("a proxy that is not the front")?;
    let third = PROXIES - lost;
    fleet.proxies[lost].process.kill();
    let replaced = || async {
        let answering = answering(&clients).await;
        ensure!(answering == [0, third], "answers come by {answering:?}");
        Ok(())
    };
    wait_for_within(BOUND, "a tunnel to the third", replaced).await.with_context(|| fleet.tails())?;
    fleet.proxies[lost].restart()?;
    fleet.proxies[third].process.terminate()?;
    let back = || async {
        let answering = answering(&clients).await;
        ensure!(answering == [0, lost], "answers come by {answering:?}");
        Ok(())
    };
    wait_for_within(BOUND, "a tunnel to the one that came back", back).await.with_context(|| fleet.tails())?;
    Ok(())
}
