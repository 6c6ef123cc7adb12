//! Watches: events come, the end of one end is the end of the other, and a thousand leave room for everything else.

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::task::JoinSet;
use ztka_e2e::{Both, Client, Fleet, Installation, seen_of};
use ztka_test_cluster::{Cluster, Options, wait_for, wait_for_within};

/// The stages of the watches of `resource` by a user's account, in the apiserver's own log.
fn stages(both: &Both, resource: &str) -> Result<Vec<String>> {
    let of_account = |event: &Value| {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        user.starts_with("system:serviceaccount:ztka-system:") && !user.ends_with(":ztka-agent")
    };
    let watches = seen_of(&both.cluster, |event| {
        event["verb"] == "watch" && event["objectRef"]["resource"] == resource && of_account(event)
    })?;
    Ok(watches.iter().filter_map(|event| event["stage"].as_str()).map(str::to_owned).collect())
}

#[tokio::test]
async fn events_come_and_the_end_of_kubectl_ends_the_watch() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let mut watch = both.through.spawn(["get", "configmaps", "--watch", "-o", "name"])?;
    watch.read_until("configmap/kube-root-ca.crt").await?;
    both.direct.ok(["create", "configmap", "seen"]).await?;
    watch.read_until("configmap/seen").await?;
    both.direct.ok(["delete", "configmap", "seen"]).await?;

    let mut events =
        both.through.spawn(["get", "endpointslices", "-A", "--watch", "--output-watch-events", "-o", "json"])?;
    both.direct.ok(["create", "service", "clusterip", "one", "--tcp=80"]).await?;
    events.read_until(r#""ADDED""#).await?;
    events.kill().await?;

    wait_for("the upstream watch", || async {
        let stages = stages(&both, "configmaps")?;
        ensure!(stages.iter().any(|stage| stage == "ResponseStarted"), "{stages:?}");
        Ok(())
    })
    .await?;
    assert!(!stages(&both, "configmaps")?.iter().any(|stage| stage == "ResponseComplete"), "it has ended too early");
    watch.kill().await?;
    wait_for("the end of the upstream watch", || async {
        let stages = stages(&both, "configmaps")?;
        ensure!(stages.iter().any(|stage| stage == "ResponseComplete"), "{stages:?}");
        Ok(())
    })
    .await?;

    // A watch that ends by itself ends kubectl without an error.
    both.through.ok(["get", "--raw", "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1"]).await?;
    let expired = "get --raw /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=1&timeoutSeconds=2";
    let words: Vec<_> = expired.split(' ').collect();
    let (direct, through) = (both.direct.run(&words).await?, both.through.run(&words).await?);
    assert_eq!(direct.code, through.code, "{}{}", direct.stderr, through.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watches_leave_room() -> Result<()> {
    const CONNECTIONS: usize = 10;
    const EACH: usize = 100;
    let both = Both::start(Options::default()).await?;
    let client = Client::of(&both.through).await?;
    let target = "/api/v1/namespaces/default/secrets?watch=1&allowWatchBookmarks=true&timeoutSeconds=600";

    let mut opening = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = client.clone();
        opening.spawn(async move {
            let mut connection = client.connect(Version::HTTP_2).await?;
            let mut watches = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                let answer = connection.begin(Method::GET, target, "").await?;
                ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
                watches.push(answer.into_body());
            }
            Ok((connection, watches))
        });
    }
    let mut open = Vec::new();
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }

    // Everything else goes on, on these connections and on new ones.
    both.through.ok(["get", "namespaces"]).await?;
    let (connection, _) = open.first_mut().context("nothing is open")?;
    connection.read("/api/v1/namespaces/default").await?;
    both.through.ok(["create", "secret", "generic", "news", "--from-literal=a=b"]).await?;

    // Each of the thousand hears of it.
    let mut hearing = JoinSet::new();
    let mut connections = Vec::new();
    for (connection, watches) in open {
        connections.push(connection);
        for mut watch in watches {
            hearing.spawn(async move {
                let mut text = Vec::new();
                while !text.windows(6).any(|part| part == b"\"news\"") {
                    let frame = watch.frame().await.context("the watch ended")??;
                    text.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                anyhow::Ok(watch)
            });
        }
    }
    let mut heard = Vec::new();
    while let Some(watch) = hearing.join_next().await {
        heard.push(watch??);
    }
    assert_eq!(heard.len(), CONNECTIONS * EACH);

    // Clients that are gone leave nothing open upstream.
    drop((heard, connections));
    wait_for_within(std::time::Duration::from_secs(60), "the ends of the upstream watches", || async {
        let stages = stages(&both, "secrets")?;
        let count = |stage: &str| stages.iter().filter(|found| *found == stage).count();
        let (started, complete) = (count("ResponseStarted"), count("ResponseComplete"));
        ensure!(started == CONNECTIONS * EACH && complete == started, "{started} were begun, {complete} have ended");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn too_much_of_one_user_is_told_so_and_leaves_room_for_others() -> Result<()> {
    let wanted = Installation { proxy_config: "[limits]\nuser_streams = 3\n".into(), ..Installation::default() };
    let cluster = Cluster::level1(Options::default()).await?;
    let both = Both::in_fleet(cluster, Fleet::start_with(wanted).await?).await?;
    let (_, bob) = both.colleague("bob", "view").await?;
    let target = "/api/v1/namespaces/default/configmaps?watch=1";
    let mut alices = Client::of(&both.through).await?.connect(Version::HTTP_2).await?;
    let mut bobs = Client::of(&bob).await?.connect(Version::HTTP_2).await?;
    let mut open = Vec::new();
    for _ in 0..3 {
        let watch = alices.begin(Method::GET, target, "").await?;
        assert_eq!(watch.status(), StatusCode::OK);
        open.push(watch);
    }
    let answer = alices.send(Method::GET, target, "").await?;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
    alices.read("/api/v1/namespaces/default/configmaps").await?;
    assert_eq!(bobs.begin(Method::GET, target, "").await?.status(), StatusCode::OK);

    // One that ends makes room.
    open.pop();
    wait_for("room for another watch", || async {
        let mut connection = Client::of(&both.through).await?.connect(Version::HTTP_2).await?;
        let status = connection.begin(Method::GET, target, "").await?.status();
        ensure!(status == StatusCode::OK, "{status}");
        Ok(())
    })
    .await
}
