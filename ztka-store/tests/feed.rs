//! No version of the change feed is skipped or seen twice, whoever is killed.
//!
//! Writers are processes: this program, started again with a database to write to. They are killed with SIGKILL at
//! random places, connections are cut, the server crashes, and a standby takes over, while watchers in this process follow
//! the feed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kit::Place;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use ztka_authz::Role;
use ztka_controller::{
    conformance::replay,
    store::{Action, Change, ChangeStore as _, ResourceKind, ResourceStore as _},
};
use ztka_core::OrgId;
use ztka_identity::{IdentityStore as _, Org, StoreError};
use ztka_store::{Location, Store};
use ztka_test_postgres::Server;

const ORGS: [&str; 2] = ["acme", "other"];
/// Tells a process of this program what to write to, and what makes its names its own.
const DATABASE: &str = "ZTKA_TEST_FEED_DATABASE";
const WRITER: &str = "ZTKA_TEST_FEED_WRITER";

/// A watcher looks after this long without a hint.
const LOOK: Duration = Duration::from_millis(20);

fn org_id(name: &str) -> OrgId {
    name.parse().unwrap()
}

/// Writes until it is killed; says what was confirmed.
#[tokio::test]
#[ignore = "runs as a process of the tests below"]
async fn writer() {
    let (Ok(database), Ok(writer)) = (std::env::var(DATABASE), std::env::var(WRITER)) else { return };
    let location: Location = database.parse().unwrap();
    // What cuts connections may do so at the first one.
    let store = loop {
        if let Ok(store) = Store::open(&location).await {
            break store;
        }
    };
    let mut random = StdRng::seed_from_u64(writer.parse().unwrap());
    for number in 0.. {
        let org = ORGS[random.random_range(0..ORGS.len())];
        let own = random.random_bool(0.5);
        // Names of its own are made once; those of all are made and deleted by whoever comes.
        let name = if own { format!("own-{writer}-{number}") } else { format!("all-{}", number % 3) };
        let (id, role) = (org_id(org), Role { name: name.clone(), ..Role::default() });
        let made = store.create_role(&id, &name.parse().unwrap(), &role).await;
        if made.is_ok() && own {
            let mut out = std::io::stdout().lock();
            writeln!(out, "made {org} {name}").unwrap();
            out.flush().unwrap();
        }
        if matches!(made, Err(StoreError::Exists { .. })) {
            let _ = store.delete_role(&id, &name.parse().unwrap()).await;
        }
    }
}

