//! Every earlier schema, with data in it, becomes the current one, and says the same afterwards.

use jiff::Timestamp;
use ztka_audit::{EventQuery, EventStore as _};
use ztka_controller::store::{ChangeStore as _, DocumentStore as _, ResourceStore as _};
use ztka_core::{CredentialId, DocumentKind, OrgId, Revision, SeriesKey, UserId};
use ztka_identity::IdentityStore as _;
use ztka_test_postgres::Server;

use super::*;
use crate::{Location, Patience, Store};

/// The state of each schema, as its own program has written it; from version 2 on the same for both databases.
const STATES: &[(i64, &str)] = &[
    (1, include_str!("../../tests/data/schema-1.sql")),
    (2, include_str!("../../tests/data/schema-2.sql")),
    (3, include_str!("../../tests/data/schema-3.sql")),
    (4, include_str!("../../tests/data/schema-4.sql")),
    (5, include_str!("../../tests/data/schema-5.sql")),
    (6, include_str!("../../tests/data/schema-6.sql")),
    (7, include_str!("../../tests/data/schema-7.sql")),
    (8, include_str!("../../tests/data/schema-8.sql")),
    (9, include_str!("../../tests/data/schema-9.sql")),
    (10, include_str!("../../tests/data/schema-10.sql")),
    (11, include_str!("../../tests/data/schema-11.sql")),
    (12, include_str!("../../tests/data/schema-12.sql")),
    (13, include_str!("../../tests/data/schema-13.sql")),
];

/// The largest versions in the data: of the organisation, of the installation.
const NEWEST: u64 = 41;
const NEWEST_TRUST: u64 = 40;

async fn at_version(location: &Location, version: i64, state: &'static str) {
    let pool = match location {
        Location::Sqlite(path) => {
            crate::sqlite::Opening::of(path, Patience::default()).unwrap().writers().await.unwrap()
        }
        Location::Postgres(url) => {
            crate::postgres::Opening::of(url, Patience::default()).unwrap().writers().await.unwrap()
        }
    };
    run(&pool, version).await.unwrap();
    let mut tx = pool.write().await.unwrap();
    assert_eq!(super::version(&mut tx).await.unwrap(), version.unsigned_abs());
    // The one thing that the two write differently.
    let bytes = if matches!(tx, Tx::Sqlite(_)) { "x'77697265'" } else { "'\\x77697265'::bytea" };
    tx.raw(state.replace("$BYTES", bytes)).await.unwrap();
    tx.commit().await.unwrap();
    pool.close().await;
}

/// What the data say, whatever schema they were written in.
async fn says_the_same(store: &Store) {
    let (acme, alice): (OrgId, UserId) = ("acme".parse().unwrap(), "u1".parse().unwrap());
    assert_eq!(store.orgs().await.unwrap().len(), 2);
    let users = store.users(&acme).await.unwrap();
    assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    assert_eq!(store.groups_of(&alice).await.unwrap(), ["dev".parse().unwrap()]);
    let credential: CredentialId = "k1".parse().unwrap();
    let (kept, session) = store.credential(&credential).await.unwrap().unwrap();
    assert_eq!((kept.user, session.active_until), (alice.clone(), Timestamp::from_second(1_800_000_000).unwrap()));
    assert_eq!(store.clusters(&acme).await.unwrap().len(), 1);
    assert_eq!(store.roles(&acme).await.unwrap().len(), 1);
    assert_eq!(store.bindings(&acme).await.unwrap().len(), 1);
    let of_alice = EventQuery { user: Some("alice".parse().unwrap()), ..EventQuery::default() };
    assert_eq!(store.query(&of_alice).await.unwrap().len(), 1);

    // The next version of a document is one that nobody has seen.
    let policy = SeriesKey { kind: DocumentKind::Policy, org: Some(acme.clone()), subject: String::new() };
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    assert_eq!(store.snapshot(&policy, now).await.unwrap().unwrap().revision.version, NEWEST);
    // The projection to the cluster is at the same version, and is to be signed if no program has done so.
    let projection = SeriesKey::projection(acme.clone(), &"c1".parse().unwrap());
    assert_eq!(store.revision(&projection, now).await.unwrap().unwrap().version, NEWEST);
    assert_eq!(store.projections(&acme, Timestamp::UNIX_EPOCH).await.unwrap(), ["c1".parse().unwrap()]);
    store.delete_binding(&acme, &"all".parse().unwrap()).await.unwrap();
    assert!(store.snapshot(&policy, now).await.unwrap().unwrap().revision.version > NEWEST);
    let before = store.feed_head().await.unwrap();
    assert_eq!(before, 3);
    store.touch_trust().await.unwrap();
    let trust = SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() };
    assert!(store.snapshot(&trust, now).await.unwrap().unwrap().revision.version > NEWEST_TRUST);

    // Who lists and watches goes on from there.
    let objects = sql("SELECT count(*) AS objects FROM policy_objects WHERE org = 'acme'");
    let objects = store.readers().fetch_one(objects).await.unwrap().number("objects").unwrap();
    let objects = usize::try_from(objects).unwrap();
    let listing = store.list(Some(&acme)).await.unwrap();
    assert_eq!((listing.revision.version, listing.resources.len()), (NEWEST + 1, 9 + objects));
    let after = Revision { version: NEWEST, ..listing.revision };
    assert_eq!(store.changes(Some(&acme), after, 10).await.unwrap().changes.len(), 1);

    // Nor is the number of an event used again.
    let newest = sql("SELECT value FROM meta WHERE key = 'events'");
    assert_eq!(store.readers().fetch_one(newest).await.unwrap().number("value").unwrap(), 7);
}

