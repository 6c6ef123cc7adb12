//! What an agent makes of a 403 by the cluster, which may be about the account and need not be; with a real apiserver.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use anyhow::{Result, ensure};
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::json;
use stage::{Stage, user};
use ztka_agent::{
    Accounts as _,
    accounts::{AGENT_RBAC, Mode, Settings},
};
use ztka_core::Verified;
use ztka_test_cluster::wait_for;

const DEV_PODS: &str = "/api/v1/namespaces/dev/pods";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_by_the_clusters_own_rules_has_no_new_account_by_that() -> Result<()> {
    let settings = Settings { mode: Mode::Impersonate, ..Settings::default() };
    let mut stage = Stage::set_with(AGENT_RBAC, settings).await?;
    let alice = user("u-alice", "alice", &["dev"]);
    stage.policy(&[(json!({"user": "alice"}), "edit", json!("cluster"))])?;
    let who = Verified::assertion(alice.clone());
    let is_fresh = async || anyhow::Ok(stage.accounts.acting(&alice, Some("dev")).await?.is_fresh());
    // The cluster gives nothing to `ztka:alice`, and there it stays.
    let refused = async |later: i64| -> Result<()> {
        stage.clock.advance(SignedDuration::from_secs(later));
        assert_eq!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0, 403);
        stage.accounts.refused(&who, StatusCode::FORBIDDEN).await;
        Ok(())
    };
    let binding = ["clusterrolebinding", "ztka:u-alice"];
    let kubectl = stage.cluster.kubectl();
    let is_bound = async || anyhow::Ok(kubectl.run(["get", binding[0], binding[1]]).await?.success());

    assert!(is_fresh().await?, "it is new, and whoever is refused is sent again for two seconds");
    wait_for("it to be no new one any more", || async {
        ensure!(!is_fresh().await?);
        Ok(())
    })
    .await?;
    refused(6).await?;
    assert!(!is_fresh().await?, "looked at again, with nothing missing");

    // That look was in vain, so the next one comes later. What is missing then is new.
    kubectl.ok(["delete", binding[0], binding[1]]).await?;
    refused(6).await?;
    assert!(!is_fresh().await? && !is_bound().await?);
    refused(5).await?;
    assert!(is_fresh().await? && is_bound().await?);

    // It was not in vain: five seconds again.
    wait_for("it to be no new one any more", || async {
        ensure!(!is_fresh().await?);
        Ok(())
    })
    .await?;
    kubectl.ok(["delete", binding[0], binding[1]]).await?;
    refused(6).await?;
    assert!(is_fresh().await? && is_bound().await?);
    Ok(())
}

/// What is doubted is still what the agent has made: it goes when policy takes it away before anybody asks for it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_doubted_goes_with_its_binding_of_policy() -> Result<()> {
    let mut stage = Stage::set().await?;
    let alice = user("u-alice", "alice", &[]);
    let view = |namespaces: &[&str]| (json!({"user": "alice"}), "view", json!({"namespaces": namespaces}));
    stage.policy(&[view(&["dev", "web"])])?;
    for namespace in ["dev", "web"] {
        stage.accounts.token(&alice, Some(namespace)).await?;
    }
    assert!(stage.accounts.follow_policy().await, "what an earlier run has left is known");
    stage.clock.advance(SignedDuration::from_secs(6));
    stage.accounts.refused(&Verified::assertion(alice.clone()), StatusCode::FORBIDDEN).await;
    stage.accounts.token(&alice, Some("dev")).await?;
    stage.policy(&[view(&["dev"])])?;
    assert!(stage.accounts.follow_policy().await);
    assert_eq!(stage.objects("u-alice", "roles").await?, ["dev/ztka:u-alice"]);
    Ok(())
}
