//! Opening, closing and refusing databases.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use ztka_core::OrgId;
use ztka_identity::{IdentityStore, Org};
use ztka_store::{OpenError, SCHEMA_VERSION, SqliteStore};

fn org(name: &str) -> Org {
    Org { id: OrgId::generate(), name: name.parse().unwrap(), created: "2026-01-01T00:00:00Z".parse().unwrap() }
}

async fn set_version(path: &Path, version: i64) {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"));
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_was_written_is_there_again_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztka.db");
    let acme = org("acme");
    let store = SqliteStore::open(&path).await.unwrap();
    store.create_org(&acme).await.unwrap();
    store.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.orgs().await.unwrap(), [acme]);
    #[cfg(unix)]
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_words_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztka.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    set_version(&path, SCHEMA_VERSION + 1).await;
    let refused = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(refused, OpenError::Schema { .. }));
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("run the newer program"), "{source}");
    set_version(&path, SCHEMA_VERSION).await;
    SqliteStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztka.db");
    std::fs::write(&path, "this is a letter, not a database; it has several words").unwrap();
    assert!(SqliteStore::open(&path).await.is_err());
    assert!(SqliteStore::open(&directory.path().join("none").join("ztka.db")).await.is_err());
}

#[tokio::test]
async fn writers_of_two_processes_wait_for_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztka.db");
    let (one, two) = (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
    let writes = (0..40).map(|number| {
        let store = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { store.create_org(&org(&format!("org-{number}"))).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(one.orgs().await.unwrap().len(), 40);
}
