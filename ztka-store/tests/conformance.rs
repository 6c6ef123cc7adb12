//! Every store trait's suite, on both databases.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::sync::Arc;

use kit::Place;
use ztka_controller::store::{Cluster, FindingStore as _, Found, ResourceStore as _};
use ztka_core::OrgId;
use ztka_identity::{IdentityStore as _, Org};
use ztka_pki::{EnrolmentStore as _, KeyError, KeyKind, KeyStore as _};
use ztka_store::{Location, MasterKey, Masters, SealedKeyStore};

kit::on_both!(
    identity,
    resources,
    documents,
    revocations,
    changes,
    compaction,
    bulk_compaction,
    conditions,
    keys,
    enrolment,
    events,
    receipts,
    log,
    findings,
    recordings,
    members,
    tokens,
    controllers,
    authorities,
    jobs,
    pages,
    policy,
);

async fn pages(place: &Place) {
    ztka_controller::conformance::pages(&place.unlocked().await).await;
}

async fn jobs(place: &Place) {
    ztka_controller::conformance::jobs(&place.unlocked().await).await;
}

async fn policy(place: &Place) {
    ztka_controller::conformance::policy(&place.unlocked().await).await;
}

async fn identity(place: &Place) {
    ztka_identity::conformance::identity(&place.unlocked().await).await;
}

async fn resources(place: &Place) {
    ztka_controller::conformance::resources(&place.unlocked().await).await;
}

async fn documents(place: &Place) {
    ztka_controller::conformance::documents(&place.unlocked().await).await;
}

async fn recordings(place: &Place) {
    ztka_controller::conformance::recordings(&place.unlocked().await).await;
}

async fn revocations(place: &Place) {
    ztka_controller::conformance::revocations(&place.unlocked().await).await;
}

async fn changes(place: &Place) {
    ztka_controller::conformance::changes(&place.unlocked().await).await;
}

async fn compaction(place: &Place) {
    ztka_controller::conformance::compaction(&place.unlocked().await.with_history(100), 100).await;
}

async fn bulk_compaction(place: &Place) {
    ztka_controller::conformance::bulk_compaction(&place.unlocked().await.with_history(100), 100).await;
}

async fn conditions(place: &Place) {
    ztka_controller::conformance::conditions(&place.unlocked().await).await;
}

async fn members(place: &Place) {
    ztka_controller::conformance::members(&place.unlocked().await).await;
}

async fn tokens(place: &Place) {
    ztka_controller::conformance::live_tokens(&place.unlocked().await).await;
}

async fn controllers(place: &Place) {
    ztka_controller::conformance::controllers(&place.unlocked().await).await;
}

async fn authorities(place: &Place) {
    ztka_controller::conformance::authorities(&place.unlocked().await).await;
}

async fn keys(place: &Place) {
    let store = place.unlocked().await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keys = || SealedKeyStore::new(store.clone(), provider.clone());
    let (name, absent) = ("root".parse().unwrap(), "users".parse().unwrap());
    ztka_pki::conformance::key_store(&keys()).await.unwrap();
    let made = keys().create(&name, KeyKind::default()).await.unwrap();
    assert!(matches!(keys().create(&name, KeyKind::default()).await, Err(KeyError::Exists(_))));
    let opened = keys().open(&name).await.unwrap();
    assert_eq!(made.public_key(), opened.public_key());
    let signature = opened.sign(b"message").await.unwrap();
    assert!(made.public_key().is_signed(b"message", &signature));
    let without = SealedKeyStore::new(place.open().await, provider.clone());
    assert!(matches!(without.open(&name).await, Err(KeyError::Unavailable(_))), "without the master key");
    let other = Masters::of(MasterKey::new(&[2; 32]).unwrap());
    assert!(place.open().await.unlock(other).await.is_err(), "another master key");
    if let Location::Sqlite(path) = &place.location {
        let file = std::fs::read(path.with_extension("db-wal")).unwrap();
        assert!(!file.windows(11).any(|part| part == b"PRIVATE KEY"), "never unsealed on the disk");
    }
    keys().destroy(&name).await.unwrap();
    assert!(matches!(keys().destroy(&name).await, Err(KeyError::Absent(_))));
    assert!(matches!(keys().open(&absent).await, Err(KeyError::Absent(_))));
}

async fn enrolment(place: &Place) {
    let store = place.open().await;
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    let org: OrgId = "conformance".parse().unwrap();
    store
        .create_org(&Org { id: org.clone(), name: "conformance".parse().unwrap(), created, longest_credential: None })
        .await
        .unwrap();
    let (id, name): (ztka_core::ClusterId, _) = ("c1".parse().unwrap(), "c1".parse().unwrap());
    let cluster = Cluster { id: id.clone(), org: org.clone(), name, labels: Default::default(), created };
    store.create_cluster(&cluster).await.unwrap();
    ztka_pki::conformance::enrolment_store(&store).await.unwrap();

    // Tokens of a deleted cluster are gone with it.
    let enrollee = ztka_pki::Enrollee::Agent { org: org.clone(), cluster: id.clone() };
    let pin = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
    let life = jiff::SignedDuration::from_hours(1);
    let (token, record) = ztka_pki::EnrolmentToken::generate(enrollee, pin, created, life).unwrap();
    store.add_token(record).await.unwrap();
    store.delete_cluster(&org, &id, created).await.unwrap();
    assert_eq!(store.token(token.id()).await.unwrap(), None);
}

async fn events(place: &Place) {
    ztka_audit::conformance::events(&place.unlocked().await).await;
}

async fn log(place: &Place) {
    ztka_audit::conformance::log(&place.unlocked().await).await;
}

async fn receipts(place: &Place) {
    ztka_audit::conformance::receipts(&place.unlocked().await).await;
}

async fn findings(place: &Place) {
    use ztka_audit::Finding;

    let store = place.open().await;
    let found = |org: Option<&str>, sequence| Found {
        org: org.map(|org| org.parse().unwrap()),
        cluster: org.map(|_| "c1".parse().unwrap()),
        source: "spiffe://example.com/proxy/p1".into(),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        finding: Finding::BrokenChain { sequence },
    };
    let all = [found(Some("acme"), 1), found(Some("acme"), 2), found(Some("other"), 3), found(None, 4)];
    store.add_findings(&all).await.unwrap();
    let acme = "acme".parse().unwrap();
    assert_eq!(store.findings(Some(&acme), 10).await.unwrap(), [found(Some("acme"), 2), found(Some("acme"), 1)]);
    assert_eq!(store.findings(Some(&acme), 1).await.unwrap(), [found(Some("acme"), 2)], "newest first");
    assert_eq!(store.findings(None, 10).await.unwrap(), [found(None, 4)]);
    let at = found(None, 0).at;
    assert_eq!(store.count_findings(at).await.unwrap(), 4);
    assert_eq!(store.count_findings(at + jiff::SignedDuration::from_micros(1)).await.unwrap(), 0);
}
