//! What we read in a request beside what the apiserver's own audit log says of it: verb, group, version, resource,
//! subresource, namespace, name. What we refuse as malformed is not asked: it never gets there.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
};

use anyhow::{Context as _, Result, ensure};
use http::{Method, Uri, Version};
use serde_json::Value;
use tokio::task::JoinSet;
use ztka_core::RequestAttributes;
use ztka_e2e::{Client, Connection};
use ztka_test_cluster::{Cluster, Kubectl, Options};

use readings::{Reading, chance::Chance, seen};

#[path = "../../../../ztka-core/tests/readings/mod.rs"]
mod readings;

const CONNECTIONS: usize = 16;
/// So many are sent before the log is read.
const BATCH: usize = 20_000;

/// Each request once, when it is over.
const POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";

#[tokio::test]
async fn twenty_thousand_requests_are_read_as_the_apiserver_reads_them() -> Result<()> {
    compare(20_000).await
}

#[tokio::test]
#[ignore = "takes minutes; part of cargo xtask test --long"]
async fn a_million_requests_are_read_as_the_apiserver_reads_them() -> Result<()> {
    compare(1_000_000).await
}

async fn compare(requests: usize) -> Result<()> {
    // A log that is not turned over while it is read.
    let options = Options::default().without_controllers().audit_policy(POLICY);
    let cluster = Cluster::level1(options.apiserver_arg("--audit-log-maxsize=100000")).await?;
    // Somebody who may nothing: what is asked for has no effect, and is on record all the same.
    let (kubeconfig, _) = cluster.user("nobody", &[])?;
    let client = Client::of(&Kubectl::new(kubeconfig).await?).await?;
    let mut log = BufReader::new(File::open(cluster.audit_log())?);
    log.seek(SeekFrom::End(0))?;

    let mut chance = Chance(0xa0d17);
    let (mut sent, mut refused, mut objects) = (0, 0, 0);
    while sent < requests {
        let (mut batch, mut expected) = (Vec::new(), HashMap::new());
        while batch.len() < BATCH.min(requests - sent) {
            let (method, target) = chance.request();
            let parsed = target.parse::<Uri>().ok().zip(method.parse::<Method>().ok());
            let Some((uri, method)) = parsed else { continue };
            let Ok(ours) = RequestAttributes::parse(&method, &uri, None) else {
                refused += 1;
                continue;
            };
            // As it is sent on; and as it was received, where that is a path.
            let canonical = ours.path_and_query().as_str().to_owned();
            let received = target.starts_with('/').then_some(target).filter(|received| *received != canonical);
            for target in std::iter::once(canonical).chain(received) {
                let id = format!("request-{}", sent + batch.len());
                expected.insert(id.clone(), (format!("{method} {target}"), seen(&ours)));
                batch.push((id, method.clone(), target));
            }
        }
        sent += batch.len();
        send(&client, batch).await?;
        for line in log.by_ref().lines() {
            let event: Value = serde_json::from_str(&line?)?;
            let id = event["auditID"].as_str().context("an event without an id")?;
            // Those of the test kit and of the apiserver itself have ids of their own.
            let Some((what, ours)) = expected.remove(id) else { continue };
            objects += usize::from(ours.is_resource);
            let theirs = told(&event, &ours);
            ensure!(theirs == ours, "{what}\n  ours   {ours:?}\n  theirs {theirs:?}\n  {event}");
        }
        let missing: Vec<_> = expected.values().map(|(what, _)| what).take(20).collect();
        ensure!(missing.is_empty(), "{} are not in the log, such as {missing:#?}", expected.len());
    }
    println!("{sent} requests read alike, {objects} of them for objects; {refused} refused and not sent");
    ensure!(objects > requests / 4 && sent - objects > requests / 100, "{objects} of {sent} are for objects");
    Ok(())
}

async fn send(client: &Client, batch: Vec<(String, Method, String)>) -> Result<()> {
    let mut workers = JoinSet::new();
    let share = batch.len().div_ceil(CONNECTIONS);
    for part in batch.chunks(share) {
        let (part, mut connection) = (part.to_vec(), client.connect(Version::HTTP_2).await?);
        workers.spawn(async move { send_all(&mut connection, part).await });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}

async fn send_all(connection: &mut Connection, requests: Vec<(String, Method, String)>) -> Result<()> {
    for (id, method, target) in requests {
        let headers = [("audit-id", id.as_str())];
        let answer = connection.send_with(method.clone(), &target, &headers, "").await;
        let answer = answer.with_context(|| format!("{method} {target}"))?;
        // The log is written before the answer is.
        ensure!(
            answer.headers.get("audit-id").is_some_and(|told| told == id.as_str()),
            "{method} {target}: {answer:?}"
        );
    }
    Ok(())
}

/// What an event says, as a reading. Of a path it has the encoded form alone, which tells no more than we asked for.
fn told(event: &Value, ours: &Reading) -> Reading {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let verb = text(&event["verb"]);
    let Some(object) = event.get("objectRef") else {
        let path = if ours.is_resource { text(&event["requestURI"]) } else { ours.path.clone() };
        return Reading { is_resource: false, verb, path, ..Reading::default() };
    };
    Reading {
        is_resource: true,
        verb,
        path: ours.path.clone(),
        group: text(&object["apiGroup"]),
        version: text(&object["apiVersion"]),
        namespace: text(&object["namespace"]),
        resource: text(&object["resource"]),
        subresource: text(&object["subresource"]),
        name: text(&object["name"]),
    }
}
