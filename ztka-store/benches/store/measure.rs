//! What is measured of one database.

use std::{
    fmt, fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::{PgPool, SqlitePool};
use tokio::sync::mpsc;
use ztka_authz::Binding;
use ztka_controller::store::{ChangeStore as _, Cluster, DocumentStore as _, ResourceStore as _};
use ztka_core::{DocumentKind, OrgId, SeriesKey, UserId};
use ztka_identity::{IdentityStore as _, Org, User};
use ztka_store::{Location, MasterKey, Masters, Store};

/// A line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) bare: String,
    pub(crate) bound: String,
}

/// How much there is, and how often each thing is done.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    clusters: usize,
    users: usize,
    bindings: usize,
    reads: usize,
    writes: usize,
    snapshots: usize,
}

impl Scale {
    /// This share in per cent of what is bounded.
    pub(crate) fn of(share: usize) -> Self {
        let part = |whole: usize| (whole * share / 100).max(3);
        Self {
            clusters: part(1000),
            users: part(5000),
            bindings: part(10_000),
            reads: part(5000),
            writes: part(400),
            snapshots: part(30),
        }
    }
}

/// Times that something has taken.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn p99(&self) -> Duration {
        self.at(0.99)
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {}, p99 {}", ms(self.at(0.5)), ms(self.p99()))
    }
}

/// What durability costs here, whoever asks for it.
pub(crate) fn disk(folder: &Path, times: usize) -> Times {
    let mut file = fs::File::create(folder.join("fsync")).unwrap();
    let times = (0..times).map(|_| {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        begun.elapsed()
    });
    Times(times.collect())
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

fn user_id(number: usize) -> UserId {
    format!("u{number}").parse().unwrap()
}

fn binding(number: usize) -> Binding {
    let text = format!(
        r#"{{"name":"b{number}","subjects":[{{"user":"user-{number}@example.com"}}],"role":"view",
            "clusters":{{"names":["cluster-{}"]}},"scope":{{"namespaces":["shop","payments"]}}}}"#,
        number % 1000
    );
    serde_json::from_str(&text).unwrap()
}

async fn create_binding(store: &Store, number: usize) {
    let name = format!("b{number}").parse().unwrap();
    store.create_binding(&acme(), &name, &binding(number), None).await.unwrap();
}

/// Everything that the organisation has, by the same calls as the controller's.
async fn fill(store: &Store, scale: Scale, now: Timestamp) {
    let org = Org { id: acme(), name: "acme".parse().unwrap(), created: now, longest_credential: None };
    store.create_org(&org).await.unwrap();
    for number in 0..scale.users {
        let name = format!("user-{number}@example.com").parse().unwrap();
        let user = User {
            id: user_id(number),
            org: acme(),
            name,
            admin: None,
            attributes: Default::default(),
            disabled: None,
            created: now,
        };
        store.create_user(&user).await.unwrap();
    }
    for number in 0..scale.clusters {
        let (id, name) = (format!("c{number}").parse().unwrap(), format!("cluster-{number}").parse().unwrap());
        let labels = [("stage", "prod"), ("region", "eu-1"), ("team", "payments")];
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        store.create_cluster(&Cluster { id, org: acme(), name, labels, created: now }).await.unwrap();
    }
    for number in 0..scale.bindings {
        create_binding(store, number).await;
    }
}

/// The same statements by sqlx alone.
enum Bare {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

macro_rules! both {
    ($self:ident, $pool:ident => $work:expr) => {
        match $self {
            Bare::Sqlite($pool) => $work,
            Bare::Postgres($pool) => $work,
        }
    };
}

impl Bare {
    async fn open(location: &Location) -> Self {
        match location {
            Location::Sqlite(path) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let options = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
                let options = options.synchronous(sqlx::sqlite::SqliteSynchronous::Full);
                Self::Sqlite(SqlitePool::connect_with(options).await.unwrap())
            }
            Location::Postgres(url) => Self::Postgres(PgPool::connect(url).await.unwrap()),
        }
    }

    async fn read(&self, id: &str) {
        let query = "SELECT * FROM users WHERE id = $1";
        both!(self, pool => { sqlx::query(query).bind(id).fetch_one(pool).await.unwrap(); });
    }

    /// A row that changes and one that is new, durable.
    async fn write(&self, name: &str) {
        let insert = "INSERT INTO user_groups (org, name) VALUES ('acme', $1)";
        both!(self, pool => {
            let mut tx = pool.begin().await.unwrap();
            sqlx::query("UPDATE versions SET version = version WHERE org = 'acme'").execute(&mut *tx).await.unwrap();
            sqlx::query(insert).bind(name).execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
        });
    }

    async fn policy(&self) -> usize {
        let queries = [
            "SELECT id, name, labels FROM clusters WHERE org = 'acme'",
            "SELECT body FROM roles WHERE org = 'acme'",
            "SELECT body FROM bindings WHERE org = 'acme'",
        ];
        let mut rows = 0;
        for query in queries {
            rows += both!(self, pool => sqlx::query(query).fetch_all(pool).await.unwrap().len());
        }
        rows
    }
}

/// Times each of `count` runs.
async fn times<T>(count: usize, mut work: impl AsyncFnMut(usize) -> T) -> Times {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let begun = Instant::now();
        work(number).await;
        all.push(begun.elapsed());
    }
    Times(all)
}

fn row(what: impl Into<String>, figure: impl ToString, bare: impl ToString, bound: &str) -> Row {
    Row { what: what.into(), figure: figure.to_string(), bare: bare.to_string(), bound: bound.into() }
}

/// Where a database is, which is empty, and another one for what is not encrypted.
pub(crate) struct Databases {
    pub(crate) encrypted: Location,
    pub(crate) clear: Location,
}

