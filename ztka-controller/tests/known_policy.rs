//! The policy is read when it has changed, not whenever somebody asks for something that it decides.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use http::StatusCode;
use jiff::Timestamp;
use kit::{Kit, call, certificate_of};
use serde_json::{Value, json};
use ztka_controller::{
    Controller,
    store::{DocumentStore, FeedEntry, FeedScope, Published, Snapshot, StoreError},
};
use ztka_core::{ClusterId, DocumentKind, OrgId, Revision, SeriesKey};
use ztka_identity::{AdminRole, Caller};

/// A store that counts how often a whole policy is read.
#[derive(Debug)]
struct Counting {
    store: Arc<dyn DocumentStore>,
    read: Arc<AtomicUsize>,
}

#[async_trait]
impl DocumentStore for Counting {
    async fn due(&self, before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError> {
        self.store.due(before, now, limit).await
    }

    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError> {
        self.read.fetch_add(usize::from(series.kind == DocumentKind::Policy), SeqCst);
        self.store.snapshot(series, now).await
    }

    async fn revision(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Revision>, StoreError> {
        self.store.revision(series, now).await
    }

    async fn publish(&self, document: &Published) -> Result<bool, StoreError> {
        self.store.publish(document).await
    }

    async fn projections(&self, org: &OrgId, before: Timestamp) -> Result<Vec<ClusterId>, StoreError> {
        self.store.projections(org, before).await
    }

    async fn publish_all(&self, documents: &[Published]) -> Result<usize, StoreError> {
        self.store.publish_all(documents).await
    }

    async fn feed(&self, scope: &FeedScope, from: u64, limit: u32) -> Result<Vec<FeedEntry>, StoreError> {
        self.store.feed(scope, from, limit).await
    }

    async fn feed_head(&self) -> Result<u64, StoreError> {
        self.store.feed_head().await
    }

    async fn touch_trust(&self) -> Result<(), StoreError> {
        self.store.touch_trust().await
    }

    async fn unrecorded_epoch(&self) -> Result<Option<u64>, StoreError> {
        self.store.unrecorded_epoch().await
    }

    async fn epoch_recorded(&self, epoch: u64) -> Result<(), StoreError> {
        self.store.epoch_recorded(epoch).await
    }
}

struct World {
    kit: Kit,
    counting: Controller,
    read: Arc<AtomicUsize>,
}

impl World {
    async fn new() -> Self {
        let mut kit = Kit::new().await;
        let read = Arc::new(AtomicUsize::new(0));
        let stored = kit.stores.documents.clone();
        kit.stores.documents = Arc::new(Counting { store: stored, read: read.clone() });
        let counting = kit.another().await;
        Self { kit, counting, read }
    }

    async fn call(&self, who: &Caller, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/api/v1/orgs/{}/{path}", who.user.org);
        call(self.counting.api(), Some(certificate_of(who)), method, &path, &body).await
    }

    /// How often it was read since the last time.
    fn read(&self) -> usize {
        self.read.swap(0, SeqCst)
    }
}

#[tokio::test]
async fn who_is_refused_reads_no_policy_but_a_new_one() {
    let world = World::new().await;
    let acme = world.kit.org("acme").await.id;
    let boss = world.kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let alice = world.kit.user(&acme, "alice", None).await;
    world.call(&alice, "GET", "users", &Value::Null).await;
    world.read();
    for path in ["users", "policy", "bindings", "clusters", "events"] {
        let expected = if path == "clusters" { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(world.call(&alice, "GET", path, &Value::Null).await.0, expected, "{path}");
    }
    assert_eq!(world.read(), 0);

    // Who changes it changes what there is for the next one; on another controller as well as on this one.
    let reader = json!({"subjects": [{"user": "alice"}], "role": "org-read-only", "clusters": {"all": true}, "scope": "cluster"});
    let path = format!("/api/v1/orgs/{acme}/policy/bindings/reader");
    let put = world.kit.call(Some(certificate_of(&boss)), "PUT", &path, &reader.to_string()).await;
    assert_eq!(put.0, StatusCode::OK, "{}", put.1);
    for _ in 0..5 {
        assert_eq!(world.call(&alice, "GET", "users", &Value::Null).await.0, StatusCode::OK);
    }
    assert_eq!(world.read(), 1);
    assert_eq!(world.call(&boss, "DELETE", "policy/bindings/reader", &Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.call(&alice, "GET", "users", &Value::Null).await.0, StatusCode::FORBIDDEN);

    // All who wait for the same one have it read once.
    world.read();
    world.call(&boss, "PUT", "policy/settings/default", &json!({"viewExec": true})).await;
    world.read();
    let asked = (0..8).map(|_| world.call(&alice, "GET", "users", &Value::Null));
    let asked = futures_util::future::join_all(asked).await;
    assert!(asked.iter().all(|(status, _)| *status == StatusCode::FORBIDDEN));
    assert_eq!(world.read(), 1);
}

#[tokio::test]
async fn organisations_that_few_ask_for_are_forgotten_and_read_again() {
    let world = World::new().await;
    let mut people = Vec::new();
    for number in 0..70 {
        let org = world.kit.org(&format!("org-{number}")).await.id;
        people.push(world.kit.user(&org, "alice", None).await);
    }
    world.read();
    for alice in &people {
        assert_eq!(world.call(alice, "GET", "users", &Value::Null).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(world.read(), people.len());
    for (alice, expected) in [(people.last(), 0), (people.first(), 1), (people.first(), 0)] {
        assert_eq!(world.call(alice.unwrap(), "GET", "users", &Value::Null).await.0, StatusCode::FORBIDDEN);
        assert_eq!(world.read(), expected);
    }
}
