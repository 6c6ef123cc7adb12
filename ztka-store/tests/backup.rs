//! Backups: taken under load, restored into either database, and never half.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use kit::Place;
use ztka_authz::Role;
use ztka_controller::store::{ChangeStore as _, DocumentStore as _, Published, ResourceStore as _};
use ztka_core::{DocumentKind, OrgId, Revision, SeriesKey};
use ztka_identity::{IdentityStore as _, Org, StoreError};
use ztka_store::{BackupError, BackupKey, Contents, Location, MasterKey, Masters, Plan, Store};

kit::on_both!(
    is_restored_into_either_database_under_a_new_epoch,
    is_of_one_moment_while_others_write,
    is_refused_where_somebody_lives_and_left_alone,
    a_new_history_begins_without_a_backup,
    is_restored_whole_or_not_at_all_whoever_is_killed,
    a_master_key_is_held_against_a_backup_before_it_is_restored,
);

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn key() -> BackupKey {
    BackupKey::Bytes(zeroize::Zeroizing::new([7; 32]))
}

fn plan(force: bool) -> Plan {
    Plan { force, now: now() }
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

fn role(name: &str) -> Role {
    Role { name: name.into(), rules: Vec::new(), read_only: false }
}

fn policy() -> SeriesKey {
    SeriesKey { kind: DocumentKind::Policy, org: Some(acme()), subject: String::new() }
}

async fn create_org(store: &Store) {
    let org = Org { id: acme(), name: "acme".parse().unwrap(), created: now(), longest_credential: None };
    store.create_org(&org).await.unwrap();
}

/// A file in a directory that lives as long.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("backup")
    }

    async fn write(&self, location: &Location) -> Contents {
        let (contents, bytes) = ztka_store::back_up(location, &key(), now(), Vec::new()).await.unwrap();
        std::fs::write(self.path(), bytes).unwrap();
        contents
    }
}

async fn publish(store: &Store, wire: &'static str) -> bool {
    let revision = store.snapshot(&policy(), now()).await.unwrap().unwrap().revision;
    let document = Published { series: policy(), revision, issued: now(), wire: wire.into() };
    store.publish(&document).await.unwrap()
}

/// The other database than the one of this place, and one of the same kind.
fn targets() -> Vec<Place> {
    [Place::sqlite(), Place::postgres()].into_iter().flatten().collect()
}

