//! Opening, closing and refusing databases.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::path::Path;

use kit::Place;
use ztka_core::OrgId;
use ztka_identity::{IdentityStore as _, Org};
use ztka_store::{Location, OpenError, SCHEMA_VERSION, Store};
use ztka_test_postgres::Server;

kit::on_both!(
    what_was_written_is_there_again,
    a_newer_schema_is_refused_with_words_and_left_alone,
    many_start_at_once,
    writers_of_two_processes_wait_for_each_other,
);

fn org(name: &str) -> Org {
    Org {
        id: OrgId::generate(),
        name: name.parse().unwrap(),
        created: "2026-01-01T00:00:00Z".parse().unwrap(),
        longest_credential: None,
    }
}

/// Carries a statement out behind the store's back.
async fn behind(place: &Place, on_sqlite: String, on_postgres: String) {
    use sqlx::Connection as _;
    match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(on_sqlite)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(on_postgres)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

async fn what_was_written_is_there_again(place: &Place) {
    let acme = org("acme");
    let store = place.open().await;
    store.create_org(&acme).await.unwrap();
    store.close().await;
    assert_eq!(place.open().await.orgs().await.unwrap(), [acme]);
}

async fn a_newer_schema_is_refused_with_words_and_left_alone(place: &Place) {
    let set = async |version: i64| {
        let sqlite = format!("PRAGMA user_version = {version}");
        behind(place, sqlite, format!("UPDATE schema_version SET version = {version}")).await;
    };
    place.open().await.close().await;
    set(SCHEMA_VERSION + 1).await;
    let refused = Store::open(&place.location).await.unwrap_err();
    assert!(matches!(refused, OpenError::Schema { .. }));
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("run the newer program"), "{source}");
    set(SCHEMA_VERSION).await;
    place.open().await;
}

async fn many_start_at_once(place: &Place) {
    let starts = (0..6).map(|_| {
        let location = place.location.clone();
        tokio::spawn(async move { Store::open(&location).await })
    });
    let mut stores = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        stores.push(start.await.unwrap().unwrap());
    }
    for (number, store) in stores.iter().enumerate() {
        store.create_org(&org(&format!("org-{number}"))).await.unwrap();
    }
    assert_eq!(stores.first().unwrap().orgs().await.unwrap().len(), 6);
}

async fn writers_of_two_processes_wait_for_each_other(place: &Place) {
    let (one, two) = (place.open().await, place.open().await);
    let writes = (0..40).map(|number| {
        let store = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { store.create_org(&org(&format!("org-{number}"))).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(one.orgs().await.unwrap().len(), 40);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&directory.path().join("ztka.db")).await.unwrap();
    store.create_org(&org("acme")).await.unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztka.db");
    std::fs::write(&path, "this is a letter, not a database; it has several words").unwrap();
    assert!(Store::sqlite(&path).await.is_err());
    assert!(Store::sqlite(&directory.path().join("none").join("ztka.db")).await.is_err());
}

fn text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", text(source)))
}

#[tokio::test]
async fn a_server_that_would_forget_is_refused() {
    let Some(server) = Server::shared_or_skip().unwrap() else { return };
    let url = server.database().unwrap();
    let name = url.split(['/', '?']).nth(3).unwrap();
    server.sql("postgres", &format!("ALTER DATABASE {name} SET synchronous_commit = off")).unwrap();
    let refused = Store::open(&Location::Postgres(url.clone())).await.unwrap_err();
    assert!(text(&refused).contains("synchronous_commit = off"), "{}", text(&refused));
    let nowhere = url.replace("ztka-pg-", "none-");
    let refused = Store::open(&Location::Postgres(nowhere)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Open { .. }), "{refused:?}");
    assert!(!Path::new("ztka.db").exists());
}
