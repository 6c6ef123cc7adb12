//! Just-in-time accounts and self-reviews against a real apiserver.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stage::{Stage, token, user};
use ztka_test_cluster::wait_for;

const DEV_PODS: &str = "/api/v1/namespaces/dev/pods";
const WEB_PODS: &str = "/api/v1/namespaces/web/pods";

fn namespaces(names: &[&str]) -> Value {
    json!({"namespaces": names})
}

fn everywhere() -> Value {
    json!("cluster")
}

fn alice_is(role: &'static str, scope: Value) -> (Value, &'static str, Value) {
    (json!({"user": "alice"}), role, scope)
}

async fn is_gone(stage: &Stage, id: &str) -> Result<()> {
    for kind in ["serviceaccounts", "secrets", "clusterroles", "clusterrolebindings", "roles", "rolebindings"] {
        let left = stage.objects(id, kind).await?;
        ensure!(left.is_empty(), "{kind}: {left:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_made_once_and_can_do_what_policy_says() -> Result<()> {
    let mut stage = Stage::set().await?;
    let alice = user("u-alice", "alice", &[]);
    stage.policy(&[alice_is("view", namespaces(&["dev", "missing"]))])?;

    // Fifty at once: one account, one token, and nobody sees the cluster lag behind.
    let answers = try_join_all((0..50).map(|_| stage.get(&alice, Some("dev"), DEV_PODS))).await?;
    assert!(answers.iter().all(|(code, _)| *code == 200), "{answers:?}");
    let tokens = stage.cluster.audit_events()?.into_iter().filter(|event| {
        let object = &event["objectRef"];
        event["stage"] == "ResponseComplete" && object["subresource"] == "token" && object["name"] == "u-alice"
    });
    assert_eq!(tokens.count(), 1);
    assert_eq!(stage.objects("u-alice", "serviceaccounts").await?, ["ztka-system/u-alice"]);
    assert_eq!(stage.objects("u-alice", "roles").await?, ["dev/ztka:u-alice"]);
    let name = ["get", "serviceaccount", "u-alice", "-n", "ztka-system", "-o", "jsonpath={.metadata.annotations}"];
    assert!(stage.cluster.kubectl().ok(name).await?.contains(r#""ztka.dev/user-name":"alice""#));

    for (namespace, path) in [
        (Some("dev"), "/api/v1/namespaces/dev/secrets"),
        (Some("web"), WEB_PODS),
        (None, "/api/v1/pods"),
        (Some("missing"), "/api/v1/namespaces/missing/pods"),
    ] {
        assert_eq!(stage.get(&alice, namespace, path).await?.0, 403, "{path}");
    }
    for reserved in ["agent", "default", "ztka-agent", "ztka-agent-credential", "ztka-agent-enrolment"] {
        assert_eq!(stage.accounts.token(&user(reserved, "alice", &[]), None).await.unwrap_err().code(), 403);
    }
    let refused = stage.accounts.token(&user("u-bob", "bob", &[]), None).await.unwrap_err();
    assert_eq!(refused.code(), 403);
    let token = stage.accounts.token(&alice, None).await?;
    assert!(!format!("{:?} {token:?}", stage.accounts).contains(&token.to_str()?["Bearer ".len()..]));

    // A namespace that comes later is found, and a role that somebody removed is made again.
    stage.cluster.kubectl().ok(["create", "namespace", "missing"]).await?;
    assert_eq!(stage.get(&alice, Some("missing"), "/api/v1/namespaces/missing/pods").await?.0, 200);
    stage.cluster.kubectl().ok(["delete", "rolebinding", "-n", "dev", "ztka:u-alice"]).await?;
    wait_for("the cluster to notice", || async {
        ensure!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0 == 403);
        Ok(())
    })
    .await?;
    stage.clock.advance(SignedDuration::from_secs(10));
    let kubectl = stage.kubectl_as(&alice).await?;
    assert!(kubectl.run(["get", "pods", "-n", "dev"]).await?.stderr.contains("forbidden"));
    assert!(kubectl.run(["get", "pods", "-n", "dev"]).await?.success(), "made again");

    // An agent without its own permissions says whose move it is.
    stage.cluster.kubectl().ok(["create", "serviceaccount", "weak", "-n", "dev"]).await?;
    let weak = stage.other_agent(&token_of(&stage, "dev", "weak").await?);
    let status = weak.token(&alice, None).await.unwrap_err();
    assert_eq!(status.code(), 503);
    assert!(status.message().contains("apply the agent's manifest again"), "{status}");
    Ok(())
}

async fn token_of(stage: &Stage, namespace: &str, name: &str) -> Result<std::path::PathBuf> {
    token(&stage.cluster, namespace, name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_follow_policy_and_go_when_nobody_needs_them() -> Result<()> {
    let mut stage = Stage::set().await?;
    let tending = tokio::spawn(stage.accounts.clone().tend());
    let alice = user("u-alice", "alice", &["ops"]);
    stage.policy(&[alice_is("view", namespaces(&["dev"]))])?;
    assert_eq!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0, 200);

    // More by a group: usable at once, role by role.
    let ops = |role, scope| (json!({"group": "ops"}), role, scope);
    stage.policy(&[alice_is("view", namespaces(&["dev"])), ops("edit", namespaces(&["web"]))])?;
    assert_eq!(stage.get(&alice, Some("web"), "/api/v1/namespaces/web/secrets").await?.0, 200);
    stage.policy(&[alice_is("view", everywhere())])?;
    assert_eq!(stage.get(&alice, None, "/api/v1/pods").await?.0, 200);
    wait_for("roles that policy does not give any more to go", || async {
        let roles = stage.objects("u-alice", "roles").await?;
        ensure!(roles.is_empty(), "{roles:?}");
        Ok(())
    })
    .await?;
    assert_eq!(stage.get(&alice, Some("web"), "/api/v1/namespaces/web/secrets").await?.0, 403);

    // Less by a group, without any change of policy.
    stage.policy(&[alice_is("view", namespaces(&["dev"])), ops("edit", namespaces(&["web"]))])?;
    assert_eq!(stage.get(&alice, Some("web"), WEB_PODS).await?.0, 200);
    let left = user("u-alice", "alice", &[]);
    assert_eq!(stage.get(&left, Some("dev"), DEV_PODS).await?.0, 200);
    wait_for("the role of the group to go", || async {
        let roles = stage.objects("u-alice", "roles").await?;
        ensure!(roles == ["dev/ztka:u-alice"], "{roles:?}");
        Ok(())
    })
    .await?;
    stage.policy(&[alice_is("view", everywhere())])?;

    // Tokens: the same until two thirds of their life, then another one.
    let first = stage.accounts.token(&alice, None).await?;
    stage.clock.advance(SignedDuration::from_mins(39));
    assert_eq!(stage.accounts.token(&alice, None).await?, first);
    stage.clock.advance(SignedDuration::from_mins(2));
    let second = stage.accounts.token(&alice, None).await?;
    assert_ne!(second, first);
    assert_eq!(stage.get(&alice, None, "/api/v1/pods").await?.0, 200);

    // An apiserver that is away does not end a token that still lives.
    stage.clock.advance(SignedDuration::from_mins(41));
    stage.cluster.kill_apiserver()?;
    assert_eq!(stage.accounts.token(&alice, None).await?, second);
    stage.clock.advance(SignedDuration::from_mins(20));
    assert_eq!(stage.accounts.token(&alice, None).await.unwrap_err().code(), 503);
    stage.cluster.start_apiserver().await?;

    // No role, no account, and what was handed out is worth nothing.
    assert_eq!(stage.get(&alice, None, "/api/v1/pods").await?.0, 200);
    stage.policy(&[])?;
    wait_for("the account to go", || is_gone(&stage, "u-alice")).await?;
    assert_eq!(stage.accounts.token(&alice, None).await.unwrap_err().code(), 403);

    // Disabled: the agent that removes it need not be the one that made it.
    stage.policy(&[alice_is("edit", namespaces(&["dev", "web"]))])?;
    for path in [DEV_PODS, WEB_PODS] {
        let namespace = if path == DEV_PODS { "dev" } else { "web" };
        assert_eq!(stage.get(&alice, Some(namespace), path).await?.0, 200);
    }
    let token = stage.accounts.token(&alice, None).await?;
    let other = stage.other_agent(&stage.token_file);
    let users = BTreeSet::from(["u-alice".parse()?, "u-other".parse()?]);
    other.disabled(&users, &BTreeSet::new()).await.map_err(anyhow::Error::from_boxed)?;
    is_gone(&stage, "u-alice").await?;
    wait_for("the token to end", || async {
        let request = http::Request::get(DEV_PODS).header("authorization", &token);
        let code = stage.pool.send(request.body(ztka_core::empty())?).await?.status();
        ensure!(code == 401, "{code}");
        Ok(())
    })
    .await?;

    // The first agent does not know; its user is asked to try again once, and kubectl does so by itself.
    let kubectl = stage.kubectl_as(&alice).await?;
    let output = kubectl.run(["get", "pods", "-n", "dev"]).await?;
    assert!(output.success(), "{}", output.stderr);

    // Idle for more than a day: gone, whichever agent made it.
    tending.abort();
    stage.clock.advance(SignedDuration::from_hours(25));
    let sweeping = tokio::spawn(stage.other_agent(&stage.token_file).tend());
    wait_for("idle accounts to go", || is_gone(&stage, "u-alice")).await?;
    sweeping.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_run_has_left_follows_policy_from_the_first_use_on() -> Result<()> {
    let mut stage = Stage::set().await?;
    stage.cluster.kubectl().ok(["create", "namespace", "ops"]).await?;
    let alice = user("u-alice", "alice", &[]);
    stage.policy(&[alice_is("edit", namespaces(&["dev", "web", "ops"]))])?;
    for namespace in ["dev", "web", "ops"] {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        assert_eq!(stage.get(&alice, Some(namespace), &path).await?.0, 200);
    }
    // The agent is away while alice loses one namespace, and has less in another.
    stage.policy(&[alice_is("edit", namespaces(&["dev"])), alice_is("view", namespaces(&["ops"]))])?;
    let restarted = stage.other_agent(&stage.token_file);
    let tending = tokio::spawn(restarted.clone().tend());
    restarted.token(&alice, Some("dev")).await?;
    wait_for("what she has lost to go", || async {
        for kind in ["roles", "rolebindings"] {
            let held = stage.objects("u-alice", kind).await?;
            ensure!(held == ["dev/ztka:u-alice", "ops/ztka:u-alice"], "{kind}: {held:?}");
        }
        let role = ["get", "role", "ztka:u-alice", "-n", "ops", "-o", "json"];
        let role = stage.cluster.kubectl().ok(role).await?;
        ensure!(!role.contains("secrets"), "{role}");
        Ok(())
    })
    .await?;
    tending.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_is_told_about_its_user_what_the_calls_themselves_get() -> Result<()> {
    let mut stage = Stage::set().await?;
    let alice = user("u-alice", "alice", &["shop"]);
    stage.policy(&[alice_is("view", namespaces(&["dev", "missing"]))])?;
    let kubectl = stage.kubectl_as(&alice).await?;

    let whoami: Value = serde_json::from_str(&kubectl.ok(["auth", "whoami", "-o", "json"]).await?)?;
    assert_eq!(whoami["status"]["userInfo"]["username"], "alice");
    assert_eq!(whoami["status"]["userInfo"]["uid"], "u-alice");
    assert_eq!(whoami["status"]["userInfo"]["groups"], json!(["shop", "system:authenticated"]));

    let can = async |arguments: &[&str]| {
        let output = kubectl.run([&["auth", "can-i"], arguments].concat()).await?;
        ensure!(["yes", "no"].contains(&output.stdout.trim().split(' ').next().unwrap()), "{output:?}");
        anyhow::Ok(output.stdout.starts_with("yes"))
    };
    for (arguments, expected) in [
        (&["list", "pods", "-n", "dev"][..], true),
        (&["get", "pods/web", "-n", "dev"], true),
        (&["get", "pods", "--subresource=log", "-n", "dev"], true),
        (&["get", "/version"], true),
        (&["list", "pods", "-n", "web"], false),
        (&["list", "pods", "-n", "missing"], false), // policy says yes, the cluster cannot
        (&["list", "pods", "-A"], false),
        (&["delete", "pods", "-n", "dev"], false),
        (&["create", "pods", "--subresource=exec", "-n", "dev"], false),
        (&["get", "secrets", "-n", "dev"], false),
        (&["get", "pods", "-n", "ztka-system"], false),
        (&["get", "/metrics"], false),
        (&["*", "*"], false),
    ] {
        assert_eq!(can(arguments).await?, expected, "{arguments:?}");
    }
    let list = kubectl.ok(["auth", "can-i", "--list", "-n", "dev"]).await?;
    assert!(list.contains("pods/log") && list.contains("/openapi/*"), "{list}");
    let list = kubectl.ok(["auth", "can-i", "--list", "-n", "web"]).await?;
    assert!(!list.contains("pods") && list.contains("selfsubjectreviews"), "{list}");

    // What it says is what the call then does.
    kubectl.ok(["get", "pods", "-n", "dev"]).await?;
    kubectl.ok(["api-resources"]).await?;
    kubectl.ok(["version"]).await?;
    let denied = kubectl.run(["get", "secrets", "-n", "dev"]).await?.stderr;
    assert!(
        denied.contains("secrets is forbidden: User \"alice\" cannot list resource \"secrets\"")
            && denied.contains("no role of alice on cluster prod gives this (they are: view in dev, missing)"),
        "{denied}"
    );
    let denied = kubectl.run(["get", "pods", "-n", "dev", "--as", "bob"]).await?.stderr;
    assert!(denied.contains("leave out --as"), "{denied}");
    let denied = kubectl.run(["get", "serviceaccounts", "-n", "ztka-system"]).await?.stderr;
    assert!(denied.contains("closed to every role"), "{denied}");

    // Everything that a role allows is allowed by the account's RBAC as well, to the last resource.
    stage.policy(&[alice_is("cluster-admin", everywhere())])?;
    assert!(can(&["*", "*", "--all-namespaces"]).await?);
    kubectl.ok(["get", "nodes"]).await?;
    kubectl.ok(["create", "clusterrole", "reader", "--verb=get", "--resource=pods"]).await?;
    Ok(())
}