struct Writer {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Writer {
    fn start(location: &Location, number: u64) -> Self {
        let database = match location {
            Location::Sqlite(path) => format!("sqlite://{}", path.display()),
            Location::Postgres(url) => url.clone(),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "writer", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(DATABASE, database).env(WRITER, number.to_string());
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// Waits for some confirmations, then kills the process; returns all of its confirmations.
    fn killed_after(mut self, count: usize) -> Vec<(OrgId, String)> {
        let mut confirmed = Vec::new();
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            // The last line may be cut.
            if let (Some(("made", made)), true) = (line.trim_end().split_once(' '), line.ends_with('\n')) {
                let (org, name) = made.split_once(' ').unwrap();
                confirmed.push((org_id(org), name.to_owned()));
            }
            if confirmed.len() == count {
                self.process.kill().unwrap();
            }
            line.clear();
        }
        self.process.wait().unwrap();
        confirmed
    }
}

/// Follows one organisation from what it lists now until it is told to stop, in pages of random size; then what it has
/// seen has to be what there is. Errors of the database are waited out.
async fn watch(store: Store, org: OrgId, seed: u64, stop: Arc<AtomicBool>) -> Vec<Change> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut hint = store.hint();
    let listing = loop {
        if let Ok(listing) = store.list(Some(&org)).await {
            break listing;
        }
    };
    let mut revision = listing.revision;
    let mut resources: BTreeMap<_, _> =
        listing.resources.into_iter().map(|listed| ((listed.kind, listed.name), listed.version)).collect();
    let mut seen = Vec::new();
    loop {
        let stopping = stop.load(Ordering::SeqCst);
        hint.mark_unchanged();
        match store.changes(Some(&org), revision, random.random_range(1..9)).await {
            Ok(page) if page.changes.is_empty() && stopping => break,
            Ok(page) if !page.changes.is_empty() => {
                replay(&mut revision, &mut resources, &page.changes);
                seen.extend(page.changes);
            }
            Ok(_) | Err(StoreError::Unavailable(_)) => {
                let _ = tokio::time::timeout(LOOK, hint.changed()).await;
            }
            Err(other) => unreachable!("{other}"),
        }
    }
    let listing = store.list(Some(&org)).await.unwrap();
    let there = listing.resources.into_iter().map(|listed| ((listed.kind, listed.name), listed.version));
    assert_eq!((listing.revision, there.collect::<BTreeMap<_, _>>()), (revision, resources));
    seen
}

/// Lets processes write and be killed, `trouble` happen in between, and checks what watchers have seen.
async fn survives(location: &Location, seed: u64, trouble: impl Fn(usize) + Send + 'static) {
    let stores = [Store::open(location).await.unwrap(), Store::open(location).await.unwrap()];
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    for name in ORGS {
        stores[0]
            .create_org(&Org { id: org_id(name), name: name.parse().unwrap(), created, longest_credential: None })
            .await
            .unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..6)
        .map(|number| {
            let (store, org) = (stores[number % 2].clone(), org_id(ORGS[number / 2 % 2]));
            tokio::spawn(watch(store, org, seed + number as u64, stop.clone()))
        })
        .collect();

    let location = location.clone();
    let confirmed = tokio::task::spawn_blocking(move || {
        let mut random = StdRng::seed_from_u64(seed);
        let mut confirmed = Vec::new();
        for round in 0..4 {
            let writers = (0..3).map(|number| Writer::start(&location, seed + 10 * round as u64 + number));
            let writers: Vec<_> = writers.map(|writer| (writer, random.random_range(1..25))).collect();
            let killed =
                writers.into_iter().map(|(writer, count)| std::thread::spawn(move || writer.killed_after(count)));
            let killed: Vec<_> = killed.collect();
            trouble(round);
            killed.into_iter().for_each(|killed| confirmed.extend(killed.join().unwrap()));
        }
        confirmed
    });
    let confirmed = confirmed.await.unwrap();
    stop.store(true, Ordering::SeqCst);
    let mut seen = Vec::new();
    for (number, watcher) in watchers.into_iter().enumerate() {
        let changes = watcher.await.unwrap();
        if number == 0 || number == 2 {
            seen.extend(changes.into_iter().map(|change| (org_id(ORGS[number / 2]), change)));
        }
    }
    assert!(confirmed.len() >= 12, "{} confirmed", confirmed.len());
    for (org, name) in &confirmed {
        let made = |(of, change): &&(OrgId, Change)| {
            of == org && change.name == *name && (change.kind, change.action) == (ResourceKind::Role, Action::Created)
        };
        assert_eq!(seen.iter().filter(made).count(), 1, "{name} was confirmed (seed {seed})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_writers_are_killed() {
    let place = Place::sqlite().unwrap();
    survives(&place.location, rand::random::<u32>().into(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_writers_are_killed_connections_cut_and_the_server_crashes() {
    let Some(server) = Server::start_or_skip().unwrap() else { return };
    let server = Arc::new(server);
    let location = Location::Postgres(server.database().unwrap());
    let cut =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'ztka-controller'";
    let troubled = server.clone();
    let trouble = move |round| match round {
        2 => troubled.crash().unwrap(),
        _ => (0..5).for_each(|_| drop(troubled.sql("postgres", cut).unwrap())),
    };
    survives(&location, rand::random::<u32>().into(), trouble).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_writers_are_killed_and_a_standby_takes_over() {
    let Some(primary) = Server::start_or_skip().unwrap() else { return };
    let url = primary.database().unwrap();
    let servers = Arc::new((primary.standby().unwrap(), primary));
    // The name by which the database is known, wherever it is.
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("current");
    let (_, primary) = &*servers;
    symlink(primary.folder(), &name).unwrap();
    let location = Location::Postgres(url.replace(primary.folder().to_str().unwrap(), name.to_str().unwrap()));
    let troubled = servers.clone();
    let trouble = move |round| {
        if round == 2 {
            let (standby, primary) = &*troubled;
            primary.stop().unwrap();
            standby.promote().unwrap();
            std::fs::remove_file(&name).unwrap();
            symlink(standby.folder(), &name).unwrap();
        }
    };
    survives(&location, rand::random::<u32>().into(), trouble).await;
}
