//! Port-forward on a real node: only to the ports that policy gives, and each direction ends by itself. The same of exec.

use std::{collections::BTreeMap, fs, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use ztka_core::stream::{
    channel::{Decoder, Event, Version},
    websocket::Sender,
};
use ztka_e2e::{Both, Raw};
use ztka_test_cluster::{BOUND, BUSYBOX, Cluster, Kubectl, Options, wait_for};

/// On 8080 whoever sends a line is answered with a megabyte, on 8081 with a word, and then the connection ends.
const SCRIPT: &str = "head -c 1000000 /dev/zero | tr '\\0' x >/tmp/answer; \
                      printf '#!/bin/sh\\nread -r line; cat /tmp/answer\\n' >/tmp/long; \
                      printf '#!/bin/sh\\nread -r line; echo $line\\n' >/tmp/short; chmod +x /tmp/long /tmp/short; \
                      nc -ll -p 8080 -e /tmp/long & nc -ll -p 8081 -e /tmp/short & echo ready; exec sleep 1000";

async fn start() -> Result<Option<Both>> {
    let Some(cluster) = Cluster::level2_or_skip(Options::default()).await? else { return Ok(None) };
    let both = Both::around(cluster).await?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "main" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", SCRIPT],
        }]},
    });
    both.direct.apply(pod.to_string()).await?;
    both.direct.ok(["wait", "--for=condition=Ready", "pod/main", "--timeout=30s"]).await?;
    wait_for("the pod's servers", || async {
        let said = both.direct.ok(["logs", "main"]).await?;
        ensure!(said.contains("ready"), "{said}");
        Ok(())
    })
    .await?;
    Ok(Some(both))
}

/// kubectl that forwards by SPDY inside WebSocket, as it does by itself, or by SPDY alone.
fn by(kubectl: &Kubectl, is_tunnelled: bool) -> Kubectl {
    let switches = ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"];
    switches.into_iter().fold(kubectl.clone(), |kubectl, switch| kubectl.env(switch, is_tunnelled.to_string()))
}

/// The local port of `-> <port>`.
fn local(said: &str, port: u16) -> Result<u16> {
    let line = said.lines().find(|line| line.contains("127.0.0.1:") && line.ends_with(&format!("-> {port}")));
    let text = line.and_then(|line| line.split("127.0.0.1:").nth(1)?.split(' ').next()).context(said.to_owned())?;
    Ok(text.parse()?)
}

/// Sends a line; what comes until the end. Our direction is ended at once, or only behind the other's end.
async fn ask(port: u16, ends_first: bool) -> Result<Vec<u8>> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"hello\n").await?;
        if ends_first {
            stream.shutdown().await?;
        }
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok(all)
    };
    timeout(BOUND, talk).await.context("the connection does not end")?
}

fn ends(both: &Both, user: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(both.fleet.events_file(0))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let wanted = |event: &Value| {
        event["stage"] == "ResponseComplete"
            && event["user"]["username"] == user
            && event["objectRef"]["subresource"] == "portforward"
    };
    Ok(events.filter(wanted).collect())
}

