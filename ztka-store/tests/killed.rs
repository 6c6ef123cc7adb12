//! Background jobs are done by processes that are killed with SIGKILL at random places: each step happens once.
//! (Deletion of an organisation has a test of its own, `deletion.rs`.)
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kit::{Place, masters};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::Connection as _;
use ztka_authz::Role;
use ztka_controller::{
    conformance::replay,
    store::{
        Acknowledgement, ChangeStore as _, Cluster, Instance, JobKind, JobStore as _, MemberStore as _,
        ResourceStore as _, Step,
    },
};
use ztka_core::{InstanceId, OrgId, ProxyId, Revision, Subject};
use ztka_identity::{Credential, IdentityStore as _, LoginSession, Org, User};
use ztka_pki::{Enrollee, EnrolmentStore as _, EnrolmentToken};
use ztka_store::{Location, MasterKey, Masters, Store};

kit::on_both!(
    what_is_over_goes_once_and_what_is_not_stays,
    everything_is_sealed_under_the_new_data_key,
    every_data_key_is_under_the_new_master_key,
);

const DATABASE: &str = "ZTKA_TEST_KILLED_DATABASE";
/// A worker that is killed keeps its job from the others for so long.
const LEASE: SignedDuration = SignedDuration::from_millis(150);

fn now() -> Timestamp {
    Timestamp::now()
}

fn days_ago(days: i64) -> Timestamp {
    now().checked_sub(SignedDuration::from_hours(24 * days)).unwrap()
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

/// The new master key, and the one before.
fn both_masters() -> Masters {
    masters(2).and(MasterKey::new(&[1; 32]).unwrap())
}

/// Does jobs until it is killed.
#[tokio::test]
#[ignore = "runs as a process of the tests below"]
async fn worker() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let location: Location = database.parse().unwrap();
    let store = Store::open(&location).await.unwrap().unlock(both_masters()).await.unwrap();
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

/// Lets two processes at a time work and be killed until there is nothing to do any more.
async fn until_done(place: &Place, store: &Store) {
    let seed: u64 = rand::random::<u32>().into();
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    loop {
        let jobs = store.jobs().await.unwrap();
        if jobs.iter().all(|job| job.kind == JobKind::Purge && job.due > now()) {
            return;
        }
        assert!(kills < 200, "{jobs:?} (seed {seed})");
        let mut workers = [start(&place.location), start(&place.location)];
        for worker in &mut workers {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..120 + 20 * kills))).await;
            worker.kill().unwrap();
            worker.wait().unwrap();
            kills += 1;
        }
    }
}

async fn make_org(store: &Store, name: &str) -> OrgId {
    let id: OrgId = name.parse().unwrap();
    let org = Org { id: id.clone(), name: name.parse().unwrap(), created: now(), longest_credential: None };
    store.create_org(&org).await.unwrap();
    id
}

/// A number that a query says.
async fn count(place: &Place, query: &str) -> i64 {
    let query = sqlx::AssertSqlSafe(query.to_owned());
    match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
        }
    }
}

