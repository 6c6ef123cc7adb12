//! The policy of an organisation and its projections to clusters: of one version, together, and each cluster its own alone.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kit::Kit;
use serde_json::json;
use ztka_authz::{Binding, PolicyDocument};
use ztka_controller::store::{DocumentStore as _, FeedScope, ResourceStore as _, Stores};
use ztka_core::{Clock as _, ClusterId, DocumentKind, OrgId, Revision, SeriesKey, SignedDocument, Verified};
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, PublicKey, Signer};
use ztka_test_postgres::Server;

/// What is published of an organisation's policy, in the order of the feed.
async fn policies(kit: &Kit, scope: &FeedScope, org: &OrgId) -> Vec<Verified<SignedDocument>> {
    let (keys, now) = (kit.controller.hierarchy().trust_bundle(), kit.clock.now());
    let entries = kit.store.feed(scope, 0, 10_000).await.unwrap();
    let documents = entries.iter().map(|entry| SignedDocument::from_wire(&entry.wire).unwrap());
    let policies = documents.filter(|document| {
        let series = &document.header().series;
        series.kind == DocumentKind::Policy && series.org.as_ref() == Some(org)
    });
    policies.map(|document| document.accept(&keys, None, now).unwrap()).collect()
}

fn series(documents: &[Verified<SignedDocument>]) -> Vec<SeriesKey> {
    documents.iter().map(|document| document.header().series.clone()).collect()
}

async fn bind(kit: &Kit, org: &OrgId, name: &str, user: &str, clusters: serde_json::Value) {
    let binding = json!({
        "name": name, "subjects": [{"user": user}], "role": "view", "clusters": clusters, "scope": "cluster",
    });
    let binding: Binding = serde_json::from_value(binding).unwrap();
    kit.store.create_binding(org, &name.parse().unwrap(), &binding, None).await.unwrap();
}

#[tokio::test]
async fn each_cluster_has_its_own_part_of_the_same_version() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let (one, two) = (kit.cluster(&acme, "one").await, kit.cluster(&acme, "two").await);
    kit.cluster(&kit.org("other").await.id, "foreign").await;
    bind(&kit, &acme, "ann", "ann", json!({"names": ["one"]})).await;
    bind(&kit, &acme, "bob", "bob", json!({"names": ["two"]})).await;
    kit.controller.publish_due().await.unwrap();
    assert_eq!(kit.controller.publish_due().await.unwrap(), 0);

    let all = policies(&kit, &FeedScope::Proxies, &acme).await;
    let mut clusters = [SeriesKey::projection(acme.clone(), &one), SeriesKey::projection(acme.clone(), &two)];
    clusters.sort();
    assert_eq!(
        series(&all),
        [&clusters[..], &[SeriesKey::policy(acme.clone())]].concat(),
        "the whole behind its parts"
    );
    let revisions: Vec<Revision> = all.iter().map(|document| document.header().revision).collect();
    assert!(revisions.windows(2).all(|pair| pair.first() == pair.last()), "{revisions:?}");
    for (cluster, name, theirs) in [(&one, "ann", "bob"), (&two, "bob", "ann")] {
        let scope = FeedScope::Cluster(acme.clone(), cluster.clone());
        let own = policies(&kit, &scope, &acme).await;
        assert_eq!(series(&own), [SeriesKey::projection(acme.clone(), cluster)]);
        let body: PolicyDocument = own.first().unwrap().body().unwrap();
        let text = serde_json::to_string(&body).unwrap();
        assert!(text.contains(name) && text.contains(cluster.as_str()), "{text}");
        assert!(!text.contains(theirs), "{text}");
    }

    // A change of one is a version of all; of a cluster that is gone nothing is left.
    kit.store.delete_cluster(&acme, &two, kit.clock.now()).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    let all = policies(&kit, &FeedScope::Proxies, &acme).await;
    assert_eq!(series(&all), [SeriesKey::projection(acme.clone(), &one), SeriesKey::policy(acme.clone())]);
    assert!(all.iter().all(|document| document.header().revision > *revisions.first().unwrap()));
}

#[tokio::test]
async fn controllers_and_older_proxies_are_shown_no_projection() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    kit.cluster(&acme, "one").await;
    kit.controller.publish_due().await.unwrap();
    let seen = policies(&kit, &FeedScope::Installation, &acme).await;
    assert_eq!(series(&seen), [SeriesKey::policy(acme)]);
}

/// Keys in a token that takes its time.
#[derive(Debug)]
struct Slow(Arc<dyn KeyStore>);

#[derive(Debug)]
struct SlowSigner(Arc<dyn Signer>);

/// Twenty of them are more than the policy waits for.
const SIGNATURE: Duration = Duration::from_millis(30);

#[async_trait]
impl Signer for SlowSigner {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        tokio::time::sleep(SIGNATURE).await;
        self.0.sign(message).await
    }
}

