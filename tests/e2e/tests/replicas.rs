//! Several agents of one cluster, which share its credential in a Secret and have certificates of their own.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztka_e2e::{Fleet, Installation, Process, program};
use ztka_test_cluster::{Cluster, Options, wait_for, wait_for_within};

const ORG: &str = "acme";
const CREDENTIAL_SECRET: &str = "ztka-agent-credential";
/// What the agent's manifest gives it.
const AGENT_RBAC: &str = include_str!("../../../ztka-agent/src/accounts/agent-rbac.yaml");

struct Site {
    fleet: Fleet,
    cluster: Cluster,
    token: PathBuf,
}

impl Site {
    /// A cluster with the agent's own account in it, which has no more rights than its manifest gives.
    async fn start(certificates: Option<&str>) -> Result<Self> {
        let cluster = Cluster::level1(Options::default()).await?;
        let kubectl = cluster.kubectl();
        kubectl.apply(AGENT_RBAC).await?;
        let args = ["create", "token", "ztka-agent", "-n", "ztka-system", "--duration=1h"];
        let token = wait_for("a token of the account", || kubectl.ok(args)).await?;
        let agent_certificates = certificates.map(str::to_owned);
        let fleet = Fleet::start_with(Installation { agent_certificates, ..Installation::default() }).await?;
        fs::write(fleet.path("account.token"), token.trim())?;
        fleet.org(ORG).await?;
        fleet.ztka(&["--org", ORG, "cluster", "create", "dev"]).await?;
        let token = fleet.path("agents.token");
        fs::write(&token, fleet.ztka(&["--org", ORG, "cluster", "token", "dev"]).await?)?;
        Ok(Self { fleet, cluster, token })
    }

    fn agent(&self, name: &str) -> Result<Process> {
        let front = self.fleet.front();
        let path = |file: &str| self.fleet.path(file).display().to_string();
        let config = self.fleet.path(&format!("{name}.toml"));
        let text = format!(
            "domain = 'ztka.test'\nfront = '127.0.0.1:{front}'\nstate_dir = '{}'\ncredential = 'secret'\n\
             token_file = '{}'\n[apiserver]\nurl = '{}'\nca_file = '{}'\ntoken_file = '{}'\n",
            path(name),
            self.token.display(),
            self.cluster.url(),
            self.cluster.ca_path().display(),
            path("account.token"),
        );
        fs::write(&config, text)?;
        let arguments = ["--config".as_ref(), config.as_os_str()];
        Process::start(&program("ztka-agent")?, arguments, &config.with_extension("log"))
    }

    fn log(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.fleet.path(&format!("{name}.log")))?)
    }

    async fn connected(&self, name: &str) -> Result<()> {
        wait_for("a tunnel", || async {
            let log = self.log(name)?;
            ensure!(log.contains("tunnel is ready"), "{log}");
            Ok(())
        })
        .await
    }

    /// Agents with valid certificates, with the ends of these.
    async fn instances(&self) -> Result<BTreeSet<(String, String)>> {
        let clusters = self.fleet.ztka_json(ORG, &["cluster", "list"]).await?;
        let instances = clusters[0]["instances"].as_array().context("no cluster")?.clone();
        let text = |instance: &Value, key: &str| instance[key].as_str().unwrap_or_default().to_owned();
        Ok(instances.iter().map(|instance| (text(instance, "id"), text(instance, "not_after"))).collect())
    }

    async fn secret(&self) -> Result<Value> {
        let get = ["get", "secret", CREDENTIAL_SECRET, "-n", "ztka-system", "-o", "json"];
        Ok(serde_json::from_str(&self.cluster.kubectl().ok(get).await?)?)
    }
}