async fn is_restored_into_either_database_under_a_new_epoch(place: &Place) {
    let store = place.open().await;
    create_org(&store).await;
    store.create_role(&acme(), &"one".parse().unwrap(), &role("one")).await.unwrap();
    assert!(publish(&store, "{}").await);
    let (before, at) = (store.list(Some(&acme())).await.unwrap(), store.feed_head().await.unwrap());
    let file = File::new();
    let contents = file.write(&place.location).await;
    assert_eq!(contents.rows["roles"], 1);
    assert_eq!(ztka_store::check(&*std::fs::read(file.path()).unwrap(), &key()).await.unwrap(), contents);
    // Versions go on, are seen, and are lost.
    store.create_role(&acme(), &"lost".parse().unwrap(), &role("lost")).await.unwrap();
    assert!(publish(&store, "{}").await);
    let seen = store.snapshot(&policy(), now()).await.unwrap().unwrap().revision;

    for target in targets() {
        let done = ztka_store::restore(&target.location, &key(), &file.path(), plan(false)).await.unwrap();
        assert_eq!(done.contents, contents);
        let restored = target.open().await;
        let listing = restored.list(Some(&acme())).await.unwrap();
        assert_eq!(listing.resources, before.resources);
        assert!(listing.revision > seen, "{:?} after {seen:?}", listing.revision);
        assert_eq!(listing.revision, Revision { epoch: done.epoch, version: before.revision.version });
        // Everything is signed again, behind all that anybody has seen of the feed.
        assert!(restored.due(Timestamp::MIN, now(), 10).await.unwrap().contains(&policy()));
        assert!(restored.feed(&ztka_controller::store::FeedScope::Installation, 0, 10).await.unwrap().is_empty());
        assert!(publish(&restored, "{}").await);
        assert!(restored.feed_head().await.unwrap() > at + 1_000_000);
        // Who watched the old history lists again.
        let gone = restored.changes(Some(&acme()), before.revision, 10).await;
        assert!(matches!(gone, Err(StoreError::Compacted)), "{gone:?}");
        // Numbers go on, also those that the database gives out.
        let found = |sequence| ztka_controller::store::Found {
            org: None,
            cluster: None,
            source: "p".into(),
            at: now(),
            finding: ztka_audit::Finding::BrokenChain { sequence },
        };
        use ztka_controller::store::FindingStore as _;
        restored.add_findings(&[found(1), found(2)]).await.unwrap();
        restored.create_role(&acme(), &"two".parse().unwrap(), &role("two")).await.unwrap();
        assert_eq!(restored.unrecorded_epoch().await.unwrap(), Some(done.epoch));
        restored.epoch_recorded(done.epoch).await.unwrap();
        assert_eq!(restored.unrecorded_epoch().await.unwrap(), None);
        // The same backup once more: nobody may have seen that epoch either.
        restored.close().await;
        let later = Plan { force: true, now: now() };
        let again = ztka_store::restore(&target.location, &key(), &file.path(), later).await.unwrap();
        assert!(again.epoch > done.epoch);
        let restored = target.open().await;
        assert_eq!(restored.roles(&acme()).await.unwrap(), [role("one")]);
        // And out of it again, with numbers that the first database has given out itself.
        restored.add_findings(&[found(3)]).await.unwrap();
        let file = File::new();
        file.write(&target.location).await;
        for target in targets() {
            ztka_store::restore(&target.location, &key(), &file.path(), plan(false)).await.unwrap();
            let restored = target.open().await;
            restored.add_findings(&[found(4)]).await.unwrap();
            assert_eq!(restored.findings(None, 10).await.unwrap(), [found(4), found(3)]);
        }
    }
}

async fn is_of_one_moment_while_others_write(place: &Place) {
    let store = place.open().await;
    create_org(&store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let name = format!("w{writer}-{number}");
                    store.create_role(&acme(), &name.parse().unwrap(), &role(&name)).await.unwrap();
                    number += 1;
                }
                number
            })
        })
        .collect();
    let mut hint = store.hint();
    let mut taken = Vec::new();
    for _ in 0..4 {
        hint.changed().await.unwrap();
        let file = File::new();
        let contents = file.write(&place.location).await;
        taken.push((file, contents));
    }
    stop.store(true, Ordering::SeqCst);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert!(written > 4, "{written}");
    for (file, contents) in taken {
        let target = Place::sqlite().unwrap();
        ztka_store::restore(&target.location, &key(), &file.path(), plan(false)).await.unwrap();
        let restored = target.open().await;
        let listing = restored.list(Some(&acme())).await.unwrap();
        let roles = restored.roles(&acme()).await.unwrap();
        assert_eq!(u64::try_from(roles.len()).unwrap(), contents.rows["roles"]);
        // One version made the organisation, and one each role: no change is there by half, and none is left out.
        assert_eq!(listing.revision.version, contents.rows["roles"] + 1, "{contents:?}");
        assert_eq!(listing.resources.len(), roles.len() + 1);
    }
}