#[async_trait]
impl KeyStore for Slow {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(SlowSigner(self.0.create(name, kind).await?)))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(SlowSigner(self.0.open(name).await?)))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.destroy(name).await
    }
}

#[tokio::test]
async fn with_a_slow_signer_the_policy_does_not_wait_for_every_projection() {
    let mut kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    for number in 0..20 {
        kit.cluster(&acme, &format!("c{number}")).await;
    }
    kit.controller.publish_due().await.unwrap();
    bind(&kit, &acme, "ann", "ann", json!({"all": true})).await;
    kit.stores = Stores { keys: Arc::new(Slow(kit.stores.keys.clone())), ..kit.stores };
    // It signs what is due as it opens.
    kit.another().await;
    let all = series(&policies(&kit, &FeedScope::Proxies, &acme).await);
    assert_eq!(all.len(), 21);
    let whole = all.iter().position(|series| !series.is_projection()).unwrap();
    assert!((1..20).contains(&whole), "behind those that were ready and before the others: {whole}");
    let revision = |series: &SeriesKey| {
        let (store, series) = (kit.store.clone(), series.clone());
        async move { store.revision(&series, jiff::Timestamp::UNIX_EPOCH).await.unwrap() }
    };
    let first = revision(all.first().unwrap()).await;
    assert_eq!(first, revision(all.last().unwrap()).await);
    assert_eq!(kit.controller.publish_due().await.unwrap(), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_controllers_one_signs() {
    let Some(server) = Server::shared_or_skip().unwrap() else { return };
    let kit = Kit::over(&ztka_store::Location::Postgres(server.database().unwrap())).await;
    let acme = kit.org("acme").await.id;
    for number in 0..5 {
        kit.cluster(&acme, &format!("c{number}")).await;
    }
    // Another controller is at it: this one leaves it alone for a while, and does not sign for nothing.
    let held = kit.store.claim(&acme).await.unwrap().unwrap();
    kit.controller.publish_due().await.unwrap();
    assert_eq!(policies(&kit, &FeedScope::Proxies, &acme).await.len(), 0);
    let unsigned = || async { kit.store.projections(&acme, jiff::Timestamp::MIN).await.unwrap().len() };
    assert_eq!(unsigned().await, 5);
    drop(held);
    // It is given back as its connection is used again, or closed.
    let begun = Instant::now();
    while unsigned().await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is never given back");
        kit.controller.publish_due().await.unwrap();
    }
    assert_eq!(policies(&kit, &FeedScope::Proxies, &acme).await.len(), 6);

    // One that keeps it and does nothing keeps nobody out for long.
    let _held = kit.store.claim(&acme).await.unwrap().unwrap();
    bind(&kit, &acme, "ann", "ann", json!({"all": true})).await;
    let begun = Instant::now();
    while unsigned().await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is waited for without end");
        kit.controller.publish_due().await.unwrap();
    }
}

/// `cargo test -p ztka-controller --test projections -- --ignored --nocapture`: what one change costs, from the transaction to
/// the last document in the feed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure, for decision 0009"]
async fn figure_of_a_change_at_a_thousand_clusters() {
    let places = [Some(("sqlite", None)), Server::shared_or_skip().unwrap().map(|server| ("postgres", Some(server)))];
    for (name, server) in places.into_iter().flatten() {
        let kit = match server {
            None => Kit::new().await,
            Some(server) => Kit::over(&ztka_store::Location::Postgres(server.database().unwrap())).await,
        };
        let acme = kit.org("acme").await.id;
        let clusters: Vec<ClusterId> = futures_util::future::join_all((0..1000).map(|number| {
            let (kit, acme) = (&kit, &acme);
            async move { kit.cluster(acme, &format!("cluster-{number}")).await }
        }))
        .await;
        // Each cluster has ten bindings of its own, and a hundred are of all.
        for number in 0..100 {
            bind(&kit, &acme, &format!("all-{number}"), &format!("user-{number}"), json!({"all": true})).await;
        }
        for number in (0..10_000).step_by(50) {
            let ids: Vec<_> = clusters.iter().skip(number / 50 * 5).take(50).collect();
            bind(&kit, &acme, &format!("some-{number}"), &format!("user-{number}"), json!({"ids": ids})).await;
        }
        kit.controller.publish_due().await.unwrap();
        let begun = Instant::now();
        bind(&kit, &acme, "one-more", "ann", json!({"all": true})).await;
        let changed = begun.elapsed();
        let signed = kit.controller.publish_due().await.unwrap();
        let whole = begun.elapsed();
        let all = kit.store.feed(&FeedScope::Proxies, 0, 10_000).await.unwrap();
        let bytes: usize = all.iter().map(|entry| entry.wire.len()).sum();
        println!(
            "{name}: change {changed:?}, {signed} documents after {whole:?}, {} KiB each",
            bytes / all.len().max(1) / 1024
        );
    }
}
