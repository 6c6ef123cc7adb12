//! Sessions on a real node, recorded: what the terminal has shown is what the recording says, byte for byte.

use std::{fs, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};
use ztka_e2e::{Both, Fleet, Installation, program};
use ztka_test_cluster::{BOUND, BUSYBOX, Cluster, Kubectl, Options, wait_for};

const SECRET: &str = "correct-horse-battery";

async fn start(least: &str) -> Result<Option<Both>> {
    let Some(cluster) = Cluster::level2_or_skip(Options::default()).await? else { return Ok(None) };
    let proxy_config = format!("[recordings]\nat_least = '{least}'\n");
    let fleet = Fleet::start_with(Installation { proxy_config, ..Installation::default() }).await?;
    let both = Both::in_fleet(cluster, fleet).await?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "main" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "10000"],
        }]},
    });
    both.direct.apply(pod.to_string()).await?;
    both.direct.ok(["wait", "--for=condition=Ready", "pod/main", "--timeout=30s"]).await?;
    Ok(Some(both))
}

/// kubectl that streams by WebSocket, or by SPDY.
fn by(kubectl: &Kubectl, web_socket: bool) -> Kubectl {
    kubectl.clone().env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_socket.to_string())
}

/// Somebody who may see recordings, and nothing else.
#[derive(Debug)]
struct Auditor(PathBuf);

impl Auditor {
    async fn of(both: &Both) -> Result<Self> {
        let fleet = &both.fleet;
        fleet.ztka(&["--org", "acme", "user", "create", "audrey"]).await?;
        let give = ["--role", "recording-viewer", "--user", "audrey", "--all-clusters"];
        fleet.ztka(&[&["--org", "acme", "binding", "create", "viewers"][..], &give].concat()).await?;
        let file = fleet.path("audrey.toml");
        let own = file.to_str().context("a path that is not UTF-8")?;
        fleet.ztka(&["--org", "acme", "credential", "--user", "audrey", "--file", own]).await?;
        Ok(Self(file))
    }

    async fn ztka(&self, arguments: &[&str]) -> Result<(bool, Vec<u8>)> {
        let mut command = Command::new(program("ztka")?);
        command.arg("--credential").arg(&self.0).args(arguments).kill_on_drop(true);
        let output = timeout(BOUND, command.output()).await.context("ztka hangs")??;
        let text = if output.status.success() { output.stdout } else { output.stderr };
        Ok((output.status.success(), text))
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (done, text) = self.ztka(&[&["--output", "json"][..], arguments].concat()).await?;
        ensure!(done, "{arguments:?}: {}", String::from_utf8_lossy(&text));
        Ok(serde_json::from_slice(&text)?)
    }

    /// The newest recording with `word` in its command, once it is in this state.
    async fn recording(&self, word: &str, state: &str) -> Result<Value> {
        wait_for("the recording", || async {
            let all = self.json(&["recording", "list"]).await?;
            let all = all.as_array().context("no list")?;
            let found = all.iter().find(|recording| recording["command"].to_string().contains(word));
            let found = found.with_context(|| format!("none of {word}: {all:?}"))?;
            ensure!(found["state"] == state, "{found}");
            Ok(found.clone())
        })
        .await
    }

    /// The recording as the file that `export` writes.
    async fn cast(&self, recording: &Value) -> Result<Cast> {
        let id = recording["id"].as_str().context("no id")?;
        let (done, text) = self.ztka(&["recording", "export", id, "-"]).await?;
        ensure!(done, "{}", String::from_utf8_lossy(&text));
        Cast::read(&text)
    }
}

/// asciicast v3 as its specification has it.
#[derive(Debug)]
struct Cast {
    header: Value,
    events: Vec<(f64, String, String)>,
}

impl Cast {
    fn read(text: &[u8]) -> Result<Self> {
        let mut lines = std::str::from_utf8(text)?.lines().filter(|line| !line.starts_with('#'));
        let header: Value = serde_json::from_str(lines.next().context("an empty file")?)?;
        ensure!(
            header["version"] == 3 && header["term"]["cols"].is_u64() && header["term"]["rows"].is_u64(),
            "{header}"
        );
        let events = lines.map(serde_json::from_str).collect::<Result<Vec<(f64, String, String)>, _>>()?;
        ensure!(events.iter().all(|(interval, code, _)| *interval >= 0.0 && code.len() == 1), "{events:?}");
        Ok(Self { header, events })
    }

