//! Accounts that impersonate, and accounts under a ceiling, against a real apiserver.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use anyhow::Result;
use serde_json::{Value, json};
use stage::{Stage, user};
use ztka_agent::accounts::{AGENT_RBAC, CEILING_RBAC, Mode, Settings};
use ztka_core::Principal;
use ztka_test_cluster::Kubectl;

const DEV_PODS: &str = "/api/v1/namespaces/dev/pods";
const WEB_PODS: &str = "/api/v1/namespaces/web/pods";

fn in_mode(mode: Mode) -> Settings {
    Settings { mode, ..Settings::default() }
}

fn ceiling() -> Mode {
    Mode::Ceiling(["view".to_owned(), "edit".to_owned()].into())
}

/// The apiserver's answer to a request of `who` with headers beside those of the account.
async fn get_with(stage: &Stage, who: &Principal, path: &str, headers: &[(&'static str, &str)]) -> Result<u16> {
    let mut request = http::Request::get(path).body(ztka_core::empty())?;
    stage.accounts.acting(who, Some("dev")).await?.apply(request.headers_mut());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse()?);
    }
    Ok(stage.pool.send(request).await?.status().as_u16())
}

fn binding(name: &str, kind: &str, subject: &str, role: &str) -> String {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}],
    })
    .to_string()
}

