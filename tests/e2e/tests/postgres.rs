//! Controllers over PostgreSQL: by TLS with a password from a file, two of them at once, and what goes on without it.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use ztka_e2e::{Client, Connection, Fleet, Installation, free_port};
use ztka_test_cluster::{Cluster, Options, wait_for, wait_for_within};
use ztka_test_postgres::Server;

const PASSWORD: &str = "correct-horse-battery";

async fn readyz(port: u16) -> Result<String> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn by_tls_with_a_password_from_a_file_and_users_go_on_while_it_is_away() -> Result<()> {
    let Some(server) = Server::start_or_skip()? else { return Ok(()) };
    server.database()?;
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let folder = tempfile::tempdir()?;
    let (ca, passwords) = (folder.path().join("ca.pem"), folder.path().join("passwords"));
    fs::write(&ca, signed.cert.pem())?;
    server.sql("postgres", &format!("CREATE ROLE ztka LOGIN PASSWORD '{PASSWORD}'"))?;
    server.sql("postgres", "ALTER DATABASE test_0 OWNER TO ztka")?;
    let port = server.secure(&signed.cert.pem(), &signed.signing_key.serialize_pem())?;
    fs::write(&passwords, format!("localhost:{port}:test_0:ztka:{PASSWORD}\n"))?;
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o600))?;
    // Another CA than the server's is not let pass, and the words say where to look.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()])?.cert.pem();
    let wrong = folder.path().join("other.pem");
    fs::write(&wrong, other)?;
    let url = |ca: &std::path::Path| {
        format!("postgres://ztka@localhost:{port}/test_0?sslmode=verify-full&sslrootcert={}", ca.display())
    };
    let health = free_port()?;
    let cluster = Cluster::level1(Options::default()).await?;
    let wanted = Installation {
        controller_config: format!("database = '{}'\n[runtime]\nhealth = '127.0.0.1:{health}'\n", url(&ca)),
        controller_environment: vec![("PGPASSFILE".into(), passwords.display().to_string())],
        ..Installation::default()
    };
    let mut fleet = Fleet::start_with(wanted).await?;
    let by_tls =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'ztka' AND NOT ssl";
    assert_eq!(server.sql("postgres", by_tls)?, "0");
    let config = fs::read_to_string(fleet.path("controller.toml"))?;
    let untrusting = fleet.path("untrusting.toml");
    let text = config.replace(&ca.display().to_string(), &wrong.display().to_string());
    let text = text.lines().filter(|line| !line.starts_with("listen") && !line.starts_with("health"));
    let text: String = text.map(|line| format!("{line}\n")).collect();
    fs::write(&untrusting, text.replacen("front =", &format!("listen = '127.0.0.1:{}'\nfront =", free_port()?), 1))?;
    let mut command = tokio::process::Command::new(ztka_e2e::program("ztka-controller")?);
    command.arg("--config").arg(&untrusting).env("PGPASSFILE", &passwords).kill_on_drop(true);
    let refused = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");

    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    let alice = fleet.user("acme", "alice", &[]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", &alice.name).await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;
    kubectl.ok(["create", "configmap", "before"]).await?;

    // Without its database the controller says so, with what to do and for how long; users go on.
    server.stop()?;
    kubectl.ok(["create", "configmap", "meanwhile"]).await?;
    let away = wait_for("a controller that says so", || async {
        let said = readyz(health).await?;
        ensure!(said.starts_with("HTTP/1.1 503") && said.contains("does not answer"), "{said}");
        Ok(said)
    });
    let away = away.await.with_context(|| fleet.tails())?;
    assert!(away.contains("for ") && away.contains("see that it runs") && away.contains("go on"), "{away}");
    let told = fleet.ztka(&["org", "create", "other"]).await.err().context("nothing was written")?.to_string();
    assert!(told.contains("the database does not answer, for ") && told.contains("see that it runs"), "{told}");
    let mut api = Client::of_credential(&fleet.path("controller/admin.toml"))?.connect(Version::HTTP_11).await?;
    let answer = api.send(Method::GET, "/api/v1/orgs", "").await?;
    let problem: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!((&problem["code"], &problem["reason"]), (&"unavailable".into(), &"database_unreachable".into()));
    assert!(!answer.headers.contains_key("x-secret") && !problem.to_string().contains(PASSWORD));

    server.again()?;
    let ready = || async {
        let said = readyz(health).await?;
        ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
        Ok(())
    };
    wait_for("the database again", ready).await.with_context(|| fleet.tails())?;
    fleet.ztka(&["--org", "acme", "binding", "delete", "alice-cluster-admin-dev"]).await?;
    wait_for("the end of alice's permissions", || async {
        let output = kubectl.run(["get", "configmaps"]).await?;
        ensure!(!output.success() && output.stderr.contains("Forbidden"), "{}{}", output.stdout, output.stderr);
        Ok(())
    })
    .await
    .with_context(|| fleet.tails())?;
    Ok(())
}

/// Somebody who watches an organisation through the proxy, and goes on behind what they have seen when a connection ends.
struct Watcher {
    client: Client,
    path: String,
    revision: String,
    /// Versions, in the order in which they came.
    seen: Vec<u64>,
    connections: usize,
}

fn version(revision: &str) -> Result<u64> {
    Ok(revision.split_once('.').context("no revision")?.1.parse()?)
}