async fn is_refused_where_somebody_lives_and_left_alone(place: &Place) {
    let store = place.open().await;
    create_org(&store).await;
    let file = File::new();
    file.write(&place.location).await;
    store.create_role(&acme(), &"kept".parse().unwrap(), &role("kept")).await.unwrap();
    let restore = async |path: &Path, key: &BackupKey, force| {
        ztka_store::restore(&place.location, key, path, plan(force)).await.unwrap_err()
    };
    // A controller is at work.
    let refused = restore(&file.path(), &key(), true).await;
    assert!(matches!(refused, BackupError::InUse), "{refused:?}");
    assert!(refused.to_string().contains("stop every controller"), "{refused}");
    store.close().await;
    let refused = restore(&file.path(), &key(), false).await;
    assert!(matches!(refused, BackupError::NotEmpty), "{refused:?}");

    let whole = std::fs::read(file.path()).unwrap();
    let bad = file.directory.path().join("bad");
    let other = BackupKey::Bytes(zeroize::Zeroizing::new([8; 32]));
    let refused = restore(&file.path(), &other, true).await;
    assert!(refused.to_string().contains("not the key"), "{refused}");
    for length in [0, 20, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bad, &whole[..length]).unwrap();
        let refused = restore(&bad, &key(), true).await;
        assert!(matches!(refused, BackupError::Truncated | BackupError::NotOne), "{length}: {refused:?}");
    }
    let mut bent = whole.clone();
    bent[whole.len() / 2] ^= 1;
    std::fs::write(&bad, &bent).unwrap();
    assert!(matches!(restore(&bad, &key(), true).await, BackupError::Damaged(_) | BackupError::Truncated));
    std::fs::write(&bad, b"a letter to somebody about something, long enough to be anything at all, yes".repeat(4))
        .unwrap();
    let refused = restore(&bad, &key(), true).await;
    assert!(matches!(refused, BackupError::NotOne), "{refused:?}");

    let store = place.open().await;
    assert_eq!(store.roles(&acme()).await.unwrap(), [role("kept")], "nothing of it has happened");
    assert_eq!(store.list(Some(&acme())).await.unwrap().revision.epoch, 1);
    // None makes an empty target anything else.
    let empty = Place::sqlite().unwrap();
    assert!(ztka_store::restore(&empty.location, &key(), &bad, plan(false)).await.is_err());
    let Location::Sqlite(path) = &empty.location else { unreachable!() };
    assert!(!path.exists());
}

async fn a_new_history_begins_without_a_backup(place: &Place) {
    let store = place.open().await;
    create_org(&store).await;
    assert!(publish(&store, "{}").await);
    assert!(matches!(ztka_store::new_history(&place.location, now()).await, Err(BackupError::InUse)));
    store.close().await;
    let epoch = ztka_store::new_history(&place.location, now()).await.unwrap();
    let store = place.open().await;
    assert_eq!(store.list(Some(&acme())).await.unwrap().revision.epoch, epoch);
    assert!(publish(&store, "{}").await, "signed anew");
    store.close().await;
    // A clock that was set back does not bring an epoch back.
    let past = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(ztka_store::new_history(&place.location, past).await.unwrap(), epoch + 1);
}

/// Tells a process of this program what to restore, and into what.
const DATABASE: &str = "ZTKA_TEST_BACKUP_DATABASE";
const FILE: &str = "ZTKA_TEST_BACKUP_FILE";

/// Restores until it is killed.
#[tokio::test]
#[ignore = "runs as a process of the test below"]
async fn restorer() {
    let (Ok(database), Ok(file)) = (std::env::var(DATABASE), std::env::var(FILE)) else { return };
    let location: Location = database.parse().unwrap();
    let say = |what: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{what}").unwrap();
        out.flush().unwrap();
    };
    loop {
        say("begun");
        // Connections of who was there before may be there for a moment longer.
        if ztka_store::restore(&location, &key(), Path::new(&file), plan(true)).await.is_ok() {
            say("done");
        }
    }
}