/// The list is what policy gives, of which the cluster may have less.
async fn is_bounded(kubectl: &Kubectl) -> Result<()> {
    let list = kubectl.run(["auth", "can-i", "--list", "-n", "dev"]).await?;
    let warned = list.stderr.contains("the list may be incomplete: the cluster's own roles bound");
    anyhow::ensure!(list.success() && warned, "{list:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_may_impersonate_its_user_and_nobody_else() -> Result<()> {
    let mut stage = Stage::set_with(AGENT_RBAC, in_mode(Mode::Impersonate)).await?;
    let alice = user("u-alice", "alice", &["dev"]);
    stage.policy(&[(json!({"user": "alice"}), "edit", json!("cluster"))])?;

    // Policy gives much, and the cluster's own RBAC nothing yet.
    assert_eq!(stage.get(&alice, Some("dev"), DEV_PODS).await?.0, 403);
    let kubectl = stage.cluster.kubectl();
    kubectl.apply(binding("alice", "User", "ztka:alice", "view")).await?;
    let can = async |path: &str| anyhow::Ok(stage.get(&alice, Some("dev"), path).await?.0.as_u16());
    ztka_test_cluster::wait_for("the binding of the user", || async {
        anyhow::ensure!(can(DEV_PODS).await? == 200);
        Ok(())
    })
    .await?;
    assert_eq!(can("/api/v1/namespaces/dev/secrets").await?, 403);
    kubectl.apply(binding("devs", "Group", "ztka:dev", "edit")).await?;
    ztka_test_cluster::wait_for("the binding of the group", || async {
        anyhow::ensure!(can("/api/v1/namespaces/dev/secrets").await? == 200);
        Ok(())
    })
    .await?;
    // The cluster's own record says who it was.
    let seen = stage.cluster.audit_events()?.into_iter().find(|event| {
        event["objectRef"]["resource"] == "secrets" && event["impersonatedUser"]["username"] == "ztka:alice"
    });
    let seen = seen.unwrap();
    assert_eq!(seen["user"]["username"], "system:serviceaccount:ztka-system:u-alice");
    let groups = &seen["impersonatedUser"]["groups"];
    assert_eq!(groups, &json!(["ztka:dev", "system:authenticated"]), "{seen}");

    // With the account's token: nobody else, no other group, and nothing in its own name.
    for headers in [
        [("impersonate-user", "ztka:bob"), ("impersonate-group", "ztka:dev")],
        [("impersonate-user", "system:admin"), ("impersonate-group", "ztka:dev")],
        [("impersonate-user", "ztka:alice"), ("impersonate-group", "system:masters")],
        [("impersonate-user", "ztka:alice"), ("impersonate-group", "ztka:ops")],
        [("impersonate-user", "ztka:alice"), ("impersonate-uid", "1")],
        [("impersonate-user", "ztka:alice"), ("impersonate-extra-a", "1")],
        [("impersonate-user", "system:serviceaccount:ztka-system:ztka-agent"), ("impersonate-group", "ztka:dev")],
    ] {
        assert_eq!(get_with(&stage, &alice, DEV_PODS, &headers).await?, 403, "{headers:?}");
    }
    let token = stage.accounts.token(&alice, Some("dev")).await?;
    let itself = http::Request::get(DEV_PODS).header("authorization", token).body(ztka_core::empty())?;
    assert_eq!(stage.pool.send(itself).await?.status(), 403);

    // Out of a group, and in none at all: not in every group by that.
    let alone = user("u-alice", "alice", &[]);
    assert_eq!(stage.get(&alone, Some("dev"), "/api/v1/namespaces/dev/secrets").await?.0, 403);
    let rules = ["get", "clusterrole", "ztka:u-alice", "-o", "json"];
    let role: Value = serde_json::from_str(&kubectl.ok(rules).await?)?;
    let rules = role["rules"].as_array().unwrap().iter().filter(|rule| rule["verbs"] == json!(["impersonate"]));
    let names: Vec<_> = rules.map(|rule| (&rule["resources"][0], &rule["resourceNames"])).collect();
    assert_eq!(names, [(&json!("users"), &json!(["ztka:alice"]))]);
    ztka_test_cluster::wait_for("the group to be out of reach", || async {
        let code = get_with(&stage, &alone, DEV_PODS, &[("impersonate-group", "ztka:dev")]).await?;
        anyhow::ensure!(code == 403, "{code}");
        Ok(())
    })
    .await?;

    // kubectl, by policy and cluster both.
    let through = stage.kubectl_as(&alice).await?;
    assert!(through.ok(["auth", "whoami"]).await?.contains("alice"));
    assert!(through.run(["auth", "can-i", "delete", "pods", "-n", "dev"]).await?.stdout.starts_with("yes"));
    assert!(through.run(["auth", "can-i", "list", "pods", "-n", "web"]).await?.stdout.starts_with("no"));
    through.ok(["get", "secrets", "-n", "dev"]).await?;
    is_bounded(&through).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_ceiling_nobody_gets_more_than_the_owner_has_in_hand() -> Result<()> {
    let mut stage = Stage::set_with(CEILING_RBAC, in_mode(ceiling())).await?;
    let alice = user("u-alice", "alice", &[]);
    let alice_is = |role: &'static str, scope: Value| (json!({"user": "alice"}), role, scope);
    let in_dev = || json!({"namespaces": ["dev"]});
    stage.policy(&[alice_is("view", in_dev()), alice_is("edit", json!({"namespaces": ["web"]}))])?;
    let get =
        async |namespace: &str, path: &str| anyhow::Ok(stage.get(&alice, Some(namespace), path).await?.0.as_u16());
    assert_eq!(get("dev", DEV_PODS).await?, 200);
    assert_eq!(get("dev", "/api/v1/namespaces/dev/secrets").await?, 403);
    assert_eq!(get("web", "/api/v1/namespaces/web/secrets").await?, 200);
    let bindings = stage.objects("u-alice", "rolebindings").await?;
    assert_eq!(bindings, ["dev/ztka:u-alice:view", "web/ztka:u-alice:edit"]);
    assert!(
        stage.objects("u-alice", "roles").await?.is_empty()
            && stage.objects("u-alice", "clusterroles").await?.is_empty()
    );

    // What policy gives beyond the ceiling reaches nobody.
    stage.policy(&[alice_is("cluster-admin", json!("cluster"))])?;
    assert!(stage.accounts.follow_policy().await);
    assert_eq!(stage.get(&alice, Some("dev"), "/api/v1/nodes").await?.0, 403);
    // What she had before is taken from the apiserver's own view a moment after it is deleted.
    ztka_test_cluster::wait_for("the binding before to be gone", || async {
        let code = stage.get(&alice, Some("web"), WEB_PODS).await?.0;
        anyhow::ensure!(code == 403, "{code}");
        Ok(())
    })
    .await?;
    let through = stage.kubectl_as(&alice).await?;
    assert!(through.run(["auth", "can-i", "list", "nodes"]).await?.stdout.starts_with("no"));
    through.ok(["api-resources"]).await?;
    is_bounded(&through).await?;

    // The owner narrows it.
    stage.policy(&[alice_is("view", json!("cluster"))])?;
    assert_eq!(stage.get(&alice, None, "/api/v1/configmaps").await?.0, 200);
    let narrow = [
        "patch",
        "clusterrole",
        "ztka:ceiling:view",
        "--type=json",
        r#"--patch=[{"op": "replace", "path": "/rules", "value": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}]"#,
    ];
    stage.cluster.kubectl().ok(narrow).await?;
    ztka_test_cluster::wait_for("the ceiling to come down", || async {
        anyhow::ensure!(stage.get(&alice, None, "/api/v1/configmaps").await?.0 == 403);
        Ok(())
    })
    .await?;

    // The agent itself gets no further.
    let token = std::fs::read_to_string(&stage.token_file)?;
    let agent = async |method: &str, path: &str, body: Value| {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {}", token.trim()));
        anyhow::Ok(stage.pool.send(request.body(ztka_core::body(body.to_string()))?).await?.status().as_u16())
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let to = |role: &str, name: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "ztka-agent", "namespace": "ztka-system"}],
        })
    };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "ztka:more"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    });
    assert_eq!(agent("POST", &format!("{rbac}/clusterroles"), role).await?, 403, "it writes no role");
    assert_eq!(agent("POST", &format!("{rbac}/clusterrolebindings"), to("cluster-admin", "more")).await?, 403);
    assert_eq!(
        agent("PUT", &format!("{rbac}/clusterrolebindings/cluster-admin"), to("cluster-admin", "cluster-admin"))
            .await?,
        403
    );
    assert_eq!(agent("GET", "/api/v1/namespaces/kube-system/secrets", Value::Null).await?, 403);
    assert_eq!(
        agent("POST", &format!("{rbac}/clusterrolebindings"), to("ztka:ceiling:edit", "as-far-as-it-goes")).await?,
        201
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_mode_to_another_nothing_of_the_first_is_left() -> Result<()> {
    let mut stage = Stage::set().await?;
    stage.cluster.kubectl().apply(CEILING_RBAC).await?;
    stage.cluster.kubectl().apply(AGENT_RBAC).await?;
    let alice = user("u-alice", "alice", &["dev"]);
    stage.policy(&[(json!({"user": "alice"}), "edit", json!({"namespaces": ["dev", "web"]}))])?;
    for namespace in ["dev", "web"] {
        stage.accounts.token(&alice, Some(namespace)).await?;
    }
    let has = async |kind: &str| stage.objects("u-alice", kind).await;
    let follows = async |mode: Mode| {
        let agent = stage.agent_in(mode);
        agent.token(&alice, Some("dev")).await?;
        anyhow::ensure!(agent.follow_policy().await, "it does not follow");
        anyhow::Ok(agent)
    };

    follows(Mode::Impersonate).await?;
    assert!(has("rolebindings").await?.is_empty() && has("roles").await?.is_empty());
    assert_eq!(has("clusterrolebindings").await?, ["<none>/ztka:u-alice"].map(|name| name.replace("<none>", "")));

    // Under the ceiling roles cannot be removed, and nothing binds them.
    follows(Mode::ServiceAccount).await?;
    assert_eq!(has("rolebindings").await?, ["dev/ztka:u-alice"]);
    follows(ceiling()).await?;
    assert_eq!(has("rolebindings").await?, ["dev/ztka:u-alice:edit"]);
    assert_eq!(has("clusterrolebindings").await?, ["/ztka:u-alice:"]);

    let last = follows(Mode::ServiceAccount).await?;
    assert_eq!(has("rolebindings").await?, ["dev/ztka:u-alice"]);
    assert_eq!(has("clusterrolebindings").await?, ["/ztka:u-alice"]);
    last.remove(alice.user()).await.map_err(anyhow::Error::from_boxed)?;
    for kind in ["serviceaccounts", "clusterroles", "clusterrolebindings", "roles", "rolebindings"] {
        assert!(has(kind).await?.is_empty(), "{kind}");
    }
    Ok(())
}
