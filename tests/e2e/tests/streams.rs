//! Streams on a real node, over WebSocket and over SPDY: exec, attach, cp, logs, port-forward, and their audit events.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::timeout,
};
use ztka_e2e::Both;
use ztka_test_cluster::{BOUND, BUSYBOX, Cluster, Kubectl, Options, wait_for};

/// Of the file that is copied both ways.
const FILE_SIZE: usize = 100_000_000;
/// Of the file that is read through port-forward.
const PAGE_SIZE: usize = 10_000_000;
/// Answers what it hears, serves files by HTTP.
const SCRIPT: &str = "mkdir /www; httpd -p 8080 -h /www; echo ready; \
                      while read -r line; do echo \"heard $line\"; done; exec sleep 1000";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    WebSocket,
    Spdy,
}

impl Protocol {
    const BOTH: [Self; 2] = [Self::WebSocket, Self::Spdy];

    /// kubectl that takes this protocol.
    fn of(self, kubectl: &Kubectl) -> Kubectl {
        let is_web_socket = (self == Self::WebSocket).to_string();
        ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"]
            .into_iter()
            .fold(kubectl.clone(), |kubectl, switch| kubectl.env(switch, &is_web_socket))
    }

    /// As audit events call it.
    fn token(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Spdy => "SPDY/3.1",
        }
    }
}

async fn start() -> Result<Option<Both>> {
    let Some(cluster) = Cluster::level2_or_skip(Options::default()).await? else { return Ok(None) };
    let both = Both::around(cluster).await?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "main" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "stdin": true,
            "command": ["sh", "-c", SCRIPT],
        }]},
    });
    both.direct.apply(pod.to_string()).await?;
    both.direct.ok(["wait", "--for=condition=Ready", "pod/main", "--timeout=30s"]).await?;
    Ok(Some(both))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command of kubectl on a terminal of 33 rows and 77 columns; what the terminal shows, and the exit code.
async fn on_terminal(kubectl: &Kubectl, arguments: &[&str], typed: &str) -> Result<(String, Option<i32>)> {
    let command = kubectl.command(arguments);
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    let line = format!("stty rows 33 cols 77; exec {}", line.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).kill_on_drop(true).env("TERM", "dumb");
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("util-linux' script")?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let mut stdout = child.stdout.take().context("no pipe")?;
    let talk = async {
        let (mut shown, mut part, mut is_typed) = (Vec::new(), [0; 4096], false);
        loop {
            let n = stdout.read(&mut part).await?;
            if n == 0 {
                break;
            }
            shown.extend_from_slice(&part[..n]);
            if !is_typed && String::from_utf8_lossy(&shown).contains("prompt>") {
                stdin.write_all(typed.as_bytes()).await?;
                is_typed = true;
            }
        }
        let code = child.wait().await?.code();
        anyhow::Ok((String::from_utf8_lossy(&shown).into_owned(), code))
    };
    timeout(BOUND, talk).await.with_context(|| format!("{line} did not end"))?
}

/// The stages of the stream with `marker` in its command, by the proxy's own file.
fn recorded(both: &Both, marker: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(both.fleet.events_file(0))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| fact(event, "command").is_some_and(|command| command.contains(marker))).collect())
}

/// The last stages of alice's streams of one kind with `word` in their command, in the order of their ends.
fn complete(both: &Both, subresource: &str, word: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(both.fleet.events_file(0))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let wanted = |event: &Value| {
        event["stage"] == "ResponseComplete"
            && event["user"]["username"] == "alice"
            && event["objectRef"]["subresource"] == subresource
            && fact(event, "command").unwrap_or_default().contains(word)
    };
    Ok(events.filter(wanted).collect())
}

