//! How long accounts are there, against a real apiserver: terms, leases, sessions, and what a crashed agent has left.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use stage::{Stage, user};
use ztka_agent::Accounts as _;
use ztka_core::{Clock as _, Principal, Session, Verified};
use ztka_test_cluster::wait_for;

const DEV_PODS: &str = "/api/v1/namespaces/dev/pods";
const KINDS: [&str; 6] = ["serviceaccounts", "secrets", "clusterroles", "clusterrolebindings", "roles", "rolebindings"];

async fn is_gone(stage: &Stage, id: &str) -> Result<()> {
    for kind in KINDS {
        let left = stage.objects(id, kind).await?;
        ensure!(left.is_empty(), "{kind}: {left:?}");
    }
    Ok(())
}

async fn sweep(stage: &Stage) -> Result<()> {
    stage.accounts.sweep().await.map_err(anyhow::Error::from_boxed)
}

fn view(stage: &mut Stage) -> Result<()> {
    stage.policy(&[(json!({"user": "alice"}), "view", json!({"namespaces": ["dev"]}))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_holds_begins_and_ends_with_the_terms() -> Result<()> {
    let mut stage = Stage::set().await?;
    let tending = tokio::spawn(stage.accounts.clone().tend());
    let alice = user("u-alice", "alice", &[]);
    let now = stage.clock.now();
    let after = |minutes| (now + SignedDuration::from_mins(minutes)).to_string();
    let binding = |name: &str, scope: &str, from: Option<String>, until: Option<String>| {
        json!({
            "name": name, "subjects": [{"user": "alice"}], "role": "view", "clusters": {"all": true},
            "scope": {"namespaces": [scope]}, "validFrom": from, "validUntil": until,
        })
    };
    stage.bindings(vec![
        binding("dev-for-a-while", "dev", None, Some(after(10))),
        binding("web-later", "web", Some(after(5)), Some(after(20))),
    ])?;
    let web = "/api/v1/namespaces/web/pods";
    assert_eq!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0, 200);
    assert_eq!(stage.get(&alice, Some("web"), web).await?.0, 403);
    assert_eq!(stage.objects("u-alice", "roles").await?, ["dev/ztka:u-alice"]);

    stage.clock.advance(SignedDuration::from_mins(6));
    assert_eq!(stage.get(&alice, Some("web"), web).await?.0, 200, "it has begun");

    // The one ends, and nobody asks for anything.
    stage.clock.advance(SignedDuration::from_mins(5));
    wait_for("the role to end with its term", || async {
        let roles = stage.objects("u-alice", "roles").await?;
        ensure!(roles == ["web/ztka:u-alice"], "{roles:?}");
        Ok(())
    })
    .await?;
    stage.clock.advance(SignedDuration::from_mins(10));
    wait_for("the account to end with the last term", || is_gone(&stage, "u-alice")).await?;
    assert_eq!(stage.accounts.token(&alice, None).await.unwrap_err().code(), 403);
    tending.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_in_use_stays_and_its_lease_says_so_to_other_agents() -> Result<()> {
    let mut stage = Stage::set().await?;
    view(&mut stage)?;
    let alice = user("u-alice", "alice", &[]);
    let other = stage.other_agent(&stage.token_file);
    let lease = async || -> Result<Timestamp> {
        let path = r"jsonpath={.metadata.annotations.ztka\.dev/used-at}";
        let get = ["get", "serviceaccount", "u-alice", "-n", "ztka-system", "-o", path];
        Ok(stage.cluster.kubectl().ok(get).await?.parse()?)
    };
    stage.accounts.token(&alice, Some("dev")).await?;

    // Used now and then: noted at a quarter of an hour, and the other agent leaves it alone.
    for _ in 0..5 {
        stage.clock.advance(SignedDuration::from_mins(20));
        stage.accounts.token(&alice, Some("dev")).await?;
        sweep(&stage).await?;
        assert!(stage.clock.now().duration_since(lease().await?) < SignedDuration::from_mins(1));
        other.sweep().await.map_err(anyhow::Error::from_boxed)?;
        assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);
    }

    // A stream that nobody does anything else beside.
    let stream = stage.accounts.in_use(&Verified::assertion(alice.clone()));
    for _ in 0..5 {
        stage.clock.advance(SignedDuration::from_mins(20));
        sweep(&stage).await?;
        other.sweep().await.map_err(anyhow::Error::from_boxed)?;
        assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);
    }
    drop(stream);
    stage.clock.advance(SignedDuration::from_mins(59));
    sweep(&stage).await?;
    assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);
    stage.clock.advance(SignedDuration::from_mins(2));
    sweep(&stage).await?;
    is_gone(&stage, "u-alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_ends_with_its_session_and_its_credential() -> Result<()> {
    let mut stage = Stage::set().await?;
    view(&mut stage)?;
    let session = |until| {
        let session = Session {
            user: "u-alice".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: until,
        };
        Principal::new("acme".parse().unwrap(), session)
    };
    let short = session(stage.clock.now() + SignedDuration::from_mins(10));
    stage.accounts.token(&short, Some("dev")).await?;
    sweep(&stage).await?;
    assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);
    stage.clock.advance(SignedDuration::from_mins(11));
    // Whoever has logged in again goes on.
    stage.accounts.token(&session(Timestamp::MAX), Some("dev")).await?;
    sweep(&stage).await?;
    assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);

    // Another agent has made it: the credential is noted in the cluster.
    let other = stage.other_agent(&stage.token_file);
    let revoked = |credential: &str| BTreeSet::from([credential.parse().unwrap()]);
    other.disabled(&BTreeSet::new(), &revoked("k2")).await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(stage.objects("u-alice", "serviceaccounts").await?.len(), 1);
    other.disabled(&BTreeSet::new(), &revoked("k1")).await.map_err(anyhow::Error::from_boxed)?;
    is_gone(&stage, "u-alice").await?;

    // And a session that is over with nobody there.
    let stage = &stage;
    let soon = session(stage.clock.now() + SignedDuration::from_mins(10));
    let third = stage.other_agent(&stage.token_file);
    third.token(&soon, Some("dev")).await?;
    stage.clock.advance(SignedDuration::from_mins(11));
    third.sweep().await.map_err(anyhow::Error::from_boxed)?;
    is_gone(stage, "u-alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_goes_with_each_credential_that_has_used_it() -> Result<()> {
    let mut stage = Stage::set().await?;
    view(&mut stage)?;
    let by = |credential: &str| {
        let session = Session {
            user: "u-alice".parse().unwrap(),
            credential: credential.parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        Principal::new("acme".parse().unwrap(), session)
    };
    let revoked = |credential: &str| BTreeSet::from([credential.parse().unwrap()]);
    let accounts = async || Ok::<_, anyhow::Error>(stage.objects("u-alice", "serviceaccounts").await?.len());
    let disabled = async |agent: &ztka_agent::accounts::ServiceAccounts, credential: &str| {
        agent.disabled(&BTreeSet::new(), &revoked(credential)).await.map_err(anyhow::Error::from_boxed)
    };

    // The first one makes it, the second one finds it ready, and is the one that is revoked.
    stage.accounts.token(&by("k1"), Some("dev")).await?;
    stage.accounts.token(&by("k2"), Some("dev")).await?;
    disabled(&stage.accounts, "k3").await?;
    assert_eq!(accounts().await?, 1);
    disabled(&stage.accounts, "k2").await?;
    is_gone(&stage, "u-alice").await?;

    // The first one makes it again; what was revoked before does not count against it.
    stage.accounts.token(&by("k1"), Some("dev")).await?;
    disabled(&stage.accounts, "k2").await?;
    assert_eq!(accounts().await?, 1);

    // The same by an agent that was started later, and by one beside that has written what it has seen itself.
    stage.accounts.token(&by("k2"), Some("dev")).await?;
    let other = stage.other_agent(&stage.token_file);
    other.token(&by("k4"), Some("dev")).await?;
    sweep(&stage).await?;
    let third = stage.other_agent(&stage.token_file);
    disabled(&third, "k3").await?;
    assert_eq!(accounts().await?, 1);
    disabled(&third, "k2").await?;
    is_gone(&stage, "u-alice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crashed_agent_has_left_is_collected() -> Result<()> {
    let mut stage = Stage::set().await?;
    let binding = |scope: &str| (json!({"user": "alice"}), "edit", json!({"namespaces": [scope]}));
    stage.policy(&[binding("dev"), binding("web")])?;
    let alice = user("u-alice", "alice", &[]);
    for namespace in ["dev", "web"] {
        stage.accounts.token(&alice, Some(namespace)).await?;
    }
    // It died while it removed the account.
    let kubectl = stage.cluster.kubectl();
    kubectl.ok(["delete", "serviceaccount", "u-alice", "-n", "ztka-system"]).await?;
    let next = stage.other_agent(&stage.token_file);
    next.sweep().await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(stage.objects("u-alice", "roles").await?.len(), 2, "one look might see an account half made");
    next.sweep().await.map_err(anyhow::Error::from_boxed)?;
    is_gone(&stage, "u-alice").await?;

    // Somebody makes it again by hand, with a token of their own making: nothing is bound to it.
    kubectl.ok(["create", "serviceaccount", "u-alice", "-n", "ztka-system"]).await?;
    let can = ["auth", "can-i", "list", "pods", "-n", "dev", "--as", "system:serviceaccount:ztka-system:u-alice"];
    assert!(kubectl.run(can).await?.stdout.starts_with("no"));
    // And the agent's own are not taken for anybody's.
    next.sweep().await.map_err(anyhow::Error::from_boxed)?;
    next.sweep().await.map_err(anyhow::Error::from_boxed)?;
    kubectl.ok(["get", "clusterrole", "ztka:agent"]).await?;
    kubectl.ok(["get", "serviceaccount", "ztka-agent", "-n", "ztka-system"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_out_before_an_object_was_made_again_by_hand_is_worth_nothing() -> Result<()> {
    let mut stage = Stage::set().await?;
    view(&mut stage)?;
    let alice = user("u-alice", "alice", &[]);
    let token = stage.accounts.token(&alice, Some("dev")).await?;
    let kubectl = stage.cluster.kubectl();
    kubectl.ok(["delete", "secret", "u-alice", "-n", "ztka-system"]).await?;
    kubectl.ok(["create", "secret", "generic", "u-alice", "-n", "ztka-system"]).await?;
    wait_for("the token to end", || async {
        let request = http::Request::get(DEV_PODS).header("authorization", &token);
        let code = stage.pool.send(request.body(ztka_core::empty())?).await?.status();
        ensure!(code == 401, "{code}");
        Ok(())
    })
    .await?;
    // A binding to something else, and more rules, under the agent's names: the agent's own come in their place.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "ztka:u-alice", "namespace": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "u-alice", "namespace": "ztka-system"}],
    });
    kubectl.ok(["delete", "rolebinding", "ztka:u-alice", "-n", "dev"]).await?;
    kubectl.apply(binding.to_string()).await?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "ztka:u-alice", "namespace": "dev"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    });
    kubectl.apply(role.to_string()).await?;
    stage.clock.advance(SignedDuration::from_secs(10));
    stage.accounts.refused(&Verified::assertion(alice.clone()), http::StatusCode::UNAUTHORIZED).await;
    stage.accounts.token(&alice, Some("dev")).await?;
    let rules = kubectl.ok(["get", "role", "ztka:u-alice", "-n", "dev", "-o", "jsonpath={.rules[*].verbs}"]).await?;
    assert!(!rules.contains('*'), "{rules}");
    let role = ["get", "rolebinding", "ztka:u-alice", "-n", "dev", "-o", "jsonpath={.roleRef.kind}/{.roleRef.name}"];
    assert_eq!(kubectl.ok(role).await?, "Role/ztka:u-alice");
    assert_eq!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0, 200);
    Ok(())
}
