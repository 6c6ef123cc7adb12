//! The cluster's credential in a Secret of a real apiserver, with no more rights than the agent has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod stage;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::SignedDuration;
use rustls::crypto::CryptoProvider;
use serde_json::Value;
use stage::Stage;
use tokio::task::JoinSet;
use zeroize::Zeroizing;
use ztka_agent::{
    CREDENTIAL_SECRET, SecretStore,
    accounts::{AgentToken, Client},
};
use ztka_core::ManualClock;
use ztka_pki::{
    CredentialStore, Hierarchy, Lifetimes, MemoryKeyStore, Names, SoftwareKey, StoredCredential, TokenId, ValidCsr,
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn store(stage: &Stage) -> SecretStore {
    let client = Client::new(stage.pool.clone(), AgentToken::file(&stage.token_file));
    SecretStore::new(client, provider())
}

fn token(number: u8) -> TokenId {
    format!("e{number:032x}").parse().unwrap()
}

struct Issuer(Hierarchy, ManualClock);

impl Issuer {
    async fn new() -> Result<Self> {
        let clock = ManualClock::at(jiff::Timestamp::now());
        let keys = Arc::new(MemoryKeyStore::new(provider()));
        let (names, shared) = (Names::of("example.com"), Arc::new(clock.clone()));
        let hierarchy = Hierarchy::create(names, Lifetimes::default(), keys, shared).await?;
        hierarchy.create_org(&"acme".parse()?).await?;
        Ok(Self(hierarchy, clock))
    }

    /// A credential of an agent, that a token or a renewal has given now.
    async fn credential(&self, instance: &str, by: Option<TokenId>) -> Result<StoredCredential> {
        let key = SoftwareKey::generate(&provider())?;
        let csr = ValidCsr::from_der(&key.csr()?)?;
        let issued = self.0.issue_agent(&csr, &"acme".parse()?, &"c1".parse()?, &instance.parse()?).await?;
        let credential = ztka_pki::Credential::new(issued.chain().to_vec(), &key)?;
        Ok(StoredCredential { token: by, ..StoredCredential::of(&credential, &key, self.0.trust_bundle()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_a_credential_as_every_store_does_and_reads_no_other_secret() -> Result<()> {
    let stage = Stage::set().await?;
    ztka_pki::conformance::credential_store(&store(&stage), provider()).await?;
    let kubectl = stage.cluster.kubectl();
    let secrets = kubectl.ok(["get", "secrets", "-n", "ztka-system", "-o", "name"]).await?;
    assert_eq!(secrets.trim(), format!("secret/{CREDENTIAL_SECRET}"));

    // The agent's role: this Secret by name, and no list or watch that would show it with others.
    kubectl.ok(["create", "secret", "generic", "other", "-n", "ztka-system", "--from-literal=a=b"]).await?;
    let account = "--as=system:serviceaccount:ztka-system:ztka-agent";
    let can = async |verb: &str, what: &str| {
        Ok::<_, anyhow::Error>(kubectl.run(["auth", "can-i", verb, what, "-n", "ztka-system", account]).await?.stdout)
    };
    let own = format!("secrets/{CREDENTIAL_SECRET}");
    for (verb, what, expected) in [
        ("get", own.as_str(), "yes"),
        ("update", &own, "yes"),
        ("get", "secrets/other", "no"),
        ("update", "secrets/other", "no"),
        ("get", "secrets", "no"),
        ("list", "secrets", "no"),
        ("watch", "secrets", "no"),
    ] {
        assert_eq!(can(verb, what).await?.trim(), expected, "{verb} {what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_write_at_once_leave_one_whole_credential() -> Result<()> {
    let (stage, issuer) = (Stage::set().await?, Issuer::new().await?);
    // Eight agents begin at once with the same token: they agree on one key.
    let mut racers = JoinSet::new();
    for _ in 0..8 {
        let store = store(&stage);
        racers.spawn(async move {
            let key = SoftwareKey::generate(&provider())?.to_pem();
            anyhow::Ok(store.keep_pending_key(&token(1), key).await?)
        });
    }
    let kept = racers.join_all().await.into_iter().collect::<Result<Vec<Zeroizing<String>>>>()?;
    assert!(kept.iter().all(|key| *key == kept[0]), "more than one key");
    assert_eq!(store(&stage).pending_key(&token(1)).await?.as_ref(), Some(&kept[0]));

    // Each of eight has renewed the credential of the same name; one is kept, whole, and it is none of the older ones.
    let first = issuer.credential("i1", Some(token(1))).await?;
    store(&stage).save(&first).await?;
    let mut renewed = Vec::new();
    for _ in 0..8 {
        issuer.1.advance(SignedDuration::from_secs(10));
        renewed.push(issuer.credential("i1", None).await?);
    }
    let newest = renewed[7].chain.clone();
    let mut racers = JoinSet::new();
    for credential in renewed {
        let store = store(&stage);
        racers.spawn(async move { store.save(&credential).await });
    }
    racers.join_all().await.into_iter().collect::<Result<Vec<()>, _>>()?;
    let kept = store(&stage).load().await?.context("nothing is kept")?;
    kept.credential(&provider())?;
    assert_eq!(kept.chain, newest);
    assert_eq!(kept.token, Some(token(1)), "a renewal leaves the token that it goes back to");
    assert_eq!(store(&stage).pending_key(&token(1)).await?, None);
    // One that comes too late leaves no key for a token that is done with.
    let late = SoftwareKey::generate(&provider())?.to_pem();
    assert_eq!(store(&stage).keep_pending_key(&token(1), late.clone()).await?, late);
    assert_eq!(store(&stage).pending_key(&token(1)).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_renewal_does_not_undo_a_new_beginning() -> Result<()> {
    let (mut stage, issuer) = (Stage::set().await?, Issuer::new().await?);
    let store = store(&stage);
    store.save(&issuer.credential("i1", Some(token(1))).await?).await?;
    let late = issuer.credential("i1", None).await?;
    let joined_again = issuer.credential("i2", Some(token(2))).await?;
    store.save(&joined_again).await?;
    store.save(&late).await?;
    let kept = store.load().await?.context("nothing is kept")?;
    assert_eq!((kept.chain, kept.token), (joined_again.chain, Some(token(2))));

    // What others have put beside it stays, and what is no credential is said to be none.
    let kubectl = stage.cluster.kubectl();
    let secret = ["secret", CREDENTIAL_SECRET, "-n", "ztka-system"];
    kubectl.ok([&["annotate"][..], &secret, &["example.com/owner=platform"]].concat()).await?;
    store.save(&issuer.credential("i2", None).await?).await?;
    let object: Value = serde_json::from_str(&kubectl.ok([&["get"][..], &secret, &["-o", "json"]].concat()).await?)?;
    assert_eq!(object["metadata"]["annotations"]["example.com/owner"], "platform");
    assert_eq!(object["type"], "ztka.dev/agent-credential");
    let patch = r#"{"data": {"credential.pem": "eA=="}}"#;
    kubectl.ok([&["patch"][..], &secret, &["-p", patch]].concat()).await?;
    let error = store.load().await.unwrap_err().to_string();
    assert!(error.contains("ztka-system/ztka-agent-credential") && error.contains("enrol again"), "{error}");
    kubectl.ok([&["delete"][..], &secret].concat()).await?;
    assert!(store.load().await?.is_none());

    // What is no answer is tried again for some seconds, and then said.
    stage.cluster.kill_apiserver()?;
    let error = store.load().await.unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    stage.cluster.start_apiserver().await?;
    assert!(store.load().await?.is_none());

    // An agent whose role was taken away says what to do.
    kubectl.ok(["delete", "rolebinding", "ztka:agent", "-n", "ztka-system"]).await?;
    let error = ztka_test_cluster::wait_for("the cluster to notice", || async {
        store.load().await.err().context("still allowed")
    })
    .await?;
    let said = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(said.contains("apply the agent's manifest again"), "{said}");
    Ok(())
}