/// Those that have come behind the first `before`, `wanted` of them, all spoken in `protocol`.
async fn ended(
    both: &Both,
    (subresource, word): (&str, &str),
    protocol: Protocol,
    before: usize,
    wanted: usize,
) -> Result<Vec<Value>> {
    let events = wait_for("the events of the streams", || async {
        let events = complete(both, subresource, word)?.split_off(before);
        ensure!(events.len() >= wanted, "{subresource}: {events:?}");
        Ok(events)
    })
    .await?;
    ensure!(events.len() == wanted, "more than {wanted} {subresource}: {events:?}");
    for event in &events {
        // kubectl goes over to SPDY by itself where WebSocket fails.
        let spoken = fact(event, "protocol").unwrap_or_default();
        ensure!(spoken.eq_ignore_ascii_case(protocol.token()), "{subresource}, {protocol:?}: {event}");
        ensure!(event["responseStatus"]["code"] == 101, "{subresource}, {protocol:?}: {event}");
    }
    Ok(events)
}

/// Each request by WebSocket that was denied has one by SPDY that names it, and nothing else names any.
fn retries_are_related(events: &[Value], protocol: Protocol) -> Result<()> {
    let ends = events.iter().filter(|event| event["stage"] == "ResponseComplete");
    let (tries, retries): (Vec<&Value>, Vec<&Value>) =
        ends.partition(|event| fact(event, "protocol") == Some("websocket"));
    ensure!(retries.len() >= 2, "{events:?}");
    let mut named: Vec<_> = retries.iter().filter_map(|event| fact(event, "retry-of")).collect();
    let mut denied: Vec<_> = tries.iter().filter_map(|event| event["auditID"].as_str()).collect();
    named.sort_unstable();
    denied.sort_unstable();
    ensure!(named == denied, "{events:?}");
    ensure!(denied.len() == if protocol == Protocol::WebSocket { retries.len() } else { 0 }, "{events:?}");
    ensure!(events.iter().all(|event| fact(event, "decision") != Some("allow")), "{events:?}");
    Ok(())
}

fn fact<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["annotations"][format!("ztka.dev/{name}")].as_str()
}

