//! Databases that fail: what is said, that nothing is written by half, and that it goes on when they are back.
//!
//! A full SQLite file and one that may only be read are in `src/store/tests.rs`.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    time::{Duration, Instant},
};

use kit::Place;
use sqlx::Connection as _;
use ztka_authz::Role;
use ztka_controller::store::{ChangeStore as _, ResourceStore as _};
use ztka_core::OrgId;
use ztka_identity::{IdentityStore as _, Org, OutageKind, StoreError};
use ztka_store::{Location, Patience, Store};
use ztka_test_postgres::Server;

kit::on_both!(a_lock_that_does_not_come_is_said_and_nothing_is_written);

const PATIENCE: Patience =
    Patience { lock: Duration::from_millis(200), connection: Duration::from_millis(500), connections: 2 };
/// Longer than any of ours takes to give up, and to come back.
const BOUND: Duration = Duration::from_secs(60);

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

async fn open(location: &Location) -> Store {
    let store = Store::open_with(location, PATIENCE).await.unwrap();
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    for name in ["acme", "other"] {
        let id = name.parse().unwrap();
        let org = Org { id, name: name.parse().unwrap(), created, longest_credential: None };
        match store.create_org(&org).await {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => unreachable!("{error}"),
        }
    }
    store
}

async fn create_in(store: &Store, org: &str, name: &str) -> Result<(), StoreError> {
    let role = Role { name: name.into(), rules: Vec::new(), read_only: false };
    store.create_role(&org.parse().unwrap(), &name.parse().unwrap(), &role).await
}

async fn create(store: &Store, name: &str) -> Result<(), StoreError> {
    create_in(store, "acme", name).await
}

/// A version for the organisation and for each of its roles, and nothing beside.
async fn is_whole(store: &Store, roles: usize) {
    let listing = store.list(Some(&acme())).await.unwrap();
    assert_eq!(store.roles(&acme()).await.unwrap().len(), roles);
    assert_eq!(usize::try_from(listing.revision.version).unwrap(), roles + 1);
    assert_eq!(listing.resources.len(), roles + 1);
}

/// Tries again until it succeeds.
async fn comes_back(store: &Store, name: &str) {
    let begun = Instant::now();
    while let Err(error) = create(store, name).await {
        assert!(error.outage().is_some(), "{error:?}");
        assert!(begun.elapsed() < BOUND, "{error:?}");
    }
}

