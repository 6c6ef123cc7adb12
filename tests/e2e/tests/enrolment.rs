//! One token, one key: whoever else comes with it is refused and on record.

use std::{fs, io, net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::{net::TcpSocket, task::JoinSet};
use ztka_core::SystemClock;
use ztka_e2e::{Both, Fleet, Process, Upstream, program};
use ztka_pki::{Connect, Connection, EnrolError, Enrolled, EnrolmentClient, SoftwareKey};
use ztka_test_cluster::{Cluster, Options, wait_for};

const ORG: &str = "acme";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Connects from another address of this machine than the proxy does to the controller.
#[derive(Debug)]
struct From(Ipv4Addr, u16);

impl Connect for From {
    // As `async_trait` writes it.
    fn connect<'s, 'f>(&'s self) -> BoxFuture<'f, io::Result<Box<dyn Connection>>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.0, 0).into())?;
            let stream = socket.connect((Ipv4Addr::LOCALHOST, self.1).into()).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// An agent at the installation's own front, by way of the proxy.
fn client(fleet: &Fleet, token: &str) -> Result<EnrolmentClient> {
    client_from(fleet, token, Ipv4Addr::LOCALHOST)
}

fn client_from(fleet: &Fleet, token: &str, address: Ipv4Addr) -> Result<EnrolmentClient> {
    let connect = Arc::new(From(address, fleet.front()));
    let name = ServerName::try_from("enroll.ztka.test")?;
    Ok(EnrolmentClient::over_tls(token.parse()?, connect, name, provider(), Arc::new(SystemClock))?)
}

async fn enrol(fleet: &Fleet, token: &str, key: &SoftwareKey) -> Result<Result<Enrolled, String>> {
    match client(fleet, token)?.enrol(key).await {
        Ok(enrolled) => Ok(Ok(enrolled)),
        Err(EnrolError::Refused { message, .. }) => Ok(Err(message)),
        Err(other) => Err(other.into()),
    }
}

fn key() -> Result<SoftwareKey> {
    Ok(SoftwareKey::generate(&provider())?)
}

async fn token(fleet: &Fleet, cluster: &str) -> Result<String> {
    fleet.ztka(&["--org", ORG, "cluster", "token", cluster]).await
}

async fn clusters(fleet: &Fleet, names: &[&str]) -> Result<()> {
    fleet.org(ORG).await?;
    for name in names {
        fleet.ztka(&["--org", ORG, "cluster", "create", name]).await?;
    }
    Ok(())
}

/// Waits until `ztka audit tail` shows so many enrolments of a decision; returns them.
async fn audited(fleet: &Fleet, decision: &str, expected: usize) -> Result<Vec<Value>> {
    wait_for("enrolments in the audit log", || async {
        let tail = ["--org", ORG, "--output", "json", "audit", "tail", "--lines", "200", "--decision", decision];
        let text = fleet.ztka(&tail).await?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let enrolments: Vec<_> = events.into_iter().filter(|event| event["verb"] == "enrol").collect();
        ensure!(enrolments.len() == expected, "{} of {expected}: {enrolments:?}", enrolments.len());
        Ok(enrolments)
    })
    .await
}

fn reason(event: &Value) -> &str {
    event["annotations"]["ztka.dev/reason"].as_str().unwrap_or_default()
}

/// How many agents have certificates of a cluster.
async fn agents(fleet: &Fleet, cluster: &str) -> Result<usize> {
    let listed = fleet.ztka_json(ORG, &["cluster", "list"]).await?;
    let cluster = listed.as_array().into_iter().flatten().find(|listed| listed["name"] == cluster);
    Ok(cluster.and_then(|cluster| cluster["instances"].as_array()).context("no such cluster")?.len())
}

#[tokio::test]
async fn of_fifty_racing_agents_one_gets_a_certificate() -> Result<()> {
    let fleet = Fleet::start().await?;
    clusters(&fleet, &["dev"]).await?;
    let token = token(&fleet, "dev").await?;
    let mut racers = JoinSet::new();
    for _ in 0..50 {
        let (client, key) = (client(&fleet, &token)?, key()?);
        racers.spawn(async move { client.enrol(&key).await });
    }
    let (mut winners, mut refused) = (0, 0);
    while let Some(outcome) = racers.join_next().await {
        match outcome? {
            Ok(_) => winners += 1,
            Err(EnrolError::Refused { .. }) => refused += 1,
            Err(other) => return Err(anyhow::Error::from(other).context(fleet.tails())),
        }
    }
    assert_eq!((winners, refused), (1, 49));
    assert_eq!(audited(&fleet, "allow", 1).await?.len(), 1);
    let denied = audited(&fleet, "deny", 49).await?;
    assert!(denied.iter().all(|event| !reason(event).is_empty()), "{denied:?}");
    assert_eq!(agents(&fleet, "dev").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_token_is_for_one_key_one_cluster_and_some_time() -> Result<()> {
    let fleet = Fleet::start().await?;
    clusters(&fleet, &["dev", "prod"]).await?;
    let (dev, prod) = (token(&fleet, "dev").await?, token(&fleet, "prod").await?);
    let (first, second) = (key()?, key()?);

    // The first key has it; the same key may ask again, as when the answer was lost.
    let enrolled = enrol(&fleet, &dev, &first).await?.map_err(anyhow::Error::msg)?;
    let again = enrol(&fleet, &dev, &first).await?.map_err(anyhow::Error::msg)?;
    assert_eq!(enrolled.id, again.id);
    let listed = fleet.ztka_json(ORG, &["cluster", "list"]).await?;
    let id = listed.as_array().into_iter().flatten().find(|cluster| cluster["name"] == "dev");
    let id = id.and_then(|cluster| cluster["id"].as_str()).context("no id")?;
    assert!(enrolled.id.to_string().contains(&format!("/cluster/{id}/")), "{}", enrolled.id);

    // No second key.
    let refused = enrol(&fleet, &dev, &second).await?.err().context("a second key got a certificate")?;
    assert!(!refused.is_empty());
    // No second cluster: an agent's key belongs to the cluster that it enrolled for.
    let refused = enrol(&fleet, &prod, &first).await?.err().context("an agent took over another cluster")?;
    assert!(!refused.is_empty());
    assert_eq!(agents(&fleet, "prod").await?, 0);

    // No later use.
    let short = fleet.ztka_json(ORG, &["cluster", "token", "prod", "--ttl", "1s"]).await?;
    let expires: Timestamp = short["expires"].as_str().context("no end")?.parse()?;
    wait_for("the token's end", || async {
        ensure!(Timestamp::now() > expires, "not yet");
        Ok(())
    })
    .await?;
    let late = short["token"].as_str().context("no token")?;
    let refused = enrol(&fleet, late, &key()?).await?.err().context("an expired token was good")?;
    assert!(refused.contains("expired"), "{refused}");

    let denied = audited(&fleet, "deny", 3).await?;
    assert!(denied.iter().all(|event| !reason(event).is_empty()), "{denied:?}");
    // Nothing of a token's secret is in the log.
    let log = serde_json::to_string(&denied)?;
    for token in [dev.as_str(), prod.as_str(), late] {
        assert!(!log.contains(token), "a token is in the audit log");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_agent_with_the_token_ends_and_the_first_goes_on() -> Result<()> {
    let both = Both::start(Options::default()).await?;
    let fleet = &both.fleet;
    let config = fs::read_to_string(fleet.path("agent-acme-dev.toml"))?;
    let state = format!("state_dir = '{}'", fleet.path("agent-acme-dev").display());
    ensure!(config.contains(&state), "{config}");
    let thief = fleet.path("thief.toml");
    fs::write(&thief, config.replace(&state, &format!("state_dir = '{}'", fleet.path("thief").display())))?;
    let log = thief.with_extension("log");
    let arguments = ["--config".as_ref(), thief.as_os_str()];
    let mut process = Process::start(&program("ztka-agent")?, arguments, &log)?;
    wait_for("the second agent's end", || {
        let is_running = process.is_running();
        async move {
            ensure!(!is_running, "it still runs");
            Ok(())
        }
    })
    .await
    .with_context(|| process.tail())?;
    let said = process.tail();
    assert!(said.contains("token"), "{said}");
    let denied = audited(fleet, "deny", 1).await?;
    assert!(!reason(&denied[0]).is_empty(), "{denied:?}");
    both.same("get namespaces -o name").await?;
    assert_eq!(agents(fleet, "dev").await?, 1);
    Ok(())
}

/// The tokens of a cluster, newest first.
async fn tokens(fleet: &Fleet, cluster: &str) -> Result<Vec<Value>> {
    let listed = fleet.ztka_json(ORG, &["cluster", "token", "list", cluster]).await?;
    Ok(listed.as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_token_is_for_some_addresses_until_it_is_revoked() -> Result<()> {
    let fleet = Fleet::start().await?;
    clusters(&fleet, &["dev"]).await?;
    let create = async |source: &str| {
        fleet.ztka(&["--org", ORG, "cluster", "token", "create", "dev", "--source", source, "--ttl", "10m"]).await
    };
    // The address is that of the connection to the proxy, which the controller hears by the PROXY protocol: that of the
    // proxy itself, 127.0.0.1, is of no use.
    let (there, here) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST);
    let token = create("127.0.0.2/31").await?;
    let refused = enrol(&fleet, &token, &key()?).await?.err().context("let in from elsewhere")?;
    let denied = audited(&fleet, "deny", 1).await?;
    assert!(reason(&denied[0]).contains("address"), "{denied:?}");
    assert!(!refused.contains("address"), "told more than is needed: {refused}");
    assert_eq!(denied[0]["sourceIPs"][0], here.to_string(), "{denied:?}");
    client_from(&fleet, &token, there)?.enrol(&key()?).await?;
    let allowed = audited(&fleet, "allow", 1).await?;
    assert_eq!(allowed[0]["sourceIPs"][0], there.to_string(), "{allowed:?}");
    create("192.0.2.0/24").await?;

    let revoked = create("127.0.0.1").await?;
    let listed = tokens(&fleet, "dev").await?;
    let states: Vec<_> = listed.iter().map(|token| token["state"].as_str().unwrap_or_default()).collect();
    assert_eq!(states, ["unused", "unused", "spent"], "{listed:?}");
    let id = listed[0]["id"].as_str().context("no id")?;
    fleet.ztka(&["--org", ORG, "cluster", "token", "revoke", "dev", id]).await?;
    let refused = enrol(&fleet, &revoked, &key()?).await?.err().context("a revoked token was good")?;
    assert!(refused.contains("revoked"), "{refused}");
    assert_eq!(tokens(&fleet, "dev").await?[0]["state"], "revoked");
    assert_eq!(agents(&fleet, "dev").await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_agent_waits_for_the_approval_of_its_key() -> Result<()> {
    let cluster = Cluster::level1(Options::default()).await?;
    let mut fleet = Fleet::start().await?;
    clusters(&fleet, &["dev"]).await?;
    let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
    let upstream = Upstream { url: cluster.url(), ca: cluster.ca_path(), token: &account.token_path };
    let create = ["--org", ORG, "cluster", "token", "create", "dev", "--approval"];
    let token = fleet.ztka(&create).await?;
    fleet.start_agent(ORG, "dev", upstream, &token)?;
    let waiting = wait_for("a key that waits", || async {
        let token = tokens(&fleet, "dev").await?.pop().context("no token")?;
        ensure!(token["state"] == "waiting", "{token}");
        Ok(token)
    })
    .await?;
    assert_eq!(agents(&fleet, "dev").await?, 0, "no agent before the approval");
    let (id, key) = (waiting["id"].as_str().context("no id")?, waiting["key"].as_str().context("no key")?);
    // What an administrator compares: the agent's own log.
    let log = fleet.path("agent-acme-dev.log");
    wait_for("the key in the agent's log", || async {
        ensure!(fs::read_to_string(&log)?.contains(key), "{key} is not in the log");
        Ok(())
    })
    .await?;
    let approve = ["--org", ORG, "cluster", "token", "approve", "dev", id];
    let shown = fleet.ztka(&approve).await.err().context("approved without a look at the key")?;
    assert!(shown.to_string().contains(key), "{shown:#}");
    let other = "0".repeat(64);
    let wrong = fleet.ztka(&[&approve[..], &["--key", &other]].concat()).await.err().context("approved another key")?;
    assert!(wrong.to_string().contains("somebody else"), "{wrong:#}");
    fleet.ztka(&[&approve[..], &["--key", key]].concat()).await?;
    fleet.enrolled(ORG, "dev").await?;
    fleet.ztka(&["--org", ORG, "user", "create", "alice"]).await?;
    fleet.bind(ORG, "alice", "cluster-admin", "dev").await?;
    let alice = fleet.kubeconfig(ORG, "alice").await?;
    fleet.kubectl(&alice, "dev").await?.ok(["get", "namespaces"]).await?;

    // Refused by an administrator: that agent ends, and says why.
    fleet.ztka(&["--org", ORG, "cluster", "create", "prod"]).await?;
    let token = fleet.ztka(&["--org", ORG, "cluster", "token", "create", "prod", "--approval"]).await?;
    fleet.start_agent(ORG, "prod", upstream, &token)?;
    let prod = (ORG.to_owned(), "prod".to_owned());
    let log = fleet.path("agent-acme-prod.log");
    let waits = async |fleet: &Fleet, times: usize| {
        wait_for("a key that waits", || async {
            let token = tokens(fleet, "prod").await?.pop().context("no token")?;
            let text = |name: &str| Ok::<_, anyhow::Error>(token[name].as_str().context("none")?.to_owned());
            let (id, key) = (text("id")?, text("key")?);
            ensure!(fs::read_to_string(&log)?.matches(&key).count() >= times, "it has not asked again");
            Ok((id, key))
        })
        .await
    };
    let (id, key) = waits(&fleet, 1).await?;
    // It may be stopped while it waits, and goes on with the same key.
    let agent = fleet.agents.get_mut(&prod).context("no agent")?;
    let asked_to_end = std::process::Command::new("kill").arg(agent.process.pid().to_string()).status()?;
    ensure!(asked_to_end.success(), "cannot ask the agent to end");
    wait_for("the end of an agent that waits", || {
        let is_running = agent.process.is_running();
        async move {
            ensure!(!is_running, "it still runs");
            Ok(())
        }
    })
    .await?;
    let asked = fs::read_to_string(&log)?.matches(&key).count();
    agent.restart()?;
    assert_eq!(waits(&fleet, asked + 1).await?, (id.clone(), key.clone()));
    fleet.ztka(&["--org", ORG, "cluster", "token", "refuse", "prod", &id, "--key", &key]).await?;
    let process = &mut fleet.agents.get_mut(&prod).context("no agent")?.process;
    wait_for("the refused agent's end", || {
        let is_running = process.is_running();
        async move {
            ensure!(!is_running, "it still runs");
            Ok(())
        }
    })
    .await?;
    let said = process.tail();
    assert!(said.contains("refused"), "{said}");
    assert_eq!(agents(&fleet, "prod").await?, 0);
    Ok(())
}
