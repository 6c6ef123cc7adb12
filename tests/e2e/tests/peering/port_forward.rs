//! Port-forward through a proxy that has no tunnel: both protocols, both directions, and what policy says of ports.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use ztka_test_cluster::{BOUND, BUSYBOX, Cluster, Options, wait_for};

use super::{OTHER, Stage, by_proxy, fact};

/// Whoever sends a line is answered with it.
const SCRIPT: &str = "printf '#!/bin/sh\nread -r line; echo heard $line\n' >/tmp/answer; chmod +x /tmp/answer; \
                      nc -ll -p 8080 -e /tmp/answer & nc -ll -p 8081 -e /tmp/answer & echo ready; exec sleep 1000";

async fn ask(port: u16) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"hello\n").await?;
        let mut all = String::new();
        stream.read_to_string(&mut all).await?;
        anyhow::Ok(all)
    };
    timeout(BOUND, talk).await.context("the connection does not end")?
}

#[tokio::test]
async fn ports_are_forwarded_through_another_proxy_and_decided_on() -> Result<()> {
    let Some(cluster) = Cluster::level2_or_skip(Options::default()).await? else { return Ok(()) };
    let stage = Stage::around(cluster).await?;
    let Stage { cluster, fleet, alice, beyond } = &stage;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "main" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", SCRIPT],
        }]},
    });
    let direct = cluster.kubectl();
    wait_for("the default account", || direct.ok(["get", "serviceaccount", "default"])).await?;
    direct.apply(pod.to_string()).await?;
    direct.ok(["wait", "--for=condition=Ready", "pod/main", "--timeout=30s"]).await?;
    wait_for("the pod's servers", || async {
        let said = direct.ok(["logs", "main"]).await?;
        ensure!(said.contains("ready"), "{said}");
        Ok(())
    })
    .await?;
    // Somebody who has one port.
    let create = ["--org", "acme", "role", "create"];
    let role = |name: &'static str, rest: &[&'static str]| [&create[..], &[name], rest].concat();
    fleet.ztka(&role("web-ports", &["--verb=create", "--resource=pods/portforward", "--port=8080"])).await?;
    fleet.ztka(&role("see-pods", &["--verb=get,list", "--resource=pods"])).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "pia"]).await?;
    for role in ["web-ports", "see-pods"] {
        fleet.bind("acme", "pia", role, "dev").await?;
    }
    let pia = by_proxy(fleet, &fleet.kubeconfig("acme", "pia").await?, OTHER).await?;
    wait_for("pia's pods", || pia.ok(["get", "pods"])).await?;

    for is_tunnelled in ["true", "false"] {
        for (who, kubectl) in [(&alice.name[..], beyond), ("pia", &pia)] {
            let kubectl = kubectl.clone().env("KUBECTL_PORT_FORWARD_WEBSOCKETS", is_tunnelled);
            let mut forward = kubectl.spawn(["port-forward", "pod/main", ":8080", ":8081"])?;
            let said = forward.read_until("-> 8081\n").await.with_context(|| fleet.tails())?;
            let local = |port: &str| -> Result<u16> {
                let line = said.lines().find(|line| line.contains("127.0.0.1:") && line.ends_with(port));
                let text = line.and_then(|line| line.split("127.0.0.1:").nth(1)?.split(' ').next());
                Ok(text.with_context(|| said.clone())?.parse()?)
            };
            let answer = ask(local("-> 8080")?).await.with_context(|| fleet.tails())?;
            ensure!(answer == "heard hello\n", "{who}, tunnelled: {is_tunnelled}: {answer}");
            if who == "pia" {
                let refused = ask(local("-> 8081")?).await.unwrap_or_default();
                ensure!(refused.is_empty(), "pia, tunnelled: {is_tunnelled}: {refused}");
                let told = forward.read_until("8081").await.with_context(|| fleet.tails())?;
                ensure!(told.contains("8081"), "{told}");
            }
            forward.kill().await?;
        }
    }
    // Both proxies have both on record, under one id.
    wait_for("the records of both", || async {
        let forwards = |proxy: usize| -> Result<Vec<serde_json::Value>> {
            let mut events = stage.events(proxy)?;
            events.retain(|event| {
                event["stage"] == "ResponseComplete" && event["objectRef"]["subresource"] == "portforward"
            });
            Ok(events)
        };
        let (here, there) = (forwards(OTHER)?, forwards(0)?);
        ensure!(here.len() >= 4 && here.len() == there.len(), "{} here, {} there", here.len(), there.len());
        for event in &here {
            ensure!(fact(event, "via").starts_with('p'), "{event:#}");
            ensure!(there.iter().any(|other| other["auditID"] == event["auditID"]), "{event:#}");
        }
        Ok(())
    })
    .await
    .with_context(|| fs::read_to_string(fleet.events_file(OTHER)).unwrap_or_default())
}