    fn of(&self, code: &str) -> String {
        self.events.iter().filter(|(_, own, _)| own == code).map(|(_, _, data)| data.as_str()).collect()
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command of kubectl on a terminal of 33 rows and 77 columns, and what is typed when it shows something.
async fn on_terminal(kubectl: &Kubectl, arguments: &[&str], steps: &[(&str, &str)]) -> Result<String> {
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
        let (mut shown, mut part, mut steps) = (Vec::new(), [0; 4096], steps.iter().peekable());
        loop {
            let n = stdout.read(&mut part).await?;
            if n == 0 {
                break;
            }
            shown.extend_from_slice(&part[..n]);
            if let Some((_, typed)) = steps.next_if(|(prompt, _)| String::from_utf8_lossy(&shown).contains(prompt)) {
                stdin.write_all(typed.as_bytes()).await?;
            }
        }
        anyhow::Ok(String::from_utf8_lossy(&shown).into_owned())
    };
    timeout(BOUND, talk).await.with_context(|| format!("{line} did not end"))?
}

fn fact<'a>(event: &'a Value, name: &str) -> &'a str {
    event["annotations"][format!("ztka.dev/{name}")].as_str().unwrap_or_default()
}

/// The last event of a request, by the proxy's own file.
async fn complete(both: &Both, id: &str) -> Result<Value> {
    wait_for("the event", || async {
        let text = fs::read_to_string(both.fleet.events_file(0))?;
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut wanted = events.filter(|event| event["auditID"] == id && event["stage"] == "ResponseComplete");
        wanted.next().context("not there")
    })
    .await
}

