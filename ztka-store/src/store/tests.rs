//! What cannot be done to a database from outside: an SQLite file that takes no more, or nothing; a server that is given
//! less time to answer than usual.

use ztka_authz::Role;
use ztka_controller::store::{ChangeStore as _, ResourceStore as _};
use ztka_core::OrgId;
use ztka_identity::{IdentityStore as _, Org, OutageKind, StoreError};

use super::*;

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

async fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(Store::sqlite(&directory.path().join("ztka.db")).await.unwrap()).await;
    (directory, store)
}

async fn filled(store: Store) -> Store {
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    let org = Org { id: acme(), name: "acme".parse().unwrap(), created, longest_credential: None };
    store.create_org(&org).await.unwrap();
    store
}

async fn create(store: &Store, name: &str) -> Result<(), StoreError> {
    let large = "x".repeat(2000);
    store.create_role(&acme(), &name.parse().unwrap(), &Role { name: large, rules: Vec::new(), read_only: false }).await
}

async fn tell(store: &Store, pragma: String) {
    let mut write = store.write().await.unwrap();
    write.raw(pragma).await.unwrap();
    write.commit().await.unwrap();
}

/// Whatever was refused, what is there is whole: a version for each role, and nothing beside.
async fn is_whole(store: &Store, roles: usize) {
    assert_eq!(store.roles(&acme()).await.unwrap().len(), roles);
    let listing = store.list(Some(&acme())).await.unwrap();
    assert_eq!(usize::try_from(listing.revision.version).unwrap(), roles + 1);
    assert_eq!(listing.resources.len(), roles + 1);
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_written_by_half() {
    let (_directory, store) = store().await;
    let pages = store.readers().fetch_one(sql("PRAGMA page_count")).await.unwrap().number("page_count").unwrap();
    tell(&store, format!("PRAGMA max_page_count = {}", pages + 20)).await;
    let mut made = 0;
    let full = loop {
        match create(&store, &format!("role-{made}")).await {
            Ok(()) => made += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full.outage(), Some(OutageKind::Full), "{full:?}");
    assert!(made > 3, "{made}");
    is_whole(&store, made).await;
    // SQLite has undone it by itself, of which the next writer notices nothing; the limit was that connection's.
    tell(&store, "PRAGMA max_page_count = 1".into()).await;
    assert_eq!(create(&store, "another").await.unwrap_err().outage(), Some(OutageKind::Full));
    is_whole(&store, made).await;
    create(&store, "with-more-space").await.unwrap();
    is_whole(&store, made + 1).await;
}

#[tokio::test]
async fn a_file_that_may_only_be_read_is_read() {
    let (_directory, store) = store().await;
    create(&store, "one").await.unwrap();
    let mut write = store.write().await.unwrap();
    write.raw("PRAGMA query_only = on").await.unwrap();
    write.commit().await.unwrap();
    let refused = create(&store, "two").await.unwrap_err();
    assert_eq!(refused.outage(), Some(OutageKind::ReadOnly), "{refused:?}");
    is_whole(&store, 1).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_keeps_nobody_waiting_for_ever() {
    let Some(server) = ztka_test_postgres::Server::start_or_skip().unwrap() else { return };
    let location = Location::Postgres(server.database().unwrap());
    let patience = Patience { connection: Duration::from_millis(500), ..Patience::default() };
    let store = filled(Store::open_with(&location, patience).await.unwrap()).await;
    create(&store, "one").await.unwrap();
    let mut begun = store.write().await.unwrap();
    let frozen = server.freeze().unwrap();
    let cut = begun.execute(sql("UPDATE versions SET version = version")).await.unwrap_err();
    assert_eq!(OutageKind::of(&cut), Some(OutageKind::Cut), "{cut:?}");
    for _ in 0..3 {
        let silent = store.roles(&acme()).await.unwrap_err();
        assert!(silent.outage().is_some(), "{silent:?}");
    }
    server.thaw(&frozen).unwrap();
    drop(begun);
    let started = std::time::Instant::now();
    while let Err(error) = create(&store, "two").await {
        assert!(error.outage().is_some() && started.elapsed() < Duration::from_secs(60), "{error:?}");
    }
    is_whole(&store, 2).await;
}