async fn what_is_over_goes_once_and_what_is_not_stays(place: &Place) {
    /// More than one step of each.
    const OVER: usize = 300;
    let store = place.open().await.unlock(both_masters()).await.unwrap();
    let org = make_org(&store, "acme").await;
    let name = "alice".parse().unwrap();
    let alice = User {
        id: "u1".parse().unwrap(),
        org: org.clone(),
        name,
        admin: None,
        attributes: Default::default(),
        disabled: None,
        created: now(),
    };
    store.create_user(&alice).await.unwrap();
    let (id, name) = ("c1".parse().unwrap(), "c1".parse().unwrap());
    let cluster = Cluster { id, org: org.clone(), name, labels: BTreeMap::new(), created: now() };
    store.create_cluster(&cluster).await.unwrap();
    let ends = |over: bool| if over { days_ago(40) } else { days_ago(-1) };
    for number in 0..OVER + 3 {
        let over = number < OVER;
        // A change each, which take longer: fewer of them.
        if number % 4 == 0 || !over {
            let id = format!("k{number}").parse().unwrap();
            let (user, created, not_after) = (alice.id.clone(), days_ago(50), ends(over));
            let (renewed, last_used, revoked) = (None, None, None);
            let credential = Credential { id, org: org.clone(), user, created, not_after, renewed, last_used, revoked };
            let session = LoginSession { credential: credential.id.clone(), active_until: not_after };
            store.create_credential(&credential, &session).await.unwrap();
        }
        let instance = Instance {
            id: InstanceId::generate(),
            org: org.clone(),
            cluster: cluster.id.clone(),
            not_after: ends(over),
            renewed: None,
        };
        store.record_instance(&instance).await.unwrap();
        let pin = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let enrollee = Enrollee::Agent { org: org.clone(), cluster: cluster.id.clone() };
        let made = if over { days_ago(50) } else { now() };
        let (_, record) = EnrolmentToken::generate(enrollee, pin, made, SignedDuration::from_hours(1)).unwrap();
        store.add_token(record).await.unwrap();
        let (trust, at) = (Revision { epoch: 1, version: 1 }, ends(over));
        let said = Acknowledgement { trust, authorities: Vec::new(), server_chain: None, at };
        store.acknowledge(&Subject::Proxy(ProxyId::generate()), &said).await.unwrap();
    }
    let before = store.list(Some(&org)).await.unwrap();
    let purge = async || store.jobs().await.unwrap().into_iter().find(|job| job.kind == JobKind::Purge).unwrap();
    assert_eq!(purge().await.done, 0);
    until_done(place, &store).await;

    for table in ["tokens", "instances", "acknowledgements", "credentials", "sessions"] {
        assert_eq!(count(place, &format!("SELECT count(*) FROM {table}")).await, 3, "{table}");
    }
    assert_eq!(purge().await.done, (3 * OVER + OVER / 4) as u64, "each row is counted as removed once");
    // Each credential went as a change of its own, of which none is missing and none is there twice.
    let (mut revision, mut resources) = (before.revision, BTreeMap::new());
    resources.extend(before.resources.into_iter().map(|listed| ((listed.kind, listed.name), listed.version)));
    let changes = store.changes(Some(&org), revision, 10_000).await.unwrap().changes;
    assert_eq!(changes.len(), OVER / 4);
    replay(&mut revision, &mut resources, &changes);
    let after = store.list(Some(&org)).await.unwrap();
    let there = after.resources.into_iter().map(|listed| ((listed.kind, listed.name), listed.version));
    assert_eq!((after.revision, there.collect::<BTreeMap<_, _>>()), (revision, resources));
}

async fn everything_is_sealed_under_the_new_data_key(place: &Place) {
    const ROLES: usize = 400;
    let store = place.open().await.unlock(both_masters()).await.unwrap();
    make_org(&store, "acme").await;
    for number in 0..ROLES {
        let role = Role { name: format!("r{number}"), rules: Vec::new(), ..Role::default() };
        store.create_role(&acme(), &role.name.parse().unwrap(), &role).await.unwrap();
    }
    store.rotate_data_key(Some(&acme()), now()).await.unwrap();
    until_done(place, &store).await;
    // Form and id of the key that each is sealed under.
    let keys = "SELECT count(DISTINCT substr(sealed, 1, 9)) FROM roles";
    assert_eq!(count(place, keys).await, 1);
    assert_eq!(store.data_keys(Some(&acme())).await.unwrap().len(), 2, "nobody writes under it any more, in a while");
    let fresh = place.open().await.unlock(both_masters()).await.unwrap();
    assert_eq!(fresh.roles(&acme()).await.unwrap().len(), ROLES);
}

async fn every_data_key_is_under_the_new_master_key(place: &Place) {
    const ORGS: usize = 60;
    let old = place.open().await.unlock(masters(1)).await.unwrap();
    for number in 0..ORGS {
        let org = make_org(&old, &format!("org-{number}")).await;
        let role = Role { name: "one".into(), rules: Vec::new(), ..Role::default() };
        old.create_role(&org, &"one".parse().unwrap(), &role).await.unwrap();
    }
    old.close().await;
    let store = place.open().await.unlock(both_masters()).await.unwrap();
    until_done(place, &store).await;
    let keys = store.master_keys().await.unwrap();
    let left: Vec<_> = keys.iter().filter(|key| !key.current).map(|key| key.data_keys).collect();
    assert_eq!(left, [0], "{keys:?}");
    let alone = place.open().await.unlock(masters(2)).await.unwrap();
    for org in alone.orgs().await.unwrap() {
        assert_eq!(alone.roles(&org.id).await.unwrap().len(), 1, "{}", org.name);
    }
}