#[tokio::test]
async fn what_the_terminal_shows_is_what_is_recorded() -> Result<()> {
    let Some(both) = start("required").await? else { return Ok(()) };
    let auditor = Auditor::of(&both).await?;
    for web_socket in [true, false] {
        let through = by(&both.through, web_socket);
        // Without a terminal: to the last byte, however it was cut.
        let marker = format!("bulk-{web_socket}");
        let script = format!(
            ": {marker}; i=0; while [ $i -lt 3000 ]; do echo \"$i äöü € 😀 \\\"\\\\\"; i=$((i+1)); done; printf '\\033]0;title\\007'; exit 3"
        );
        let output = through.run(["exec", "main", "--", "sh", "-c", &script]).await?;
        ensure!(output.code == Some(3), "{output:?}{}", both.fleet.tails());
        let recording = auditor.recording(&marker, "complete").await.with_context(|| both.fleet.tails())?;
        let cast = auditor.cast(&recording).await?;
        assert!(cast.of("o") == output.stdout, "web_socket {web_socket}: not what was shown");
        assert!(cast.of("o").ends_with("\u{1b}]0;title\u{7}"), "as it was");
        assert_eq!((cast.of("x").as_str(), &recording["exit"]), ("3", &Value::from(3)));
        // What the auditor's terminal gets is without what would set its title.
        let (_, played) = auditor
            .ztka(&["recording", "play", "--speed", "1000", recording["id"].as_str().unwrap_or_default()])
            .await?;
        let played = String::from_utf8(played)?;
        assert!(played.contains("2999 äöü") && !played.contains("title"), "{web_socket}");

        // The log says which recording it is, and that it is whole.
        let id = recording["id"].as_str().context("no id")?;
        let event = complete(&both, id).await?;
        assert_eq!(fact(&event, "recording"), "complete", "{event}");
        assert_eq!(fact(&event, "recording-hash"), recording["hash"].as_str().unwrap_or_default());
        assert_eq!(fact(&event, "recording-chunks"), recording["chunks"].to_string());

        // On a terminal, with a password that is not shown.
        let marker = format!("typed-{web_socket}");
        let script = format!(
            ": {marker}; until [ \"$(stty size)\" = '33 77' ]; do sleep 0.1; done; printf 'name>'; read -r name; \
             stty -echo; printf 'word>'; read -r word; stty echo; echo; echo \"hello $name of ${{#word}}\"; printf 'more>'; read -r more"
        );
        let word = format!("{SECRET}\r");
        let steps = [("name>", "alice\r"), ("word>", word.as_str()), ("more>", "more\r")];
        let shown = on_terminal(&through, &["exec", "-it", "main", "--", "sh", "-c", &script], &steps).await?;
        let recording = auditor.recording(&marker, "complete").await.with_context(|| both.fleet.tails())?;
        let cast = auditor.cast(&recording).await?;
        let output = cast.of("o");
        assert!(output.contains("hello alice of 21"), "{output:?}");
        assert!(shown.contains(output.trim_end()), "web_socket {web_socket}: {shown:?}, and not {output:?}");
        assert_eq!((&cast.header["term"]["cols"], &cast.header["term"]["rows"]), (&Value::from(77), &Value::from(33)));
        assert_eq!(cast.of("i"), "alice\r***\rmore\r", "web_socket {web_socket}");
        assert!(!format!("{cast:?}").contains(SECRET), "a password in a recording");
    }
    // Who administers the installation does not see what is done in an organisation, nor do its users.
    let refused = both.fleet.ztka(&["--org", "acme", "recording", "list"]).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("viewers of its recordings")), "let in");
    // Each look is on record.
    let events = both.fleet.ztka_json("acme", &["audit", "tail", "-n", "500"]).await;
    let looked = match events {
        Ok(events) => events.to_string(),
        Err(_) => both.fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "-n", "500"]).await?,
    };
    ensure!(looked.contains("audrey") && looked.contains("/cast"), "{looked}");
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_is_killed_loses_a_second_at_most_and_somebody_looks_on_until_then() -> Result<()> {
    let Some(mut both) = start("required").await? else { return Ok(()) };
    let auditor = Auditor::of(&both).await?;
    let script = "echo ticking; i=0; while :; do echo \"tick $i $(date +%s)\"; i=$((i+1)); sleep 0.1; done";
    let mut session = both.through.spawn(["exec", "main", "--", "sh", "-c", script])?;
    session.read_until("tick 20 ").await.with_context(|| both.fleet.tails())?;
    let recording = auditor.recording("ticking", "running").await?;
    let id = recording["id"].as_str().context("no id")?;

    // Somebody looks on.
    let mut watch = Command::new(program("ztka")?);
    watch.arg("--credential").arg(&auditor.0).args(["recording", "watch", id]).kill_on_drop(true);
    let mut watch = watch.stdout(Stdio::piped()).spawn()?;
    let mut seen = watch.stdout.take().context("no pipe")?;
    let looked = timeout(BOUND, async {
        let (mut text, mut part) = (String::new(), [0; 4096]);
        while !text.contains("tick 30 ") {
            let n = seen.read(&mut part).await?;
            ensure!(n > 0, "it ended: {text}");
            text.push_str(&String::from_utf8_lossy(&part[..n]));
        }
        anyhow::Ok(text)
    });
    looked.await.context("the watcher sees nothing")??;

    session.read_until("tick 50 ").await?;
    let proxy = both.fleet.proxies.first_mut().context("no proxy")?;
    proxy.process.kill();
    let at = jiff::Timestamp::now().as_second();
    proxy.restart()?;
    let recording = auditor.recording("ticking", "interrupted").await.with_context(|| both.fleet.tails())?;
    let cast = auditor.cast(&recording).await?;
    let output = cast.of("o");
    let last = output.lines().rfind(|line| line.split(' ').count() == 3).context("no whole line")?;
    let said: i64 = last.rsplit(' ').next().context("no time")?.parse()?;
    // The pod's seconds are whole ones, and killing takes its time.
    ensure!(at - said <= 2, "lost {} s: {last}", at - said);
    ensure!(cast.of("m").contains("interrupted"), "{cast:?}");
    let noted = wait_for("the event of it", || async {
        let text = fs::read_to_string(both.fleet.events_file(0))?;
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let noted = events.find(|event| fact(event, "recording-of") == recording["id"]);
        noted.context("it is not on record that it was interrupted")
    })
    .await?;
    assert_eq!(fact(&noted, "recording-hash"), recording["hash"].as_str().unwrap_or_default());
    Ok(())
}