impl Databases {
    fn is_sqlite(&self) -> bool {
        matches!(self.encrypted, Location::Sqlite(_))
    }
}

/// As a controller has it: with a master key.
async fn unlocked(location: &Location) -> Store {
    let masters = Masters::of(MasterKey::new(&[7; 32]).unwrap());
    Store::open(location).await.unwrap().unlock(masters).await.unwrap()
}

/// All figures of one kind of database.
pub(crate) async fn run(databases: &Databases, scale: Scale) -> Vec<Row> {
    let database = if databases.is_sqlite() { "SQLite" } else { "PostgreSQL" };
    let (store, now) = (unlocked(&databases.encrypted).await, Timestamp::now());
    let begun = Instant::now();
    fill(&store, scale, now).await;
    let made = scale.users + scale.clusters + scale.bindings;
    eprintln!("{database}: {made} resources made in {:.0} s", begun.elapsed().as_secs_f64());
    let mut random = StdRng::seed_from_u64(1);
    let mut some = || user_id(random.random_range(0..scale.users));
    let read = times(scale.reads, async |_| assert!(store.user(&some()).await.unwrap().is_some())).await;
    // The dearest change there is: of a policy, whose size is looked at.
    let folder = tempfile::tempdir().unwrap();
    let before = disk(folder.path(), scale.writes);
    let write = times(scale.writes, async |number| create_binding(&store, scale.bindings + number).await).await;
    let policy = SeriesKey { kind: DocumentKind::Policy, org: Some(acme()), subject: String::new() };
    let snapshot = times(scale.snapshots, async |_| store.snapshot(&policy, now).await.unwrap().unwrap()).await;
    let seen = watched(&databases.encrypted, &store, scale).await;
    // Before anything else that this process does takes some of it.
    let memory = memory();

    let bare = Bare::open(&databases.encrypted).await;
    let bare_read = times(scale.reads, async |_| bare.read(some().as_str()).await).await;
    let bare_write = times(scale.writes, async |number| bare.write(&format!("bare-{number}")).await).await;
    let bare_policy = times(scale.snapshots, async |_| assert!(bare.policy().await > 0)).await;
    drop(bare);
    let (sealed, clear) = beside(databases, &store, scale, now).await;
    store.close().await;
    let beyond = |times: &Times| format!("p99 {}", ms(times.p99().saturating_sub(before.p99())));
    let bound = if databases.is_sqlite() { "p99 ≤ 10 ms" } else { "" };
    let what = |what: &str| format!("{database}: {what}");
    let of_it = what(&format!("of it beyond one fdatasync ({before} meanwhile)"));
    let share = (sealed.at(0.5).as_secs_f64() / clear.at(0.5).as_secs_f64() - 1.0) * 100.0;
    let of_encryption = what(&format!("… and in turn without encryption ({clear})"));
    vec![
        row(what("one resource read"), &read, bare_read, "p99 ≤ 2 ms"),
        row(what("a binding made"), &write, &bare_write, ""),
        row(of_it, beyond(&write), beyond(&bare_write), bound),
        row(of_encryption, format!("{sealed}; p50 {share:+.1} %"), "", "≤ 10 %"),
        row(what("an organisation's policy read"), &snapshot, bare_policy, "≤ 200 ms"),
        row(what("from a change's begin to a watcher of another controller"), seen, "", "p99 ≤ 100 ms"),
        row(what("memory of the process now, and at most"), memory, "", "≤ 40 MB"),
    ]
}

/// The same change with encryption and without, in turn: what a noisy moment does, it does to both.
async fn beside(databases: &Databases, sealed: &Store, scale: Scale, now: Timestamp) -> (Times, Times) {
    let clear = Store::open(&databases.clear).await.unwrap();
    fill(&clear, scale, now).await;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..5 * scale.writes {
        let number = scale.bindings + scale.writes + number;
        for turn in 0..2 {
            let (store, times) =
                if (number + turn).is_multiple_of(2) { (sealed, &mut with) } else { (&clear, &mut without) };
            let begun = Instant::now();
            create_binding(store, number).await;
            times.push(begun.elapsed());
        }
    }
    clear.close().await;
    (Times(with), Times(without))
}

/// How long after the beginning of a change another controller's watcher has it.
async fn watched(location: &Location, store: &Store, scale: Scale) -> Times {
    // On one file there is one controller, and its watchers hear of changes in its own process.
    let other = if matches!(location, Location::Sqlite(_)) { store.clone() } else { unlocked(location).await };
    let from = other.list(Some(&acme())).await.unwrap().revision;
    let (tell, mut told) = mpsc::unbounded_channel();
    let watcher = tokio::spawn(async move {
        let (mut hint, mut at) = (other.hint(), from);
        loop {
            hint.mark_unchanged();
            let page = other.changes(Some(&acme()), at, 200).await.unwrap();
            for change in page.changes {
                at.version = change.version;
                if tell.send((change.version, Instant::now())).is_err() {
                    return;
                }
            }
            // As a controller does.
            let _ = tokio::time::timeout(Duration::from_millis(500), hint.changed()).await;
        }
    });
    let mut all = Vec::new();
    for number in 0..scale.writes {
        let begun = Instant::now();
        let name = format!("g{number}").parse().unwrap();
        store.create_group(&acme(), &name).await.unwrap();
        let (_, at) = told.recv().await.unwrap();
        all.push(at.saturating_duration_since(begun));
    }
    watcher.abort();
    Times(all)
}

/// Of Linux: what is resident.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? / 1e3)
    };
    match (of("VmRSS"), of("VmHWM")) {
        (Some(now), Some(most)) => format!("{now:.0} MB, {most:.0} MB"),
        _ => "not measured: it takes Linux".into(),
    }
}