impl Watcher {
    async fn start(fleet: &Fleet, org: &str) -> Result<Self> {
        let client = Client::of_credential(&fleet.path("controller/admin.toml"))?;
        let orgs: Value = serde_json::from_str(&fleet.ztka(&["--output", "json", "org", "list"]).await?)?;
        let id = orgs.as_array().into_iter().flatten().find(|listed| listed["name"] == org).context("no such org")?;
        let path = format!("/api/v1/orgs/{}/changes", id["id"].as_str().context("no id")?);
        let listing: Value = serde_json::from_slice(&client.connect(Version::HTTP_11).await?.read(&path).await?)?;
        let revision = listing["revision"].as_str().context("no revision")?.to_owned();
        Ok(Self { client, path, revision, seen: Vec::new(), connections: 0 })
    }

    /// Watches until a version is seen, through every break.
    async fn until(mut self, last: tokio::sync::watch::Receiver<u64>) -> Result<Self> {
        loop {
            // Whatever ends a connection, one goes on from where one was.
            if let Ok(connection) = self.client.connect(Version::HTTP_11).await {
                self.connections += 1;
                self.follow(connection, &last).await?;
            }
            if self.is_done(&last) {
                return Ok(self);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn is_done(&self, last: &tokio::sync::watch::Receiver<u64>) -> bool {
        let wanted = *last.borrow();
        wanted > 0 && self.seen.last().is_some_and(|seen| *seen >= wanted)
    }

    async fn follow(&mut self, mut connection: Connection, last: &tokio::sync::watch::Receiver<u64>) -> Result<()> {
        let path = format!("{}?from={}", self.path, self.revision);
        let Ok(mut answer) = connection.begin(Method::GET, &path, "").await else { return Ok(()) };
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE || answer.status() == StatusCode::BAD_GATEWAY {
            return Ok(());
        }
        ensure!(answer.status() == StatusCode::OK, "{path}: {}", answer.status());
        let mut rest = Vec::new();
        while !self.is_done(last) {
            let frame = tokio::time::timeout(Duration::from_millis(500), answer.frame()).await;
            let Ok(frame) = frame else { continue };
            let Some(Ok(frame)) = frame else { return Ok(()) };
            rest.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Value = serde_json::from_slice(&rest.drain(..=end).collect::<Vec<_>>())?;
                let revision = line["revision"].as_str().context("no revision")?;
                if line["bookmark"] != true {
                    self.seen.push(version(revision)?);
                }
                self.revision = revision.to_owned();
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn of_two_controllers_one_is_killed_and_nobody_misses_a_version() -> Result<()> {
    let Some(server) = Server::shared_or_skip()? else { return Ok(()) };
    let cluster = Cluster::level1(Options::default()).await?;
    let wanted = Installation {
        controller_config: format!("database = '{}'\n", server.database()?),
        balanced: true,
        proxies: 2,
        ..Installation::default()
    };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.add_controller().await?;
    fleet.org("acme").await?;
    fleet.cluster("acme", "dev", &cluster, &[]).await?;
    fleet.ztka(&["--org", "acme", "user", "create", "alice"]).await?;
    fleet.bind("acme", "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig("acme", "alice").await?;
    let kubectl = fleet.kubectl(&alice, "dev").await?;

    let (tell, last) = tokio::sync::watch::channel(0);
    let mut watchers = Vec::new();
    for _ in 0..4 {
        watchers.push(Watcher::start(&fleet, "acme").await?);
    }
    let from = version(&watchers[0].revision)?;
    let watchers: Vec<_> = watchers.into_iter().map(|watcher| tokio::spawn(watcher.until(last.clone()))).collect();
    // What was confirmed; what was cut off may have happened.
    let mut made = BTreeSet::new();
    for number in 0..30 {
        match number {
            8 => fleet.controller.kill(),
            16 => fleet.restart_controller()?,
            // By now the first one is there again.
            22 => fleet.controllers[0].kill(),
            _ => {}
        }
        let name = format!("role-{number}");
        let create = ["--org", "acme", "role", "create", &name, "--verb", "get", "--resource", "pods"];
        if fleet.ztka(&create).await.is_ok() {
            made.insert(name);
        }
        if number == 20 {
            wait_for_within(Duration::from_secs(60), "the first controller", || fleet.ztka(&["whoami"])).await?;
        }
        kubectl.ok(["get", "namespaces", "-o", "name"]).await?;
    }
    assert!(made.len() > 20, "{made:?}\n{}", fleet.tails());
    let watcher = Watcher::start(&fleet, "acme").await?;
    tell.send(version(&watcher.revision)?)?;
    for watcher in watchers {
        let watcher =
            tokio::time::timeout(Duration::from_secs(60), watcher).await.with_context(|| fleet.tails())???;
        let expected: Vec<u64> = (from + 1..=version(&watcher.revision)?).collect();
        assert_eq!(watcher.seen, expected, "each version once, in order");
        assert!(watcher.connections > 1, "its controller was killed");
    }
    let roles = fleet.ztka_json("acme", &["role", "list"]).await?;
    let there: BTreeSet<String> =
        roles.as_array().into_iter().flatten().filter_map(|role| role["name"].as_str().map(str::to_owned)).collect();
    assert!(made.is_subset(&there), "{made:?} of {there:?}");
    Ok(())
}