#[tokio::test]
async fn sqlite_from_every_earlier_version_with_data() {
    for (version, state) in STATES {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("ztka.db"));
        at_version(&location, *version, state).await;
        says_the_same(&Store::open(&location).await.unwrap()).await;
    }
}

#[tokio::test]
async fn postgres_from_every_earlier_version_with_data() {
    let Some(server) = Server::shared_or_skip().unwrap() else { return };
    for (version, state) in STATES.iter().filter(|(version, _)| *version >= 2) {
        let location = Location::Postgres(server.database().unwrap());
        at_version(&location, *version, state).await;
        says_the_same(&Store::open(&location).await.unwrap()).await;
    }
}

#[test]
fn every_version_has_a_state_to_start_from() {
    let versions: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
    assert_eq!(STATES.iter().map(|(version, _)| *version).collect::<Vec<_>>(), versions);
}

#[tokio::test]
async fn a_backup_of_every_earlier_version_is_restored_and_brought_up_to_date() {
    use crate::{BackupKey, Plan, back_up, restore};

    let key = BackupKey::Bytes(zeroize::Zeroizing::new([7; 32]));
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    for (version, state) in STATES {
        let directory = tempfile::tempdir().unwrap();
        let [old, new, file] = ["old.db", "new.db", "backup"].map(|name| directory.path().join(name));
        at_version(&old.as_path().into(), *version, state).await;
        let (contents, bytes) = back_up(&old.as_path().into(), &key, now, Vec::new()).await.unwrap();
        assert_eq!(contents.schema, *version);
        std::fs::write(&file, bytes).unwrap();
        let done = restore(&new.as_path().into(), &key, &file, Plan { force: false, now }).await.unwrap();
        let store = Store::sqlite(&new).await.unwrap();
        let acme: OrgId = "acme".parse().unwrap();
        assert_eq!(store.users(&acme).await.unwrap().len(), 2);
        assert_eq!(store.bindings(&acme).await.unwrap().len(), 1);
        let revision = store.list(Some(&acme)).await.unwrap().revision;
        assert_eq!(revision, Revision { epoch: done.epoch, version: NEWEST });
        store.close().await;
        // One of another schema is not filled, but said.
        let refused = restore(&new.as_path().into(), &key, &file, Plan { force: true, now }).await;
        let of_another = matches!(refused, Err(crate::BackupError::OtherSchema { .. }));
        assert_eq!(of_another, *version != SCHEMA_VERSION, "{refused:?}");
    }
}

#[test]
fn every_migration_of_a_server_says_which_locks_it_takes() {
    for migration in MIGRATIONS.iter().filter(|migration| !migration.postgres.is_empty()) {
        let head: String = migration.postgres.lines().take_while(|line| line.starts_with("--")).collect();
        assert!(head.contains("-- Locks: "), "{}: say at its top which locks it takes", migration.version);
        // What blocks everybody for long, or cannot be undone, has no place in a migration that runs while others serve.
        let text = migration.postgres.to_uppercase();
        for blocking in ["VACUUM FULL", "REINDEX", "ALTER COLUMN", "LOCK TABLE"] {
            let statement = |line: &str| !line.starts_with("--") && line.contains(blocking);
            assert!(!text.lines().any(statement), "{}: {blocking}", migration.version);
        }
    }
}