#[tokio::test]
async fn exec_and_attach_are_the_same_as_direct_and_on_record() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    for protocol in Protocol::BOTH {
        let (direct, through) = (protocol.of(&both.direct), protocol.of(&both.through));
        let marker = format!("marker-{protocol:?}");

        // Standard input to its end, both outputs apart, and the exit code.
        let script = format!(": {marker}; wc -c; echo out; echo err >&2; exit 3");
        let exec = ["exec", "--stdin", "main", "--", "sh", "-c", &script];
        let input = vec![b'x'; 1_000_000];
        let expected = direct.run_with_input(exec, input.clone()).await?;
        let output = through.run_with_input(exec, input).await?;
        assert_eq!(output.code, Some(3), "{protocol:?}: {}{}", output.stderr, both.fleet.tails());
        assert_eq!(output.stdout, "1000000\nout\n", "{protocol:?}");
        assert_eq!((&output.stdout, &output.stderr), (&expected.stdout, &expected.stderr), "{protocol:?}");

        let events = wait_for("the events of the stream", || async {
            let events = recorded(&both, &marker)?;
            ensure!(events.last().is_some_and(|event| event["stage"] == "ResponseComplete"), "{events:?}");
            Ok(events)
        })
        .await?;
        let stages: Vec<_> = events.iter().map(|event| event["stage"].as_str().unwrap_or_default()).collect();
        assert_eq!(stages, ["RequestReceived", "ResponseStarted", "ResponseComplete"], "{protocol:?}");
        let end = &events[2];
        assert_eq!(end["user"]["username"], "alice");
        assert_eq!(end["objectRef"]["subresource"], "exec");
        assert_eq!(end["responseStatus"]["code"], 101);
        assert_eq!(fact(end, "end"), Some("complete"), "{end}");
        let spoken = fact(end, "protocol").unwrap_or_default();
        assert!(spoken.eq_ignore_ascii_case(protocol.token()), "{protocol:?}: {spoken}");
        let command: Vec<String> = serde_json::from_str(fact(end, "command").context("no command")?)?;
        assert_eq!(command, ["sh", "-c", &script]);
        let bytes = |name| fact(end, name).and_then(|bytes| bytes.parse::<usize>().ok()).context(name);
        assert!(bytes("bytes-received")? > 1_000_000 && bytes("bytes-sent")? > 10, "{end}");

        // The same is what an auditor sees.
        let id = end["auditID"].as_str().context("no Audit-ID")?;
        wait_for("the stream in the controller's store", || async {
            let tail = ["--org", "acme", "--output", "json", "audit", "tail", "--id", id];
            let text = both.fleet.ztka(&tail).await?;
            ensure!(text.contains("ResponseComplete") && text.contains(&marker), "{text}");
            Ok(())
        })
        .await?;

        // A terminal of a size, typed on.
        let script = r#"until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; tty; printf prompt'>'; read -r word; echo "got $word"; exit 3"#;
        let exec = ["exec", "-it", "main", "--", "sh", "-c", script];
        let (shown, code) = on_terminal(&through, &exec, "word\n").await.with_context(|| both.fleet.tails())?;
        assert!(shown.contains("/dev/pts/") && shown.contains("got word"), "{protocol:?}: {shown}");
        assert_eq!(code, Some(3), "{protocol:?}: {shown}");

        // Attach to what runs already.
        let attached = complete(&both, "attach", "")?.len();
        let mut attach = through.spawn(["attach", "--stdin", "main"])?;
        attach.write(format!("attached-{protocol:?}\n")).await?;
        attach.read_until(&format!("heard attached-{protocol:?}")).await.with_context(|| both.fleet.tails())?;
        attach.kill().await?;
        ended(&both, ("attach", ""), protocol, attached, 1).await?;

        // A stream that the user cuts off is closed on record too.
        let marker = format!("cut-{protocol:?}");
        let script = format!("echo {marker}; cat");
        let mut cut = through.spawn(["exec", "--stdin", "main", "--", "sh", "-c", &script])?;
        cut.read_until(&marker).await?;
        cut.kill().await?;
        wait_for("the end of the stream that was cut off", || async {
            let events = recorded(&both, &marker)?;
            let end = events.iter().find(|event| event["stage"] == "ResponseComplete");
            ensure!(end.is_some_and(|end| fact(end, "end").is_some()), "{events:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    Ok(fs::read(one)? == fs::read(other)?)
}

/// A file of bytes that do not compress.
async fn random(path: &Path, size: usize) -> Result<()> {
    let source = tokio::fs::File::open("/dev/urandom").await?;
    let mut file = tokio::fs::File::create(path).await?;
    tokio::io::copy(&mut source.take(size as u64), &mut file).await?;
    Ok(file.flush().await?)
}

async fn sum(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output().await?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().context("no checksum")?.to_owned())
}

#[tokio::test]
async fn a_hundred_megabytes_are_copied_both_ways() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    let (there, back) = (both.fleet.path("there"), both.fleet.path("back"));
    random(&there, FILE_SIZE).await?;
    let sum = sum(&there).await?;
    for protocol in Protocol::BOTH {
        let before = complete(&both, "exec", "tar")?.len();
        let through = protocol.of(&both.through).bound(Duration::from_secs(180));
        let source = there.display().to_string();
        through.ok(["cp", &source, "main:/tmp/file"]).await.with_context(|| both.fleet.tails())?;
        let there_sum = both.direct.ok(["exec", "main", "--", "sha256sum", "/tmp/file"]).await?;
        assert_eq!(there_sum.split(' ').next(), Some(sum.as_str()), "{protocol:?}: to the pod");
        let target = back.display().to_string();
        through.ok(["cp", "main:/tmp/file", &target]).await.with_context(|| both.fleet.tails())?;
        assert!(same_bytes(&there, &back)?, "{protocol:?}: from the pod");
        // One tar each way.
        ended(&both, ("exec", "tar"), protocol, before, 2).await?;
        fs::remove_file(&back)?;
        both.direct.ok(["exec", "main", "--", "rm", "/tmp/file"]).await?;
    }
    Ok(())
}

async fn page(port: u16) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await?;
    let mut all = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut all)).await.context("port-forward hangs")??;
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
    Ok(all.split_off(head + 4))
}

