//! An organisation is deleted by processes that are killed: everything of it goes, once, and nothing of anybody else.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kit::Place;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection as _};
use ztka_authz::Role;
use ztka_controller::store::{Cluster, JobKind, JobStore as _, ResourceStore as _, RevocationStore as _, Step};
use ztka_core::OrgId;
use ztka_identity::{Credential, IdentityStore as _, LoginSession, Org, StoreError, User};
use ztka_store::{Location, MasterKey, Masters, Store};

kit::on_both!(everything_goes_whoever_is_killed, it_is_gone_at_once_and_its_name_is_free);

const DOOMED: &str = "doomed-org";
const OTHER: &str = "other-org";
const DATABASE: &str = "ZTKA_TEST_DELETION_DATABASE";
/// A worker that is killed keeps its job from the others for so long.
const LEASE: SignedDuration = SignedDuration::from_millis(150);

fn now() -> Timestamp {
    Timestamp::now()
}

fn id(text: &str) -> OrgId {
    text.parse().unwrap()
}

async fn fill(store: &Store, org: &str, users: usize) {
    let of = id(org);
    let made = Org { id: of.clone(), name: org.parse().unwrap(), created: now(), longest_credential: None };
    store.create_org(&made).await.unwrap();
    let group = "dev".parse().unwrap();
    store.create_group(&of, &group).await.unwrap();
    for number in 0..users {
        let name = format!("{org}-u{number}");
        let user = User {
            id: name.parse().unwrap(),
            org: of.clone(),
            name: name.parse().unwrap(),
            admin: None,
            attributes: Default::default(),
            disabled: None,
            created: now(),
        };
        store.create_user(&user).await.unwrap();
        store.add_member(&of, &group, &user.id).await.unwrap();
        let credential = Credential {
            id: format!("{org}-k{number}").parse().unwrap(),
            org: of.clone(),
            user: user.id.clone(),
            created: now(),
            not_after: now().checked_add(SignedDuration::from_hours(9)).unwrap(),
            renewed: None,
            last_used: None,
            revoked: None,
        };
        let session = LoginSession { credential: credential.id.clone(), active_until: credential.not_after };
        store.create_credential(&credential, &session).await.unwrap();
        let role = Role { name: format!("r{number}"), rules: Vec::new(), ..Role::default() };
        store.create_role(&of, &role.name.parse().unwrap(), &role).await.unwrap();
    }
    let cluster = Cluster {
        id: format!("{org}-c").parse().unwrap(),
        org: of.clone(),
        name: "c".parse().unwrap(),
        labels: Default::default(),
        created: now(),
    };
    store.create_cluster(&cluster).await.unwrap();
}

/// Does jobs until it is killed.
#[tokio::test]
#[ignore = "runs as a process of the tests below"]
async fn worker() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let location: Location = database.parse().unwrap();
    let masters = || Masters::of(MasterKey::new(&[1; 32]).unwrap());
    let store = Store::open(&location).await.unwrap().unlock(masters()).await.unwrap();
    loop {
        match store.take_job("worker", now(), LEASE).await {
            Ok(Some(mut job)) => while matches!(store.step(&mut job, now(), LEASE).await, Ok(Step::More)) {},
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn start(location: &Location) -> Child {
    let database = match location {
        Location::Sqlite(path) => format!("sqlite://{}", path.display()),
        Location::Postgres(url) => url.clone(),
    };
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["worker", "--exact", "--ignored", "--nocapture"]).env(DATABASE, database);
    again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How many rows of each table have this text anywhere in them.
async fn rows_with(place: &Place, text: &str) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
            for table in sqlx::query_scalar::<_, String>(tables).fetch_all(&mut connection).await.unwrap() {
                let columns = format!("SELECT name FROM pragma_table_info('{table}')");
                let columns = sqlx::query_scalar::<_, String>(AssertSqlSafe(columns));
                let columns = columns.fetch_all(&mut connection).await.unwrap();
                let any: Vec<_> = columns.iter().map(|column| format!("coalesce(\"{column}\", '')")).collect();
                let count =
                    format!("SELECT count(*) FROM \"{table}\" WHERE {} LIKE '%{text}%'", any.join(" || '|' || "));
                let count = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut connection).await.unwrap();
                found.insert(table, count);
            }
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
            for table in sqlx::query_scalar::<_, String>(tables).fetch_all(&mut connection).await.unwrap() {
                let count = format!("SELECT count(*) FROM \"{table}\" t WHERE t::text LIKE '%{text}%'");
                let count = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut connection).await.unwrap();
                found.insert(table, count);
            }
        }
    }
    found.retain(|_, count| *count > 0);
    found
}

