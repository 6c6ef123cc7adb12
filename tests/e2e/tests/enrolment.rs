//! One token, one key: whoever else comes with it is refused and on record.

use std::{fs, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::task::JoinSet;
use ztka_core::SystemClock;
use ztka_e2e::{Both, Fleet, Process, program};
use ztka_pki::{EnrolError, Enrolled, EnrolmentClient, SoftwareKey, TcpConnect};
use ztka_test_cluster::{Options, wait_for};

const ORG: &str = "acme";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An agent at the installation's own front, by way of the proxy.
fn client(fleet: &Fleet, token: &str) -> Result<EnrolmentClient> {
    let connect = Arc::new(TcpConnect::new(format!("127.0.0.1:{}", fleet.front())));
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
