//! One user at work in many places at once.

use anyhow::{Result, ensure};
use http::{Method, StatusCode, Version};
use tokio::task::JoinSet;
use ztka_e2e::{Both, Client};
use ztka_test_cluster::Options;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_and_twenty_eight_requests_at_once() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    both.direct.ok(["create", "configmap", "plain", "--from-literal=key=value"]).await?;
    let target = "/api/v1/namespaces/default/configmaps/plain";
    let client = Client::of(&both.through).await?;

    // 128 connections, HTTP/1.1 and HTTP/2 by turns, each with several requests one after the other.
    let mut connections = JoinSet::new();
    for number in 0..128 {
        let client = client.clone();
        connections.spawn(async move {
            let version = if number % 2 == 0 { Version::HTTP_2 } else { Version::HTTP_11 };
            let mut connection = client.connect(version).await?;
            for _ in 0..5 {
                let answer = connection.send(Method::GET, target, "").await?;
                ensure!(answer.status == StatusCode::OK, "{}: {:?}", answer.status, answer.body);
                ensure!(answer.body.windows(5).any(|part| part == b"value"), "{:?}", answer.body);
            }
            Ok(())
        });
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }

    // Writes at the same time, every one of which counts.
    let mut writers = JoinSet::new();
    for number in 0..128 {
        let client = client.clone();
        writers.spawn(async move {
            let mut connection = client.connect(Version::HTTP_2).await?;
            let body = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"w-{number}","labels":{{"w":"y"}}}}}}"#
            );
            let answer = connection.send(Method::POST, "/api/v1/namespaces/default/configmaps", body).await?;
            ensure!(answer.status == StatusCode::CREATED, "{}: {:?}", answer.status, answer.body);
            Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let names = both.through.ok(["get", "configmaps", "-l", "w=y", "-o", "name"]).await?;
    assert_eq!(names.lines().count(), 128);
    Ok(())
}

#[tokio::test]
async fn fifty_kubectl_at_once() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let mut all = JoinSet::new();
    for number in 0..50 {
        // Half of them find out anew what the cluster serves.
        let kubectl = if number % 2 == 0 { both.through.clone().fresh()? } else { both.through.clone() };
        all.spawn(async move {
            let name = format!("by-{number}");
            match number % 5 {
                0 => kubectl.ok(["get", "namespaces", "-o", "wide"]).await,
                1 => kubectl.ok(["create", "configmap", &name]).await,
                2 => kubectl.ok(["describe", "namespace", "default"]).await,
                3 => kubectl.ok(["auth", "can-i", "create", "pods"]).await,
                _ => kubectl.ok(["get", "all", "-A", "-o", "yaml"]).await,
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    let names = both.direct.ok(["get", "configmaps", "-o", "name"]).await?;
    assert_eq!(names.lines().filter(|name| name.starts_with("configmap/by-")).count(), 10);
    Ok(())
}
