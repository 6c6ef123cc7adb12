//! The thin true path: kubectl through proxy, tunnel and agent to a real apiserver.

use anyhow::Result;
use ztka_e2e::Fleet;
use ztka_test_cluster::{Cluster, Options};

#[tokio::test]
async fn kubectl_reaches_a_cluster_and_is_on_record() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &["env=dev"]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;

    let through = kubectl.ok(["get", "namespaces", "-o", "name"]).await?;
    let direct = cluster.kubectl().ok(["get", "namespaces", "-o", "name"]).await?;
    assert_eq!(through, direct);
    Ok(())
}