#[tokio::test]
async fn each_direction_ends_by_itself() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    for is_tunnelled in [true, false] {
        for (way, kubectl) in [("direct", &both.direct), ("through", &both.through)] {
            let kubectl = by(kubectl, is_tunnelled);
            let mut forward = kubectl.spawn(["port-forward", "pod/main", ":8080"])?;
            let port = local(&forward.read_until("-> 8080\n").await?, 8080)?;
            for ends_first in [false, true] {
                let answer = ask(port, ends_first).await.with_context(|| both.fleet.tails())?;
                assert_eq!(answer.len(), 1_000_000, "{way}, tunnelled: {is_tunnelled}, ends first: {ends_first}");
            }
            forward.kill().await?;

            // Input that ends at once while output goes on, before it is seen and long after.
            let script = "(head -c 2000000 /dev/zero; sleep 1; echo late) & wc -c >&2; wait; echo last; exit 4";
            let exec = ["exec", "--stdin", "main", "--", "sh", "-c", script];
            let output = kubectl.run_with_input(exec, "some").await?;
            assert_eq!(output.code, Some(4), "{way}: {}", output.stderr);
            assert!(output.stderr.starts_with("4\n"), "{way}: {}", output.stderr);
            assert_eq!(output.stdout.len(), 2_000_000 + "late\nlast\n".len(), "{way}");
            assert!(output.stdout.ends_with("late\nlast\n"), "{way}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn ports_that_policy_does_not_give_are_refused_with_the_reason() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    let create = ["--org", "acme", "role", "create"];
    let role = |name: &'static str, rest: &[&'static str]| [&create[..], &[name], rest].concat();
    let of_web = role("web-ports", &["--verb=create", "--resource=pods/portforward", "--port=8080"]);
    both.fleet.ztka(&of_web).await?;
    both.fleet.ztka(&role("see-pods", &["--verb=get,list", "--resource=pods"])).await?;
    let (_, pia) = both.colleague("pia", "web-ports").await?;
    both.fleet.bind("acme", "pia", "see-pods", "dev").await?;
    wait_for("both roles", || async { pia.ok(["get", "pod", "main"]).await }).await?;

    for (count, is_tunnelled) in [true, false].into_iter().enumerate() {
        let pia = by(&pia, is_tunnelled);
        let mut command = pia.command(["port-forward", "pod/main", ":8080", ":8081"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut forward = command.spawn()?;
        let mut lines = BufReader::new(forward.stdout.take().context("no pipe")?).lines();
        let mut said = String::new();
        while !said.contains("-> 8081\n") {
            let line = timeout(BOUND, lines.next_line()).await?.with_context(|| both.fleet.tails())?;
            said += &(line.context("kubectl ended")? + "\n");
        }
        let (given, refused) = (local(&said, 8080)?, local(&said, 8081)?);
        assert_eq!(ask(given, false).await?.len(), 1_000_000);
        // Not a byte comes back, and kubectl says why.
        assert!(ask(refused, false).await.map_or(true, |answer| answer.is_empty()));
        let reason = "port 8081 may not be forwarded to: no role of pia";
        let output = timeout(BOUND, forward.wait_with_output()).await.context("kubectl goes on")??;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains(reason), "tunnelled: {is_tunnelled}: {complaint}\n{}", both.fleet.tails());
        wait_for("the end on record", || async {
            let ends = ends(&both, "pia")?;
            let end = ends.get(count).with_context(|| format!("{ends:?}"))?;
            let fact = |name: &str| end["annotations"][format!("ztka.dev/{name}")].as_str().unwrap_or_default();
            ensure!(fact("end") == "denied" && fact("ports") == "8080,8081", "{end}");
            ensure!(fact("reason").contains(reason), "{end}");
            Ok(())
        })
        .await?;
    }
    // What policy gives without a word about ports is whole.
    let mut forward = both.through.spawn(["port-forward", "pod/main", ":8081"])?;
    let port = local(&forward.read_until("-> 8081\n").await?, 8081)?;
    assert_eq!(ask(port, true).await?, b"hello\n");
    forward.kill().await
}

/// One message of a client, on a channel.
fn message(channel: u8, content: &[u8]) -> Vec<u8> {
    let mask = [7, 77, 177, 17];
    let plain = [&[channel], content].concat();
    let masked = plain.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x82, 0x80 | u8::try_from(plain.len()).unwrap_or(0)].into_iter().chain(mask).chain(masked).collect()
}

/// Runs a command by WebSocket; what comes on each channel until the end.
async fn exec(alice: &Raw, version: Version, command: &str, input: &[Vec<u8>]) -> Result<BTreeMap<u8, String>> {
    let (name, protocol) = (alice.server_name(), if version == Version::V4 { "v4" } else { "v5" });
    let query = "container=main&stdin=true&stdout=true&stderr=true&command=sh&command=-c&command=";
    let head = format!(
        "GET /api/v1/namespaces/default/pods/main/exec?{query}{command} HTTP/1.1\r\nHost: {name}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}.channel.k8s.io\r\n\r\n"
    );
    let talk = async {
        let mut io = alice.connect().await?;
        io.write_all(head.as_bytes()).await?;
        let mut received = Vec::new();
        let behind = loop {
            let mut part = [0; 4096];
            let count = io.read(&mut part).await?;
            ensure!(count > 0, "{}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&part[..count]);
            if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break received.split_off(at + 4);
            }
        };
        let answer = String::from_utf8_lossy(&received).to_lowercase();
        ensure!(answer.contains(" 101 ") && answer.contains(&format!("{protocol}.channel.k8s.io")), "{answer}");
        for message in input {
            io.write_all(message).await?;
        }
        let (mut decoder, mut said, mut bytes) = (Decoder::new(Sender::Server, version), BTreeMap::new(), behind);
        loop {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (consumed, event) = decoder.decode(rest)?;
                rest = &rest[consumed..];
                match event {
                    Some(Event::Data { channel, bytes }) => {
                        let text: &mut String = said.entry(channel).or_default();
                        text.push_str(&String::from_utf8_lossy(&bytes));
                    }
                    Some(Event::End(_)) => return Ok(said),
                    _ => {}
                }
            }
            bytes.resize(4096, 0);
            let count = io.read(&mut bytes).await?;
            ensure!(count > 0, "no close frame behind {said:?}");
            bytes.truncate(count);
        }
    };
    timeout(BOUND, talk).await.context("the stream does not end")?
}

#[tokio::test]
async fn both_versions_of_channels_pass() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    let alice = Raw::of(&both.through).await?;
    // The older one knows no end of input.
    let line = message(0, b"typed\n");
    let said = exec(
        &alice,
        Version::V4,
        "read%20-r%20x%3B%20echo%20got%20$x%3B%20echo%20bad%20%3E%262%3B%20exit%205",
        &[line],
    )
    .await?;
    assert_eq!((said[&1].as_str(), said[&2].as_str()), ("got typed\n", "bad\n"), "{said:?}");
    assert!(said[&3].contains("ExitCode") && said[&3].contains('5'), "{said:?}");
    let input = [message(0, b"abc"), message(0, b"def"), message(255, &[0])];
    let said = exec(&alice, Version::V5, "sleep%201%3B%20wc%20-c%3B%20echo%20after", &input).await?;
    assert_eq!(said[&1], "6\nafter\n", "{said:?}");
    assert!(said[&3].contains("Success"), "{said:?}");
    Ok(())
}
