//! Judges from outside: Go's net/http, curl, nghttp and hyper ask a server directly and through an installation, and see the
//! same. The servers are Go's net/http and hyper, in the place of apiservers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod hyper;
mod lines;
mod memory;
mod trace;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use http::{HeaderMap, Method, Version};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use ztka_e2e::{Client, Fleet, Pem, Upstream};
use ztka_test_cluster::{Authority, Kubectl};

/// What there is only on one hop, or only of the answer of one moment.
const OF_A_HOP: [&str; 7] = ["connection", "keep-alive", "transfer-encoding", "trailer", "date", "audit-id", "alt-svc"];

/// The judge in Go, and a server of it.
struct Go {
    program: PathBuf,
    _server: Child,
}

impl Go {
    async fn start(folder: &Path, certificate: &Path, key: &Path) -> Result<(Self, u16)> {
        let program = folder.join("judge");
        let mut build = Command::new("go");
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/judge")).env("CGO_ENABLED", "0");
        let output = build.args(["build", "-o"]).arg(&program).arg(".").env("GOFLAGS", "-buildvcs=false").output();
        let output = output.await.context("cannot run go: install Go 1.25 or newer")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut serve = Command::new(&program);
        serve.arg("serve").arg("-cert").arg(certificate).arg("-key").arg(key);
        let mut server = serve.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("no pipe")?).read_line(&mut line).await?;
        Ok((Self { program, _server: server }, line.trim().parse()?))
    }

    /// What its client sees at `base`.
    async fn ask(&self, way: &Way, version: u8) -> Result<BTreeMap<String, Value>> {
        let mut ask = Command::new(&self.program);
        ask.args(["ask", "-base", &format!("https://{}", way.address), "-name", &way.server_name]);
        ask.arg("-ca").arg(&way.ca).arg("-http").arg(version.to_string());
        if let Some((certificate, key)) = &way.credential {
            ask.arg("-cert").arg(certificate).arg("-key").arg(key);
        }
        let output = ask.kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "HTTP/{version}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// One way to a server.
struct Way {
    address: String,
    server_name: String,
    ca: PathBuf,
    credential: Option<(PathBuf, PathBuf)>,
}

/// An installation in front of both servers, and the two ways to each.
struct Court {
    fleet: Fleet,
    go: Go,
    /// Name of the cluster, directly, through, and as a user's kubectl.
    servers: Vec<(&'static str, Way, Way, Kubectl)>,
    kubectl_direct: Authority,
}

impl Court {
    async fn open() -> Result<Self> {
        let mut fleet = Fleet::start().await?;
        let folder = fleet.folder().to_owned();
        let authority = Authority::create(&folder, "judges")?;
        let identity = authority.server("judge", &["localhost".into(), "127.0.0.1".into()])?;
        let (go, port) = Go::start(&folder, &identity.certificate_path, &identity.key_path).await?;
        let ports = [("go", port), ("hyper", hyper::serve(&identity).await?)];
        let token = folder.join("judges-token");
        std::fs::write(&token, "an.agents.token")?;
        fleet.org("acme").await?;
        fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
        let mut servers = Vec::new();
        for (name, port) in ports {
            let url = format!("https://127.0.0.1:{port}");
            let upstream = Upstream { url: &url, ca: authority.path(), token: &token };
            fleet.cluster_at("acme", name, upstream, &[]).await?;
            fleet.bind("acme", "alice", "cluster-admin", name).await?;
            let alice = fleet.kubeconfig("acme", "alice").await?;
            let kubectl = fleet.kubectl(&alice, name).await?;
            let pem = Pem::of(&kubectl, &folder, name).await?;
            let through = Way {
                address: pem.address,
                server_name: pem.server_name,
                ca: pem.ca,
                credential: Some((pem.certificate, pem.key)),
            };
            let (address, server_name) = (format!("127.0.0.1:{port}"), "localhost".to_owned());
            let direct = Way { address, server_name, ca: authority.path().to_owned(), credential: None };
            servers.push((name, direct, through, kubectl));
        }
        Ok(Self { fleet, go, servers, kubectl_direct: authority })
    }
}

/// An answer without what is of a hop. Of two lengths that are announced, both are the same; one may be missing, for
/// servers announce it of short bodies unasked.
fn alike(case: &str, direct: &mut Value, through: &mut Value) {
    for side in [&mut *direct, &mut *through] {
        if let Some(headers) = side["headers"].as_object_mut() {
            headers.retain(|name, _| !OF_A_HOP.contains(&name.as_str()));
        }
    }
    if direct["headers"].get("content-length").is_some() != through["headers"].get("content-length").is_some() {
        assert!(!case.starts_with("head"), "{case}: {direct} {through}");
        for side in [direct, through] {
            side["headers"].as_object_mut().unwrap().remove("content-length");
        }
    }
}

/// What is another way on purpose: trailers of requests end at the users' port, for they could carry headers past the decision;
/// and nobody asks the server for trailers of its answer (`TE`), without which hyper announces some and sends none.
fn excuse(server: &str, case: &str, direct: &mut Value) {
    match (server, case) {
        (_, "request trailers") => {
            let said = direct["body"].as_str().unwrap_or_default();
            let said = said.replace(r#""trailers":{"x-behind":"the body"}"#, r#""trailers":{}"#);
            if let Some(length) = direct["headers"].get_mut("content-length") {
                *length = json!([said.len().to_string()]);
            }
            direct["length"] = said.len().into();
            direct["sum"] = Sha256::digest(&said).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
            direct["body"] = said.into();
        }
        ("hyper", "trailers") => {
            for (_, value) in direct["trailers"].as_object_mut().into_iter().flatten() {
                *value = "".into();
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_sees_the_same_directly_and_through() -> Result<()> {
    let court = Court::open().await?;
    let mut differ = Vec::new();
    for (server, direct, through, _) in &court.servers {
        for version in [1, 2] {
            let at = format!("{server}, HTTP/{version}");
            let mut theirs = court.go.ask(direct, version).await.with_context(|| format!("{at}, directly"))?;
            let asked = court.go.ask(through, version).await;
            let mut ours = asked.with_context(|| format!("{at}, through: {}", court.fleet.tails()))?;
            assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "{at}");
            for (case, direct) in &mut theirs {
                let through = ours.get_mut(case).unwrap();
                alike(case, direct, through);
                excuse(server, case, direct);
                if direct != through {
                    differ.push(format!("{at}, {case}:\n direct  {direct}\n through {through}"));
                }
            }
        }
    }
    ensure!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

/// Status, headers that are not of a hop, and the sum of the body.
fn seen(status: u16, headers: &HeaderMap, body: &[u8]) -> (u16, BTreeMap<String, Vec<String>>, String) {
    let names = headers.keys().map(|name| name.as_str()).filter(|name| !OF_A_HOP.contains(name));
    let values = |name: &str| headers.get_all(name).iter().map(|value| format!("{value:?}")).collect();
    let headers = names.filter(|name| *name != "content-length").map(|name| (name.to_owned(), values(name)));
    (status, headers.collect(), format!("{} bytes, {:x?}", body.len(), Sha256::digest(body)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_sees_the_same_directly_and_through() -> Result<()> {
    let court = Court::open().await?;
    for (server, direct, _, kubectl) in &court.servers {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut through = Client::of(kubectl).await?.connect(version).await?;
            let mut direct =
                Client::at(&direct.address, &direct.server_name, &court.kubectl_direct.pem())?.connect(version).await?;
            for (method, path, body) in [
                (Method::GET, "/judge/bytes?n=100", 0),
                (Method::GET, "/judge/bytes?n=3000000", 0),
                (Method::GET, "/judge/bytes?n=33554432&chunked=1", 0),
                (Method::HEAD, "/judge/bytes?n=1000000000", 0),
                (Method::GET, "/judge/status?code=204", 0),
                (Method::GET, "/judge/status?code=304", 0),
                (Method::GET, "/judge/status?code=404", 0),
                (Method::GET, "/judge/trailers", 0),
                (Method::POST, "/judge/echo?x=y", 1),
                (Method::POST, "/judge/echo", 33_554_432),
                (Method::PUT, "/judge/echo", 70_000),
                (Method::DELETE, "/judge/echo", 10),
            ] {
                let case = format!("{server}, {version:?} {method} {path} with {body}");
                let body = vec![b'b'; body];
                let theirs = direct.send(method.clone(), path, body.clone()).await.with_context(|| case.clone())?;
                let ours = through.send(method, path, body).await.with_context(|| case.clone())?;
                let theirs = seen(theirs.status.as_u16(), &theirs.headers, &theirs.body);
                assert_eq!(theirs, seen(ours.status.as_u16(), &ours.headers, &ours.body), "{case}");
            }
        }
    }
    Ok(())
}
