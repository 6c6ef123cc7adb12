//! Secrets that clients and operators hand over are in no log, no record and no database of the installation.
//!
//! What dependencies write about frames at their own level `trace` is not asked for here: it is for looking for their faults.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use ztka_e2e::{Both, Fleet, Installation, Raw};
use ztka_test_cluster::{Cluster, Options, wait_for};

const BEARER: &str = "planted-bearer-mZq81vLx";
const JWT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZC1qd3Q";
const WEB_SOCKET_BEARER: &str = "planted-websocket-bearer-uW3k";
const COOKIE: &str = "planted-cookie-T0fQ6y";
const QUERY: &str = "planted-query-token-7Hq2";
const BODY: &str = "planted-secret-body-c93RtW";
const INVALID_BODY: &str = "planted-invalid-body-Xw04";
const PASSWORD: &str = "planted-password-e8Jd1s";
const PODS: &str = "/api/v1/namespaces/default/pods";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// All that our own code can say.
fn everything() -> String {
    let own = ["agent", "api", "audit", "authz", "controller", "core", "follow", "identity", "pki", "proxy", "store"];
    let own = own.into_iter().chain(["runtime", "tunnel", "agent_server", "controller_server", "proxy_server"]);
    own.fold("info".to_owned(), |filter, name| format!("{filter},ztka_{name}=trace"))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => all.extend(files(&entry.path())?),
            kind if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    Ok(all)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The text of a JSON Web Token, which is what an apiserver's tokens are: two parts of base64 that begin with `{"`.
fn holds_jwt(bytes: &[u8]) -> bool {
    let in_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    bytes.windows(3).enumerate().filter(|(_, window)| window == b"eyJ").any(|(at, _)| {
        let rest = bytes[at..].iter().position(|byte| !in_part(byte)).map_or(&[][..], |end| &bytes[at + end..]);
        rest.starts_with(b".eyJ")
    })
}

/// What must not be there, by what it is.
struct Planted(BTreeMap<&'static str, Vec<String>>);

impl Planted {
    fn found_in(&self, file: &Path, but_for: &[(&str, &str)]) -> Result<Vec<String>> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A file of a database may go away while it is read.
        let Ok(bytes) = fs::read(file) else { return Ok(Vec::new()) };
        let allowed = |what: &str| but_for.iter().any(|(of, end)| *of == what && name.ends_with(end));
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|(what, texts)| !allowed(what) && texts.iter().any(|text| holds(&bytes, text)))
            .map(|(what, _)| format!("{what} is in {}", file.display()))
            .collect();
        if holds_jwt(&bytes) {
            found.push(format!("a JSON Web Token is in {}", file.display()));
        }
        Ok(found)
    }
}

/// As a client sends it, and as Kubernetes keeps it.
fn both_forms(text: &str) -> Vec<String> {
    vec![text.to_owned(), BASE64_STANDARD.encode(text)]
}

/// Asks with everything that a client can hand over by mistake.
async fn plant(both: &Both) -> Result<()> {
    let raw = Raw::of(&both.through).await?;
    let lines = format!("Authorization: Bearer {BEARER}\r\nCookie: session={COOKIE}\r\n");
    ensure!(raw.get(PODS, &lines).await?.code == 200, "a header that is not passed on is no fault");
    ensure!(raw.get(PODS, &format!("Authorization: Bearer {JWT}\r\n")).await?.code == 200, "the same");
    ensure!(raw.anonymous().get(PODS, &lines).await?.code == 401, "a bearer token is no credential here");
    raw.get(&format!("{PODS}?access_token={QUERY}&token={QUERY}"), "").await?;
    raw.get(&format!("/api/v1/namespaces//pods?token={QUERY}"), "").await?; // malformed
    raw.get(&format!("{PODS}/{JWT}"), "").await?;
    let protocol = format!("base64url.bearer.authorization.k8s.io.{WEB_SOCKET_BEARER}");
    let exec = format!("{PODS}/none/exec?stdout=true&command=mysql&command=--password%3D{PASSWORD}&command=-uroot");
    let said = raw.get(&exec, &format!("{UPGRADE}Sec-WebSocket-Protocol: v5.channel.k8s.io, {protocol}\r\n")).await?;
    ensure!(said.code == 400, "{said:?}");
    let said = raw.get(&exec, &format!("{UPGRADE}Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n")).await?;
    ensure!(said.code == 404, "there is no such pod: {said:?}");

    let secret = |name: &str, value: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { "key": value } });
    both.through.apply(secret("planted", BODY).to_string()).await?;
    let read = both.through.ok(["get", "secret", "planted", "-o", "json"]).await?;
    ensure!(read.contains(&BASE64_STANDARD.encode(BODY)), "{read}");
    let invalid = both.through.apply(secret("Not_A_Name", INVALID_BODY).to_string()).await;
    ensure!(invalid.is_err(), "a name that is none");
    Ok(())
}

