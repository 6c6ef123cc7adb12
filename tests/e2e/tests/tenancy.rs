//! Two organisations on one installation: nothing of one can be reached with anything of the other's.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::{Fleet, Raw, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

/// The id of a cluster.
async fn id(fleet: &Fleet, org: &str, name: &str) -> Result<String> {
    let clusters = fleet.ztka_json(org, &["cluster", "list"]).await?;
    let found = clusters.as_array().into_iter().flatten().find(|cluster| cluster["name"] == name);
    Ok(found.and_then(|cluster| cluster["id"].as_str()).context("no such cluster")?.to_owned())
}

/// A `cluster-admin` of every cluster of the organisation; both organisations have one of the same name.
async fn admin(fleet: &Fleet, org: &str) -> Result<User> {
    fleet.ztka(&["--org", org, "user", "create", "alice"]).await?;
    let all =
        ["--org", org, "binding", "create", "all", "--role", "cluster-admin", "--user", "alice", "--all-clusters"];
    fleet.ztka(&all).await?;
    fleet.kubeconfig(org, "alice").await
}

#[tokio::test]
async fn two_organisations_never_cross() -> Result<()> {
    let (red_cluster, blue_cluster) =
        tokio::try_join!(Cluster::level1(Options::default()), Cluster::level1(Options::default()))?;
    let mut fleet = Fleet::start().await?;
    for (org, cluster) in [("red", &red_cluster), ("blue", &blue_cluster)] {
        fleet.org(org).await?;
        fleet.cluster(org, "main", cluster, &[]).await?;
        cluster.kubectl().ok(["create", "configmap", org]).await?;
    }
    let (red, blue) = (admin(&fleet, "red").await?, admin(&fleet, "blue").await?);
    let (red_id, blue_id) = (id(&fleet, "red", "main").await?, id(&fleet, "blue", "main").await?);
    let (red_kubectl, blue_kubectl) = (fleet.kubectl(&red, "main").await?, fleet.kubectl(&blue, "main").await?);

    // Each sees its own, both at once and again and again.
    for _ in 0..10 {
        let list = ["get", "configmaps", "-o", "name"];
        let (seen_by_red, seen_by_blue) = tokio::try_join!(red_kubectl.ok(list), blue_kubectl.ok(list))?;
        assert!(seen_by_red.contains("configmap/red") && !seen_by_red.contains("blue"), "{seen_by_red}");
        assert!(seen_by_blue.contains("configmap/blue") && !seen_by_blue.contains("red"), "{seen_by_blue}");
    }

    // Red's certificate for blue's cluster: by server name, by Host, and by path.
    let raw = Raw::of(&red_kubectl).await?;
    assert_eq!(raw.server_name(), format!("{red_id}.kube.ztka.test"));
    let target = "/api/v1/namespaces/default/configmaps/blue";
    let blue_name = format!("{blue_id}.kube.ztka.test");
    let common = raw.named("kube.ztka.test");
    let unnamed = common.without_sni();
    let by_name = raw.named(&blue_name).get(target, "").await?;
    let ask = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let by_path = format!("/clusters/{blue_id}{target}");
    for (what, said) in [
        ("server name", by_name),
        ("host", raw.send(ask(target, &blue_name)).await?),
        ("host with port", raw.send(ask(target, &format!("{blue_name}:443"))).await?),
        ("host of the common name", common.send(ask(target, &blue_name)).await?),
        ("absolute form", raw.send(ask(&format!("https://{blue_name}{target}"), &blue_name)).await?),
        ("authority", raw.get_h2(&blue_name, target, &[]).await?),
        ("host beside authority", raw.get_h2(raw.server_name(), target, &[("host", &blue_name)]).await?),
        ("path by HTTP/2", common.get_h2("kube.ztka.test", &by_path, &[]).await?),
        ("path", common.get(&by_path, "").await?),
        ("path without server name", unnamed.get(&by_path, "").await?),
        ("no cluster", common.get(target, "").await?),
    ] {
        assert_eq!(said.code, 421, "{what}: {}", said.text);
        assert!(said.text.contains(r#""kind":"Status""#), "{what}: {}", said.text);
    }
    // Below its own server name `/clusters/…` is but a path of its own cluster, which has nothing there.
    let inside = raw.get(&by_path, "").await?;
    assert!(matches!(inside.code, 403 | 404), "{}", inside.text);
    // Its own cluster it reaches in each of these ways.
    let own = "/api/v1/namespaces/default/configmaps/red";
    for said in [
        raw.get(own, "").await?,
        raw.get_h2(raw.server_name(), own, &[]).await?,
        common.get(&format!("/clusters/{red_id}{own}"), "").await?,
        unnamed.get(&format!("/clusters/{red_id}{own}"), "").await?,
    ] {
        assert_eq!(said.code, 200, "{}", said.text);
    }

    // Blue's apiserver has not seen red, nor has red's log anything of blue's cluster.
    let uri = |event: &Value| event["requestURI"].as_str().unwrap_or_default().to_owned();
    let events = blue_cluster.audit_events()?;
    assert!(!events.iter().any(|event| uri(event).ends_with("/configmaps/blue") && event["verb"] == "get"));
    let tail = async |org: &str| fleet.ztka(&["--org", org, "--output", "json", "audit", "tail", "-n", "1000"]).await;
    wait_for("both logs", || async {
        for (org, own, other) in [("red", &red_id, &blue_id), ("blue", &blue_id, &red_id)] {
            let text = tail(org).await?;
            ensure!(text.contains(own.as_str()), "nothing of {org}");
            let clusters = text.lines().map(|line| anyhow::Ok(serde_json::from_str::<Value>(line)?));
            for event in clusters {
                let event = event?;
                ensure!(event["annotations"]["ztka.dev/cluster"] != other.as_str(), "{org} has {event}");
            }
        }
        Ok(())
    })
    .await?;

    // Red's own administrators see what alice tried, and blue's nothing of it.
    let denials = async |org: &str| {
        let tail = ["--org", org, "--output", "json", "audit", "tail", "--decision", "deny", "-n", "1000"];
        let text = fleet.ztka(&tail).await?;
        text.lines().map(|line| anyhow::Ok(serde_json::from_str::<Value>(line)?)).collect::<Result<Vec<_>>>()
    };
    let is_try = |event: &&Value| event["responseStatus"]["code"] == 421 && uri(event).ends_with("/configmaps/blue");
    wait_for("the tries in red's log", || async {
        let tries: Vec<_> = denials("red").await?.iter().filter(is_try).cloned().collect();
        ensure!(tries.iter().any(|event| uri(event) == by_path), "not the one by path: {tries:?}");
        ensure!(tries.iter().all(|event| event["user"]["username"] == "alice"), "{tries:?}");
        Ok(())
    })
    .await?;
    ensure!(!denials("blue").await?.iter().any(|event| is_try(&event)), "red's tries are in blue's log");

    // The administrators' side: red's own administrator is nobody in blue.
    fleet.ztka(&["--org", "red", "user", "create", "rita", "--admin", "org"]).await?;
    let credential = fleet.path("rita.toml");
    let file = credential.to_str().context("a path that is not UTF-8")?;
    fleet.ztka(&["--org", "red", "credential", "--user", "rita", "--file", file]).await?;
    let rita = async |org: &str, words: &str| {
        let all = ["--credential", file, "--org", org].into_iter().chain(words.split(' '));
        let output = tokio::process::Command::new(ztka_e2e::program("ztka")?).args(all).output().await?;
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    assert!(rita("red", "user list").await?.0);
    let blue_org = fleet.ztka(&["--output", "json", "org", "list"]).await?;
    let blue_org: Value = serde_json::from_str(&blue_org)?;
    let blue_org = blue_org.as_array().into_iter().flatten().find(|org| org["name"] == "blue");
    let blue_org = blue_org.and_then(|org| org["id"].as_str()).context("blue")?;
    for org in ["blue", blue_org] {
        for words in ["user list", "cluster list", "cluster token main", "audit tail", "kubeconfig --user alice"] {
            let (done, said) = rita(org, words).await?;
            assert!(!done, "{org} {words}");
            assert!(said.starts_with("error: "), "{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn clusters_are_reached_by_path_too() -> Result<()> {
    let cluster = Cluster::level1(Options::default().nodes(1)).await?;
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let by_name = admin(&fleet, "acme").await?;
    fleet.kubectl(&by_name, "dev").await?;
    let file = fleet.path("by-path.kubeconfig");
    let path = file.to_str().context("a path that is not UTF-8")?;
    fleet.ztka(&["--org", "acme", "kubeconfig", "--user", "alice", "--path", "--file", path]).await?;
    let kubectl = Kubectl::new(&file).await?.context("dev");
    let server = kubectl.ok(["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]).await?;
    assert_eq!(server, format!("https://127.0.0.1:{}/clusters/{}", fleet.front(), id(&fleet, "acme", "dev").await?));

    wait_for("the cluster by path", || async { kubectl.ok(["get", "namespaces"]).await }).await?;
    kubectl.ok(["create", "deployment", "web", "--image=web"]).await?;
    kubectl.ok(["rollout", "status", "deployment/web", "--timeout=40s"]).await?;
    assert!(kubectl.ok(["logs", "deployment/web"]).await?.contains("second line"));
    assert_eq!(kubectl.ok(["exec", "deployment/web", "--", "echo", "hello"]).await?, "hello\n");
    let mut watch = kubectl.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("configmap/kube-root-ca.crt").await?;
    kubectl.ok(["create", "configmap", "seen"]).await?;
    watch.read_until("configmap/seen").await?;
    watch.kill().await?;
    kubectl.ok(["explain", "pods.spec"]).await?;
    assert_eq!(kubectl.ok(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?, "alice");
    Ok(())
}