async fn is_restored_whole_or_not_at_all_whoever_is_killed(place: &Place) {
    const ROLES: usize = 150;
    let store = place.open().await;
    create_org(&store).await;
    for number in 0..ROLES {
        let name = format!("role-{number}");
        store.create_role(&acme(), &name.parse().unwrap(), &role(&name)).await.unwrap();
    }
    let file = File::new();
    file.write(&place.location).await;
    store.create_role(&acme(), &"later".parse().unwrap(), &role("later")).await.unwrap();
    store.close().await;
    let database = match &place.location {
        Location::Sqlite(path) => format!("sqlite://{}", path.display()),
        Location::Postgres(url) => url.clone(),
    };
    let mut epochs = Vec::new();
    for wanted in 0..5 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "restorer", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(DATABASE, &database).env(FILE, file.path());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (lines, mut done) = (BufReader::new(process.stdout.take().unwrap()).lines(), 0);
        for line in lines.map_while(Result::ok) {
            done += usize::from(line.ends_with("done"));
            if done >= wanted && line.ends_with("begun") {
                break;
            }
        }
        // Somewhere in the middle of the next one: this waits for nothing.
        std::thread::sleep(std::time::Duration::from_millis(rand::random_range(0..150)));
        process.kill().unwrap();
        process.wait().unwrap();
        let store = place.open().await;
        let (roles, listing) = (store.roles(&acme()).await.unwrap(), store.list(Some(&acme())).await.unwrap());
        let expected = if listing.revision.epoch == 1 { ROLES + 1 } else { ROLES };
        assert_eq!(roles.len(), expected, "{:?}", listing.revision);
        assert_eq!(listing.resources.len(), expected + 1);
        assert_eq!(usize::try_from(listing.revision.version).unwrap(), expected + 1);
        epochs.push(listing.revision.epoch);
        store.close().await;
    }
    assert!(epochs.is_sorted() && epochs.last().is_some_and(|last| *last > 1), "{epochs:?}");
}

async fn a_master_key_is_held_against_a_backup_before_it_is_restored(place: &Place) {
    let store = place.unlocked().await;
    create_org(&store).await;
    store.create_role(&acme(), &"one".parse().unwrap(), &role("one")).await.unwrap();
    let file = File::new();
    file.write(&place.location).await;
    let bytes = std::fs::read(file.path()).unwrap();
    let fits = async |masters: Masters| ztka_store::fits(&*bytes, &key(), &masters).await;
    fits(kit::masters(1)).await.unwrap();
    fits(kit::masters(2).and(MasterKey::new(&[1; 32]).unwrap())).await.unwrap();
    let refused = fits(kit::masters(2)).await.unwrap_err();
    assert!(matches!(refused, BackupError::OtherMaster { .. }), "{refused:?}");
    let (needed, given) = (MasterKey::new(&[1; 32]).unwrap(), MasterKey::new(&[2; 32]).unwrap());
    use ztka_store::KeyEncryption as _;
    assert!(refused.to_string().contains(needed.id()) && refused.to_string().contains(given.id()), "{refused}");
    assert!(refused.to_string().contains("give the master key of that time"), "{refused}");

    // What has nothing encrypted in it needs none.
    let clear = Place::sqlite().unwrap();
    create_org(&clear.open().await).await;
    let file = File::new();
    file.write(&clear.location).await;
    ztka_store::fits(&*std::fs::read(file.path()).unwrap(), &key(), &kit::masters(3)).await.unwrap();
}

#[tokio::test]
async fn there_is_no_backup_of_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Sqlite(directory.path().join("ztka.db"));
    let nothing = ztka_store::back_up(&location, &key(), now(), Vec::new()).await.unwrap_err();
    assert!(matches!(nothing, BackupError::NoDatabase(_)), "{nothing:?}");
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "none is made");
}

/// Another program's state: earlier schemas with data come back as they were and are brought up to date.
#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let (sqlite, Some(postgres)) = (Place::sqlite().unwrap(), Place::postgres()) else { return };
    use sqlx::{Connection as _, Row as _};
    sqlite.open().await.close().await;
    postgres.open().await.close().await;
    let (Location::Sqlite(path), Location::Postgres(url)) = (&sqlite.location, &postgres.location) else {
        unreachable!()
    };
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let query = "SELECT m.name || '.' || p.name || ' ' || CASE p.type WHEN 'INTEGER' THEN 'bigint' WHEN 'BLOB' THEN 'bytea' \
                 ELSE 'text' END AS c FROM sqlite_schema m JOIN pragma_table_info(m.name) p \
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let ours = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    let mut ours: Vec<String> = ours.iter().map(|row| row.get("c")).collect();
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let query = "SELECT table_name || '.' || column_name || ' ' || data_type AS c FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name <> 'schema_version'";
    let theirs = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    let mut theirs: Vec<String> = theirs.iter().map(|row| row.get("c")).collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}