async fn a_lock_that_does_not_come_is_said_and_nothing_is_written(place: &Place) {
    let store = open(&place.location).await;
    create(&store, "one").await.unwrap();
    let held = match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            (Some(connection), None)
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            let lock = "BEGIN; SELECT * FROM versions WHERE org = 'acme' FOR UPDATE";
            sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
            (None, Some(connection))
        }
    };
    let begun = Instant::now();
    let refused = create(&store, "two").await.unwrap_err();
    assert_eq!(refused.outage(), Some(OutageKind::Busy), "{refused:?}");
    assert!(begun.elapsed() < BOUND);
    // Readers do not wait for writers.
    is_whole(&store, 1).await;
    drop(held);
    comes_back(&store, "two").await;
    is_whole(&store, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_said_soon_and_found_again() {
    let Some(server) = Server::start_or_skip().unwrap() else { return };
    let store = open(&Location::Postgres(server.database().unwrap())).await;
    create(&store, "one").await.unwrap();
    server.stop().unwrap();
    // What was open is cut, what is opened anew is not there.
    let cut = create(&store, "two").await.unwrap_err();
    assert!(matches!(cut.outage(), Some(OutageKind::Cut | OutageKind::Unreachable)), "{cut:?}");
    let begun = Instant::now();
    let away = loop {
        match create(&store, "two").await.unwrap_err() {
            error if error.outage() == Some(OutageKind::Unreachable) => break error,
            error => assert!(begun.elapsed() < BOUND, "{error:?}"),
        }
    };
    let source = std::error::Error::source(&away).unwrap();
    assert!(source.source().unwrap().to_string().contains("see that it runs"), "{source:?}");
    server.again().unwrap();
    comes_back(&store, "two").await;
    is_whole(&store, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_with_everything_that_was_confirmed() {
    let Some(primary) = Server::start_or_skip().unwrap() else { return };
    let url = primary.database().unwrap();
    let standby = primary.standby().unwrap();
    // The name by which the database is known, wherever it is.
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("current");
    std::os::unix::fs::symlink(primary.folder(), &name).unwrap();
    let location = Location::Postgres(url.replace(primary.folder().to_str().unwrap(), name.to_str().unwrap()));
    let store = open(&location).await;
    for number in 0..20 {
        create(&store, &format!("role-{number}")).await.unwrap();
    }
    // A standby is no place to write to.
    let read_only =
        Location::Postgres(url.replace(primary.folder().to_str().unwrap(), standby.folder().to_str().unwrap()));
    let refused = match Store::open_with(&read_only, PATIENCE).await {
        Ok(other) => create(&other, "nowhere").await.unwrap_err().outage(),
        Err(error) => OutageKind::of(&error),
    };
    assert_eq!(refused, Some(OutageKind::ReadOnly));

    primary.stop().unwrap();
    standby.promote().unwrap();
    fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink(standby.folder(), &name).unwrap();
    comes_back(&store, "afterwards").await;
    is_whole(&store, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_in_use_that_is_said() {
    let Some(place) = Place::postgres() else { return };
    let Location::Postgres(url) = &place.location else { unreachable!() };
    open(&place.location).await.close().await;
    let patience = Patience { lock: Duration::from_secs(20), ..PATIENCE };
    let store = Store::open_with(&place.location, patience).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let lock = "BEGIN; SELECT * FROM versions WHERE org = 'acme' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    let wait = |name: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { create(&store, name).await })
    };
    let waiting = [wait("one"), wait("two")];
    // Each connection that writes waits for a lock, of which others know nothing.
    let begun = Instant::now();
    let refused = loop {
        match create_in(&store, "other", &format!("role-{}", begun.elapsed().as_nanos())).await {
            Ok(()) => assert!(begun.elapsed() < BOUND, "the lock was not waited for"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.outage(), Some(OutageKind::Exhausted), "{refused:?}");
    is_whole(&store, 0).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    is_whole(&store, 2).await;
}

#[tokio::test]
async fn a_server_whose_disk_is_full_or_that_is_read_only_is_said() {
    let Some(place) = Place::postgres() else { return };
    let Location::Postgres(url) = &place.location else { unreachable!() };
    let store = open(&place.location).await;
    create(&store, "one").await.unwrap();
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    // In the middle of a change, with the words and the code that the server has for it.
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$; \
                CREATE TRIGGER full_disk BEFORE INSERT ON roles FOR EACH ROW EXECUTE FUNCTION full_disk()";
    sqlx::raw_sql(full).execute(&mut connection).await.unwrap();
    let refused = create(&store, "two").await.unwrap_err();
    assert_eq!(refused.outage(), Some(OutageKind::Full), "{refused:?}");
    is_whole(&store, 1).await;
    sqlx::raw_sql("DROP TRIGGER full_disk ON roles").execute(&mut connection).await.unwrap();
    create(&store, "two").await.unwrap();

    let name = url.split(['/', '?']).nth(3).unwrap();
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    sqlx::raw_sql(sqlx::AssertSqlSafe(read_only)).execute(&mut connection).await.unwrap();
    let reopened = Store::open_with(&place.location, PATIENCE).await.unwrap();
    let refused = create(&reopened, "three").await.unwrap_err();
    assert_eq!(refused.outage(), Some(OutageKind::ReadOnly), "{refused:?}");
    is_whole(&store, 2).await;
}

#[tokio::test]
async fn a_damaged_page_of_a_file_is_said() {
    let place = Place::sqlite().unwrap();
    let Location::Sqlite(path) = &place.location else { unreachable!() };
    let store = open(&place.location).await;
    for number in 0..200 {
        create(&store, &format!("role-{number}")).await.unwrap();
    }
    store.close().await;
    let size = fs::metadata(path).unwrap().len();
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    // Everything behind the first page, which says what there is.
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xa5; usize::try_from(size - 4096).unwrap()]).unwrap();
    drop(file);
    let said = match Store::open_with(&place.location, PATIENCE).await {
        Ok(store) => store.roles(&acme()).await.unwrap_err().outage(),
        Err(error) => OutageKind::of(&error),
    };
    assert_eq!(said, Some(OutageKind::Damaged));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_a_server_is_said_and_the_rest_goes_on() {
    let Some(server) = Server::start_or_skip().unwrap() else { return };
    let url = server.database().unwrap();
    let store = open(&Location::Postgres(url)).await;
    create(&store, "one").await.unwrap();
    let relation = server.sql("test_0", "CHECKPOINT; SELECT pg_relation_filepath('roles')").unwrap();
    server.stop().unwrap();
    let path = server.folder().join("data").join(relation.lines().last().unwrap());
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&[0xa5; 8192]).unwrap();
    drop(file);
    server.again().unwrap();
    let begun = Instant::now();
    let said = loop {
        let error = store.roles(&acme()).await.unwrap_err();
        match error.outage() {
            Some(OutageKind::Cut | OutageKind::Unreachable) if begun.elapsed() < BOUND => {}
            said => break said,
        }
    };
    assert_eq!(said, Some(OutageKind::Damaged));
    assert!(store.orgs().await.is_ok(), "what is whole is read");
    assert_eq!(create(&store, "two").await.unwrap_err().outage(), Some(OutageKind::Damaged));
    assert_eq!(store.list(None).await.unwrap().revision.epoch, 1);
}