#[tokio::test]
async fn planted_secrets_are_in_no_log_record_or_database() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let installation = Installation { log: Some(everything()), ..Installation::default() };
    let both = Both::in_fleet(cluster, Fleet::start_with(installation).await?).await?;
    let fleet = &both.fleet;
    plant(&both).await?;

    // Tokens for agents: one that was spent, one that was not.
    let spent = fs::read_to_string(fleet.path("agent-acme-dev.token"))?.trim().to_owned();
    let fresh = fleet.ztka(&["--org", "acme", "cluster", "token", "dev"]).await?;
    let proxys = fs::read_to_string(fleet.path("proxy-0.token"))?.trim().to_owned();
    // Of a user: the key, as its file and as a kubeconfig has it.
    let config = both.through.ok(["config", "view", "--raw", "--minify", "-o", "json"]).await?;
    let config: Value = serde_json::from_str(&config)?;
    let key = config.pointer("/users/0/user/client-key-data").and_then(Value::as_str).context("no key")?;
    let pem = String::from_utf8(BASE64_STANDARD.decode(key)?)?;
    let line = pem.lines().nth(1).context("a key has a second line")?;

    let own = fs::read_to_string(both.cluster.slot().folder().join("ztka-system-ztka-agent.token"))?;
    ensure!(holds_jwt(own.as_bytes()), "what the search looks for is not what a token is");

    let planted = Planted(BTreeMap::from([
        ("a bearer token", both_forms(BEARER)),
        ("a token of WebSocket", both_forms(WEB_SOCKET_BEARER)),
        ("a cookie", both_forms(COOKIE)),
        ("a token of a query", both_forms(QUERY)),
        ("a Secret", both_forms(BODY)),
        ("a Secret that was refused", both_forms(INVALID_BODY)),
        ("a password of a command", both_forms(PASSWORD)),
        ("a spent enrolment token", secret_of(&spent)?),
        ("an enrolment token", secret_of(&fresh)?),
        ("the token of a proxy", secret_of(&proxys)?),
        ("a user's key", vec![line.to_owned(), key.get(..120).context("a short key")?.to_owned()]),
        ("the agent's own token", vec![own.trim().to_owned()]),
    ]));
    // Where they were handed over.
    let but_for = [
        ("a spent enrolment token", ".token"),
        ("the token of a proxy", ".token"),
        ("a user's key", "acme-alice.kubeconfig"),
    ];

    // All is on record by now, with the secrets left out: here and in the controller's store.
    let exec = wait_for("the records", || async {
        let events = fs::read_to_string(fleet.events_file(0))?;
        let exec = events.lines().rfind(|line| line.contains("ztka.dev/command") && line.contains("ResponseComplete"));
        let exec: Value = serde_json::from_str(exec.context("no exec on record")?)?;
        let id = exec["auditID"].as_str().context("no Audit-ID")?;
        let stored = fleet.ztka(&["--org", "acme", "--output", "json", "audit", "tail", "--id", id]).await?;
        ensure!(stored.contains("ResponseComplete"), "{stored}");
        let last = events.lines().rfind(|line| line.contains("/secrets"));
        ensure!(last.is_some_and(|line| line.contains("ResponseComplete")), "the Secret is not on record");
        Ok(exec)
    })
    .await
    .with_context(|| fleet.tails())?;
    let command = exec["annotations"]["ztka.dev/command"].as_str().unwrap_or_default();
    ensure!(command == r#"["mysql","--password=REDACTED","-uroot"]"#, "{command}");

    let all = files(fleet.folder())?;
    for kind in [".log", ".events", ".segment", "ztka.db", ".kubeconfig"] {
        let is_there =
            |file: &PathBuf| file.to_string_lossy().ends_with(kind) && fs::metadata(file).is_ok_and(|m| m.len() > 0);
        ensure!(all.iter().any(is_there), "no {kind} among {all:?}");
    }
    let receipts = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "receipts");
    ensure!(all.iter().any(receipts), "no receipts among {all:?}");
    let mut found = Vec::new();
    for file in &all {
        found.extend(planted.found_in(file, &but_for)?);
    }
    // The keys of the authorities and of proxies' names are in the database, and not in clear.
    for file in all.iter().filter(|file| {
        let name = file.to_string_lossy();
        [".log", ".events", ".segment"].iter().any(|end| name.ends_with(end)) || name.contains("ztka.db")
    }) {
        if fs::read(file).is_ok_and(|bytes| holds(&bytes, "PRIVATE KEY")) {
            found.push(format!("a private key is in {}", file.display()));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    // And the search finds what is there.
    ensure!(!planted.found_in(&fleet.path("acme-alice.kubeconfig"), &[])?.is_empty(), "the search finds nothing");
    ensure!(!planted.found_in(&fleet.path("agent-acme-dev.token"), &[])?.is_empty(), "the search finds nothing");
    Ok(())
}

/// A token, and its secret alone: `ztka1.<id>.<secret>.<pin>`.
fn secret_of(token: &str) -> Result<Vec<String>> {
    let secret = token.split('.').nth(2).filter(|secret| secret.len() >= 20).context("what form has a token now?")?;
    Ok(vec![token.to_owned(), secret.to_owned()])
}