#[tokio::test]
async fn ports_are_forwarded_and_logs_are_followed() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    let file = both.fleet.path("page");
    random(&file, PAGE_SIZE).await?;
    both.direct.ok(["cp", &file.display().to_string(), "main:/www/page"]).await?;
    let expected = fs::read(&file)?;

    for protocol in Protocol::BOTH {
        let before = complete(&both, "portforward", "")?.len();
        let mut forward = protocol.of(&both.through).spawn(["port-forward", "pod/main", ":8080", ":8081"])?;
        let said = forward.read_until("-> 8080").await.with_context(|| both.fleet.tails())?;
        let port = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context("no port")?;
        let port: u16 = port.parse()?;
        // Two at once, and one after the other, in the one stream.
        let pages = tokio::try_join!(page(port), page(port)).with_context(|| both.fleet.tails())?;
        assert!(pages.0 == expected && pages.1 == expected, "{protocol:?}");
        assert!(page(port).await? == expected, "{protocol:?}");
        forward.kill().await?;
        // What was opened, not what could have been.
        let forwards = ended(&both, ("portforward", ""), protocol, before, 1).await?;
        assert_eq!(
            forwards.iter().filter_map(|event| fact(event, "ports")).collect::<Vec<_>>(),
            ["8080"],
            "{forwards:?}"
        );
        let id = forwards[0]["auditID"].as_str().context("no Audit-ID")?;
        wait_for("the port in the controller's store", || async {
            let text = both.fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "--id", id]).await?;
            ensure!(
                text.contains(r#""ztka.dev/ports":"8080""#) || text.contains(r#""ztka.dev/ports": "8080""#),
                "{text}"
            );
            Ok(())
        })
        .await?;
    }

    both.same("logs main").await?;
    let mut logs = both.through.spawn(["logs", "--follow", "main"])?;
    logs.read_until("ready").await?;
    for line in ["first", "second"] {
        both.direct.ok(["exec", "main", "--", "sh", "-c", &format!("echo {line} >/proc/1/fd/1")]).await?;
        logs.read_until(line).await.with_context(|| both.fleet.tails())?;
    }
    both.direct.ok(["delete", "pod", "main", "--wait=false"]).await?;
    assert_eq!(logs.ended().await?, Some(0), "kubectl logs --follow after the pod's end");
    Ok(())
}

#[tokio::test]
async fn a_role_that_only_views_opens_no_stream() -> Result<()> {
    let Some(both) = start().await? else { return Ok(()) };
    let (_, viewer) = both.colleague("victor", "view").await?;
    assert_eq!(viewer.ok(["logs", "main"]).await?, "ready\n");
    for protocol in Protocol::BOTH {
        let viewer = protocol.of(&viewer);
        let marker = format!("refused-{protocol:?}");
        for arguments in [
            &["exec", "main", "--", "echo", &marker][..],
            &["exec", "-i", "main", "--", "echo", &marker],
            &["attach", "main"],
            &["port-forward", "pod/main", ":8080"],
            &["cp", "main:/etc/passwd", "passwd"],
        ] {
            let output = viewer.run(arguments).await?;
            let said = &output.stderr;
            assert!(!output.success(), "{protocol:?} {arguments:?}: {}", output.stdout);
            assert!(output.stdout.is_empty() || arguments[0] == "port-forward", "{}", output.stdout);
            assert!(said.to_lowercase().contains("forbidden"), "{protocol:?} {arguments:?}: {said}");
            assert!(said.contains("victor"), "{protocol:?} {arguments:?}: {said}");
        }
        // kubectl asks once more by SPDY what it is refused by WebSocket: an auditor sees that it is the same.
        wait_for("events of what was denied", || async { retries_are_related(&recorded(&both, &marker)?, protocol) })
            .await?;
    }
    let streams = ztka_e2e::seen_of(&both.cluster, |event| {
        let subresource = event["objectRef"]["subresource"].as_str();
        matches!(subresource, Some("exec" | "attach" | "portforward"))
    })?;
    assert!(streams.is_empty(), "a refused stream reached the apiserver: {streams:?}");
    Ok(())
}
