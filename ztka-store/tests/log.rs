//! The transparency log of a database: what was there before it, what is encrypted, what is changed underneath, and two
//! controllers at once.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use jiff::{SignedDuration, Timestamp};
use kit::Place;
use sqlx::{AssertSqlSafe, Connection as _};
use ztka_audit::{
    Batch, Event, EventStore as _, Hash, Kind, LogStore as _, Position, Record, Stage,
    log::{Tiles, edge},
};
use ztka_controller::store::{JobKind, JobStore as _, Step};
use ztka_core::{AuditId, OrgId};
use ztka_store::{Location, Store};

kit::on_both!(two_senders_at_once, events_of_before_come_first, what_is_gone_leaves_its_hash);

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn batch(count: usize) -> Batch {
    let (mut previous, mut records) = (Hash::default(), Vec::new());
    for sequence in 0..count as u64 {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now());
        event.annotations.set("org", "acme");
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, kind, id) = (Position::default(), Kind::Close, event.audit_id);
        records.push(Record { position, sequence, previous, kind, id, payload });
        previous = records.last().unwrap().hash();
    }
    Batch { journal: AuditId::generate(), records, signature: None }
}

async fn run(location: &Location, text: &str) {
    match location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut connection).await.unwrap();
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut connection).await.unwrap();
        }
    }
}

/// Every leaf's hash is what its tile says, and the tiles are one tree.
async fn holds(store: &Store, size: u64) -> Hash {
    assert_eq!(store.log_size(&acme()).await.unwrap(), size);
    let leaves = store.leaves(&acme(), 0..size).await.unwrap();
    assert_eq!(leaves.len() as u64, size);
    let all: Vec<_> = (0..size).map(|leaf| leaf..leaf + 1).collect();
    let ids: Vec<_> = Tiles::needed(&all).into_iter().collect();
    let tiles = store.tiles(&acme(), &ids).await.unwrap();
    for leaf in &leaves {
        let content = leaf.content.as_ref().unwrap();
        assert_eq!(tiles.range(leaf.index..leaf.index + 1), Some(content.hash()), "{}", leaf.index);
    }
    let ids: Vec<_> = edge(size).into_iter().map(|(id, _)| id).collect();
    store.tiles(&acme(), &ids).await.unwrap().root(size).unwrap()
}

async fn two_senders_at_once(place: &Place) {
    let one = place.unlocked().await;
    let two = place.unlocked().await;
    let send = async |store: &Store, source: &str| {
        for count in [1, 3, 64, 5, 1, 40] {
            let batch = batch(count);
            store.ingest(source, &batch).await.unwrap();
            store.ingest(source, &batch).await.unwrap();
        }
    };
    tokio::join!(send(&one, "spiffe://x/proxy/p1"), send(&two, "spiffe://x/proxy/p2"));
    assert_eq!(holds(&one, 228).await, holds(&two, 228).await);
}

async fn events_of_before_come_first(place: &Place) {
    let store = place.unlocked().await;
    store.ingest("spiffe://x/proxy/p1", &batch(150)).await.unwrap();
    let before = store.leaves(&acme(), 0..150).await.unwrap();
    // As a program that knew of no log has left them.
    run(&place.location, "DELETE FROM log_tiles; UPDATE logs SET size = 0, backlog = 1").await;
    store.add_job(JobKind::Log, "acme", now()).await.unwrap();
    let lease = SignedDuration::from_secs(30);
    let mut job = loop {
        let job = store.take_job("test", now(), lease).await.unwrap().unwrap();
        if job.kind == JobKind::Log {
            break job;
        }
    };
    assert_eq!(store.step(&mut job, now(), lease).await.unwrap(), Step::More);
    // What comes meanwhile waits behind them.
    store.ingest("spiffe://x/proxy/p1", &batch(10)).await.unwrap();
    assert_eq!(store.log_size(&acme()).await.unwrap(), 64);
    while store.step(&mut job, now(), lease).await.unwrap() == Step::More {}
    holds(&store, 160).await;
    let after = store.leaves(&acme(), 0..150).await.unwrap();
    let entry = |leaf: &ztka_audit::log::Leaf| leaf.content.as_ref().unwrap().entry.clone();
    assert!(after.iter().map(entry).eq(before.iter().map(entry)), "in their order");
    store.ingest("spiffe://x/proxy/p1", &batch(2)).await.unwrap();
    holds(&store, 162).await;
}

async fn what_is_gone_leaves_its_hash(place: &Place) {
    let store = place.unlocked().await;
    store.ingest("spiffe://x/proxy/p1", &batch(40)).await.unwrap();
    let root = holds(&store, 40).await;
    run(&place.location, "DELETE FROM events WHERE number IN (5, 6, 40)").await;
    let leaves = store.leaves(&acme(), 0..40).await.unwrap();
    let gone: Vec<_> = leaves.iter().filter(|leaf| leaf.content.is_none()).map(|leaf| leaf.index).collect();
    assert_eq!(gone, [4, 5, 39]);
    let ids: Vec<_> = edge(40).into_iter().map(|(id, _)| id).collect();
    assert_eq!(store.tiles(&acme(), &ids).await.unwrap().root(40), Some(root));
    let kept = leaves[3].content.as_ref().unwrap();
    assert!(kept.entry.starts_with("{\"source\":\"spiffe://x/proxy/p1\",\"event\":{"), "{}", kept.entry);
}
