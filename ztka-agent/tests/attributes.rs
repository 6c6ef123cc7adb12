//! What an account can do goes by its user's attributes, against a real apiserver.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use anyhow::Result;
use serde_json::json;
use stage::{Stage, user};
use ztka_core::{Attributes, Principal, Session};

const DEV_PODS: &str = "/api/v1/namespaces/dev/pods";

/// The same user with the same credential, whose session says this of the team.
fn of_team(team: Option<&str>) -> Principal {
    let alice = user("u-alice", "alice", &[]);
    let attributes: Attributes = team.iter().map(|team| ("team".to_owned(), (*team).to_owned())).collect();
    let session = Session {
        user: alice.user().clone(),
        credential: alice.credential().clone(),
        name: alice.name().clone(),
        groups: Vec::new(),
        attributes,
        active_until: alice.active_until(),
    };
    Principal::new(alice.org().clone(), session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_can_do_what_its_users_attributes_give_and_follows_them() -> Result<()> {
    let mut stage = Stage::set().await?;
    let tending = tokio::spawn(stage.accounts.clone().tend());
    let binding = |name: &str, scope: &str, when: serde_json::Value| {
        json!({"name": name, "subjects": [{"user": "alice"}], "role": "view", "clusters": {"all": true},
               "scope": {"namespaces": [scope]}, "when": when})
    };
    let shop = json!({"user": {"team": ["shop"]}});
    stage.bindings(vec![binding("always", "web", json!({})), binding("shop", "dev", shop)])?;
    let roles = async || {
        let mut roles = stage.objects("u-alice", "roles").await?;
        roles.sort();
        anyhow::Ok(roles)
    };

    // The cluster itself refuses what policy would not give.
    assert_eq!(stage.get(&of_team(None), Some("dev"), DEV_PODS).await?.0, 403);
    assert!(roles().await?.is_empty());
    // The policy is the same, and so are name, groups and credential.
    assert_eq!(stage.get(&of_team(Some("shop")), Some("dev"), DEV_PODS).await?.0, 200, "at once");
    assert_eq!(roles().await?, ["dev/ztka:u-alice"]);
    // The next request of somebody who has lost it takes the role away, whatever it is about.
    assert_eq!(stage.get(&of_team(Some("pay")), Some("web"), "/api/v1/namespaces/web/pods").await?.0, 200);
    ztka_test_cluster::wait_for("the role to be gone", || async {
        let roles = roles().await?;
        anyhow::ensure!(roles == ["web/ztka:u-alice"], "{roles:?}");
        Ok(())
    })
    .await?;
    assert_eq!(stage.get(&of_team(Some("pay")), Some("dev"), DEV_PODS).await?.0, 403);
    tending.abort();
    Ok(())
}
