//! What is counted as a policy changes is what it takes, on both databases.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use ztka_authz::{Binding, Role};
use ztka_controller::store::{Cluster, ResourceStore as _};
use ztka_identity::{IdentityStore as _, Org};
use ztka_test_postgres::Server;

use super::*;
use crate::{Location, MasterKey, Masters, Store};

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

/// The count that is kept; none if nobody has counted since.
async fn kept(store: &Store) -> Option<i64> {
    let row = store.readers().fetch_optional(sql("SELECT value FROM meta WHERE key = $1").bind(key("acme"))).await;
    row.unwrap().map(|row| row.number("value").unwrap())
}

/// What there is at least, and at most: texts of clusters in characters and 32 for each, or in bytes and 64.
async fn counted(store: &Store) -> std::ops::RangeInclusive<i64> {
    let json = |value: &dyn Fn() -> String| i64::try_from(value().len()).unwrap();
    let mut size = 0;
    for role in store.roles(&acme()).await.unwrap() {
        size += json(&|| to_json(&role).unwrap());
    }
    for binding in store.bindings(&acme()).await.unwrap() {
        size += json(&|| to_json(&binding).unwrap());
    }
    let clusters = store.clusters(&acme()).await.unwrap();
    let (mut least, mut most) = (size, size);
    for cluster in &clusters {
        let text = format!("{}{}{}", cluster.id, cluster.name, to_json(&cluster.labels).unwrap());
        least += 32 + i64::try_from(text.chars().count()).unwrap();
        most += 64 + i64::try_from(text.len()).unwrap();
    }
    least..=most
}

async fn is_right(store: &Store, what: &str) {
    let Some(kept) = kept(store).await else { return };
    let room = counted(store).await;
    assert!(room.contains(&kept), "{kept} is not in {room:?} after {what}");
}

async fn any_changes(location: &Location) {
    let masters = Masters::of(MasterKey::new(&[1; 32]).unwrap());
    let store = Store::open(location).await.unwrap().unlock(masters).await.unwrap();
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    let org = Org { id: acme(), name: "acme".parse().unwrap(), created, longest_credential: None };
    store.create_org(&org).await.unwrap();
    assert_eq!(kept(&store).await, None);
    let seed: u64 = rand::random::<u32>().into();
    let (mut random, mut counts) = (StdRng::seed_from_u64(seed), 0);
    for step in 0..150 {
        let name = format!("n{}", random.random_range(0..12));
        // In letters of two bytes.
        let text = "ä".repeat(random.random_range(1..200));
        let what = random.random_range(0..5);
        let _ = match what {
            0 => {
                let role = Role { name: format!("{name}{text}"), ..Role::default() };
                store.create_role(&acme(), &name.parse().unwrap(), &role).await
            }
            1 => store.delete_role(&acme(), &name.parse().unwrap()).await,
            2 => {
                let binding = Binding { name: name.clone(), role: text, ..Binding::default() };
                store.create_binding(&acme(), &name.parse().unwrap(), &binding, None).await
            }
            3 => store.delete_binding(&acme(), &name.parse().unwrap()).await,
            _ => {
                let labels = [("stage".to_owned(), text)].into();
                let id = format!("c{step}").parse().unwrap();
                let cluster = Cluster { id, org: acme(), name: name.parse().unwrap(), labels, created };
                match store.create_cluster(&cluster).await {
                    Ok(()) => Ok(()),
                    Err(_) => {
                        let all = store.clusters(&acme()).await.unwrap();
                        let first = all.first().unwrap().id.clone();
                        store.delete_cluster(&acme(), &first, created).await
                    }
                }
            }
        };
        is_right(&store, &format!("{what} (step {step}, seed {seed})")).await;
        counts += i32::from(kept(&store).await.is_some());
    }
    assert!(counts > 75, "{counts} of 150: it is mostly known (seed {seed})");
}

#[tokio::test]
async fn sqlite_counts_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    any_changes(&Location::Sqlite(directory.path().join("ztka.db"))).await;
}

#[tokio::test]
async fn postgres_counts_what_there_is() {
    let Some(server) = Server::shared_or_skip().unwrap() else { return };
    any_changes(&Location::Postgres(server.database().unwrap())).await;
}