#[tokio::test]
async fn agents_that_start_at_once_end_with_one_secret_and_a_certificate_each() -> Result<()> {
    let site = Site::start(None).await?;
    let names = ["one", "two", "three", "four"];
    let mut agents: Vec<Process> = names.iter().map(|name| site.agent(name)).collect::<Result<_>>()?;
    for name in names {
        site.connected(name).await.with_context(|| site.fleet.tails())?;
    }
    assert!(agents.iter_mut().all(Process::is_running));
    let instances = site.instances().await?;
    assert_eq!(instances.len(), 5, "the cluster's own and one for each: {instances:?}");
    let data = site.secret().await?["data"].as_object().context("no data")?.clone();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["credential.pem", "token-id", "trust.json"], "no pending key is left");
    let chains: BTreeSet<_> = names
        .iter()
        .map(|name| fs::read_to_string(site.fleet.path(&format!("{name}/credential.pem"))))
        .collect::<Result<_, _>>()?;
    assert_eq!(chains.len(), names.len());

    // One that comes later needs no token, and serves.
    fs::remove_file(&site.token)?;
    agents.push(site.agent("five")?);
    site.connected("five").await?;
    agents.drain(..4).for_each(|mut agent| agent.kill());
    site.fleet.ztka(&["--org", ORG, "user", "create", "alice"]).await?;
    site.fleet.bind(ORG, "alice", "cluster-admin", "dev").await?;
    let alice = site.fleet.kubeconfig(ORG, "alice").await?;
    let kubectl = site.fleet.kubectl(&alice, "dev").await?;
    kubectl.ok(["get", "namespaces"]).await?;
    let closed = kubectl.run(["get", "secret", CREDENTIAL_SECRET, "-n", "ztka-system"]).await?;
    assert!(closed.stderr.to_lowercase().contains("forbidden"), "{closed:?}");

    // A restart goes on with what the state directory has: no further name.
    let before = site.instances().await?.len();
    agents.iter_mut().for_each(Process::kill);
    let _five = site.agent("five")?;
    wait_for("an answer after the restart", || kubectl.ok(["get", "namespaces"])).await?;
    assert_eq!(site.instances().await?.len(), before);
    Ok(())
}

#[tokio::test]
async fn the_shared_credential_and_each_ones_own_are_renewed() -> Result<()> {
    let site = Site::start(Some("30s")).await?;
    let _agents = [site.agent("one")?, site.agent("two")?];
    for name in ["one", "two"] {
        site.connected(name).await.with_context(|| site.fleet.tails())?;
    }
    let first = site.instances().await?;
    assert_eq!(first.len(), 3, "{first:?}");
    let secret = site.secret().await?["data"]["credential.pem"].clone();
    // Past the end of the first certificates everybody is there under the same name, and the Secret has a newer one.
    let ends: jiff::Timestamp = first.iter().map(|(_, end)| end.clone()).max().context("none")?.parse()?;
    wait_for_within(Duration::from_secs(90), "the end of the first certificates", || async {
        ensure!(jiff::Timestamp::now() > ends, "they are good until {ends}");
        Ok(())
    })
    .await?;
    let names = |instances: &BTreeSet<(String, String)>| instances.iter().map(|(id, _)| id.clone()).collect();
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (names(&first), names(&site.instances().await?));
    assert_eq!(before, after, "{}\n{}", site.log("one")?, site.log("two")?);
    assert_ne!(site.secret().await?["data"]["credential.pem"], secret);
    let mut three = site.agent("three")?;
    site.connected("three").await?;
    assert!(three.is_running());
    assert_eq!(site.instances().await?.len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_cluster_whose_agents_slept_too_long_needs_a_new_token() -> Result<()> {
    let site = Site::start(Some("10s")).await?;
    let mut one = site.agent("one")?;
    site.connected("one").await.with_context(|| site.fleet.tails())?;
    one.kill();
    let ends = site.instances().await?.iter().map(|(_, end)| end.clone()).max().context("no agent")?;
    let ends: jiff::Timestamp = ends.parse()?;
    wait_for("the end of all certificates", || async {
        ensure!(jiff::Timestamp::now() > ends, "they are good until {ends}");
        Ok(())
    })
    .await?;
    fs::rename(&site.token, site.fleet.path("spent.token"))?;
    let mut late = site.agent("one")?;
    wait_for("the end of an agent that cannot join", || {
        let is_running = late.is_running();
        async move {
            ensure!(!is_running, "it still runs");
            Ok(())
        }
    })
    .await?;
    let said = late.tail();
    assert!(said.contains("has expired; apply a manifest with a new enrolment token"), "{said}");
    let before = site.fleet.ztka_json(ORG, &["cluster", "list"]).await?[0]["id"].clone();
    fs::write(&site.token, site.fleet.ztka(&["--org", ORG, "cluster", "token", "dev"]).await?)?;
    let _again = [site.agent("one")?, site.agent("two")?];
    for name in ["one", "two"] {
        wait_for("a certificate of its own", || async {
            let log = site.log(name)?;
            ensure!(log.matches("joined by the cluster's credential").count() > usize::from(name == "one"), "{log}");
            Ok(())
        })
        .await?;
    }
    assert_eq!(site.fleet.ztka_json(ORG, &["cluster", "list"]).await?[0]["id"], before);
    Ok(())
}