async fn everything_goes_whoever_is_killed(place: &Place) {
    let seed = rand::random::<u32>().into();
    let mut random = StdRng::seed_from_u64(seed);
    let store = place.unlocked().await;
    fill(&store, OTHER, 3).await;
    fill(&store, DOOMED, 60).await;
    // Jobs of the migration are none of this.
    while let Some(mut job) = store.take_job("test", now(), LEASE).await.unwrap() {
        while store.step(&mut job, now(), LEASE).await.unwrap() == Step::More {}
    }
    let mut before = rows_with(place, DOOMED).await;
    let others = rows_with(place, OTHER).await;
    store.delete_org(&id(DOOMED), now()).await.unwrap();

    let mut kills = 0;
    let finished = loop {
        let deletion = store.deletions().await.unwrap().into_iter().next().unwrap();
        if deletion.finished.is_some() {
            break deletion;
        }
        assert!(kills < 200, "{deletion:?} (seed {seed})");
        let mut workers = [start(&place.location), start(&place.location)];
        for worker in &mut workers {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..120 + 20 * kills))).await;
            worker.kill().unwrap();
            worker.wait().unwrap();
            kills += 1;
        }
    };
    let after = rows_with(place, DOOMED).await;
    let stays: Vec<_> = after.keys().map(String::as_str).collect();
    assert_eq!(stays, ["changes", "deleted_orgs", "revocations"], "only its id, and that it is gone (seed {seed})");
    assert_eq!(after.get("changes"), Some(&2), "made and deleted, in the installation's feed");
    let others_after = rows_with(place, OTHER).await;
    assert_eq!(others_after, others, "nothing of anybody else (seed {seed})");

    // Each row was counted as removed once, whoever was killed in between.
    for of_installation in ["orgs", "versions", "meta"] {
        before.remove(of_installation);
    }
    let removed: i64 = before.values().sum::<i64>() - 1;
    assert_eq!(i64::try_from(finished.removed).unwrap(), removed, "{before:?} (seed {seed}, {kills} killed)");
    assert!(store.jobs().await.unwrap().iter().all(|job| job.kind == JobKind::Purge));
}

async fn it_is_gone_at_once_and_its_name_is_free(place: &Place) {
    let store = place.unlocked().await;
    fill(&store, DOOMED, 1).await;
    let refused = store.delete_org(&OrgId::installation(), now()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_)) | Err(StoreError::NotFound { .. })), "{refused:?}");
    let doomed = id(DOOMED);
    store.delete_org(&doomed, now()).await.unwrap();
    assert_eq!(store.org(&doomed).await.unwrap(), None);
    assert!(store.orgs().await.unwrap().iter().all(|org| org.id != doomed));
    assert!(matches!(store.delete_org(&doomed, now()).await, Err(StoreError::NotFound { .. })));
    let role = Role { name: "late".into(), rules: Vec::new(), ..Role::default() };
    let late = store.create_role(&doomed, &"late".parse().unwrap(), &role).await;
    assert!(matches!(late, Err(StoreError::NotFound { .. })), "{late:?}");
    assert!(matches!(store.restore_org(&doomed).await, Err(StoreError::NotFound { .. })), "it stays cut off");
    let revoked = store.revocations(None, now()).await.unwrap();
    assert!(revoked.iter().any(|revocation| revocation.what.name() == DOOMED));
    let again = Org { id: OrgId::generate(), name: DOOMED.parse().unwrap(), created: now(), longest_credential: None };
    store.create_org(&again).await.unwrap();
}
