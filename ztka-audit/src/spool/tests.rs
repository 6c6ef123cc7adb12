//! Spools that are torn, damaged, full, broken and reopened.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    sync::{
        Condvar,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use tempfile::TempDir;
use ztka_core::SystemClock;

use super::*;

mod faults;
mod full;
mod power;

/// A disk that can be full or broken, counts syncs, and can hold them up.
#[derive(Debug, Default)]
struct Faulty {
    full: AtomicBool,
    unsyncable: AtomicBool,
    syncs: AtomicUsize,
    held: Mutex<bool>,
    released: Condvar,
    /// Of each file: how much of it a loss of power would leave.
    synced: Mutex<BTreeMap<u64, u64>>,
    /// How often the machine has been started.
    boots: AtomicUsize,
}

impl Faulty {
    fn hold_syncs(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }
}

impl Disk for Faulty {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(SeqCst) {
            // As a disk does that fills up in the middle of a write.
            FileSystem.append(file, &bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        FileSystem.append(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        self.syncs.fetch_add(1, SeqCst);
        if self.unsyncable.load(SeqCst) {
            return Err(io::Error::other("input/output error"));
        }
        let about = file.metadata()?;
        self.synced.lock().unwrap().insert(about.ino(), about.len());
        FileSystem.sync(file)
    }

    fn boot(&self) -> Option<String> {
        Some(self.boots.load(SeqCst).to_string())
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        FileSystem.truncate(file, length)
    }
}

fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    (dir, path)
}

fn open(options: SpoolOptions) -> (Spool, Recovery) {
    Spool::open(options, &SystemClock).unwrap()
}

fn faulty(options: SpoolOptions) -> (Spool, Arc<Faulty>) {
    let disk = Arc::new(Faulty::default());
    let (spool, _) = open_on(options, disk.clone());
    (spool, disk)
}

fn open_on(options: SpoolOptions, disk: Arc<dyn Disk>) -> (Spool, Recovery) {
    Spool::open_as(options, &SystemClock, EVENTS, disk).unwrap()
}

fn event(stage: Stage) -> Event {
    Event::new(AuditId::generate(), stage, Timestamp::UNIX_EPOCH)
}

async fn record(spool: &Spool, durability: Durability) -> Result<Event, Unrecorded> {
    let mut event = event(Stage::RequestReceived);
    Journal::open(spool, &event, durability).await?;
    event.stage = Stage::ResponseComplete;
    Ok(event)
}

async fn complete(spool: &Spool) {
    let event = record(spool, Durability::Written).await.unwrap();
    spool.note(&event);
}

/// All records; damage is a failure.
fn whole(dir: &Path) -> Vec<Record> {
    Reader::new(dir).collect::<Result<_, _>>().unwrap()
}

fn last_segment(dir: &Path) -> PathBuf {
    segment::path(dir, *segment::list(dir).unwrap().last().unwrap())
}

#[tokio::test]
async fn records_are_read_back_in_one_chain_across_segments_and_starts() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).segment(4096);
    for start in 0..3 {
        let (spool, recovery) = open(options.clone());
        assert_eq!((recovery.torn_bytes, recovery.interrupted), (0, 0), "start {start}");
        for _ in 0..20 {
            complete(&spool).await;
        }
        drop(spool);
    }
    let records = whole(&dir);
    assert_eq!(records.len(), 120);
    assert!(segment::list(&dir).unwrap().len() > 3);
    for (index, pair) in records.windows(2).enumerate() {
        assert_eq!(pair[0].sequence, index as u64);
        assert_eq!(pair[1].previous, pair[0].hash());
        assert!(pair[0].position < pair[1].position);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&last_segment(&dir))), (0o700, 0o600));
}

#[tokio::test]
async fn what_is_written_is_in_the_file_when_the_record_is_open() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    for _ in 0..10 {
        let event = record(&spool, Durability::Written).await.unwrap();
        assert_eq!(whole(&dir).last().unwrap().id, event.audit_id);
    }
    assert_eq!(disk.syncs.load(SeqCst), 0);
    record(&spool, Durability::Synced).await.unwrap();
    assert_eq!(disk.syncs.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_sync_serves_all_who_wait() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    disk.hold_syncs(true);
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move { record(&spool, Durability::Synced).await.unwrap() })
        })
        .collect();
    let mut written = spool.written();
    while spool.status().records < 200 {
        written.changed().await.unwrap();
    }
    assert!(waiting.iter().all(|task| !task.is_finished()), "went on unsynced");
    disk.hold_syncs(false);
    for task in waiting {
        task.await.unwrap();
    }
    assert!(disk.syncs.load(SeqCst) <= 3, "{} syncs", disk.syncs.load(SeqCst));
    assert_eq!(whole(&dir).len(), 200);
}

#[tokio::test]
async fn reads_go_on_while_a_sync_takes_its_time() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    disk.hold_syncs(true);
    let event = event(Stage::RequestReceived);
    let synced = Journal::open(&spool, &event, Durability::Synced);
    for _ in 0..100 {
        complete(&spool).await;
    }
    disk.hold_syncs(false);
    synced.await.unwrap();
}

#[tokio::test]
async fn a_restart_closes_what_was_open_even_from_older_segments() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).segment(4096);
    let (spool, _) = open(options.clone());
    let mut long = event(Stage::RequestReceived);
    long.request_uri = "/api/v1/pods?watch=true".into();
    Journal::open(&spool, &long, Durability::Written).await.unwrap();
    for _ in 0..40 {
        complete(&spool).await;
    }
    drop(spool);
    let (spool, recovery) = open(options.clone());
    assert_eq!(recovery.interrupted, 1);
    drop(spool);
    let closed = whole(&dir).pop().unwrap();
    assert_eq!((closed.id, closed.kind), (long.audit_id, Kind::Close));
    let closed = Event::from_json(closed.payload.as_bytes()).unwrap();
    assert_eq!((closed.stage, closed.fact("end")), (Stage::ResponseComplete, Some("interrupted")));
    assert_eq!(closed.request_uri, long.request_uri);
    let (_spool, recovery) = open(options);
    assert_eq!(recovery.interrupted, 0);
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_it_was_torn() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    for _ in 0..2 {
        complete(&spool).await;
    }
    drop(spool);
    let records = whole(&dir);
    let file = last_segment(&dir);
    let bytes = fs::read(&file).unwrap();
    let last = usize::try_from(records.last().unwrap().position.offset).unwrap();
    for length in (last..bytes.len()).step_by(13).chain([bytes.len() - 1]) {
        let mut torn = bytes[..length].to_vec();
        torn.extend([0; 32]); // as a file system may leave it
        fs::write(&file, torn).unwrap();
        let (spool, recovery) = open(SpoolOptions::new(&dir));
        assert_eq!(recovery.torn_bytes, (length - last + 32) as u64);
        assert!(recovery.damage.is_empty());
        assert_eq!(recovery.interrupted, 1, "its last record was torn off");
        drop(spool);
        assert_eq!(whole(&dir)[..3], records[..3]);
        assert_eq!(whole(&dir).len(), 4);
    }
}

#[tokio::test]
async fn a_segment_without_a_header_was_never_begun() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    complete(&spool).await;
    drop(spool);
    fs::write(segment::path(&dir, 2), b"ZTKA").unwrap();
    let (spool, recovery) = open(SpoolOptions::new(&dir));
    assert_eq!(recovery.torn_bytes, 4);
    complete(&spool).await;
    drop(spool);
    assert_eq!(whole(&dir).len(), 4);
}

#[tokio::test]
async fn flipped_bits_are_reported_and_what_follows_is_read() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    for _ in 0..5 {
        complete(&spool).await;
    }
    drop(spool);
    let records = whole(&dir);
    let file = last_segment(&dir);
    let bytes = fs::read(&file).unwrap();
    let start = usize::try_from(records[4].position.offset).unwrap();
    let end = usize::try_from(records[5].position.offset).unwrap();
    for at in (start..end).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&file, flipped).unwrap();
        let read: Vec<_> = Reader::new(&dir).collect();
        assert_eq!(read.iter().flatten().count(), 9, "byte {at}");
        assert!(read.iter().any(|item| matches!(item, Err(Damage::Bytes { at: Position { offset, .. }, .. })
            if *offset == start as u64)));
        assert!(read.iter().any(|item| matches!(item, Err(Damage::Missing { from: 4, to: 5, .. }))));
    }
    // A start reports it, leaves it alone and goes on behind it.
    let (spool, recovery) = open(SpoolOptions::new(&dir));
    assert_eq!(recovery.torn_bytes, 0);
    assert!(matches!(recovery.damage.first(), Some(Damage::Bytes { .. })));
    complete(&spool).await;
    drop(spool);
    let read: Vec<_> = Reader::new(&dir).flatten().collect();
    assert_eq!(read.last().unwrap().sequence, if recovery.interrupted > 0 { 12 } else { 11 });
}

#[tokio::test]
async fn a_damaged_header_loses_no_record() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    for _ in 0..3 {
        complete(&spool).await;
    }
    drop(spool);
    fs::OpenOptions::new().write(true).open(last_segment(&dir)).unwrap().write_all_at(b"?", 20).unwrap();
    let (spool, recovery) = open(SpoolOptions::new(&dir));
    assert!(matches!(recovery.damage[..], [Damage::Header { segment: 1 }]));
    complete(&spool).await;
    drop(spool);
    let (good, bad): (Vec<_>, Vec<_>) = Reader::new(&dir).partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (8, 1));
}

#[tokio::test]
async fn a_changed_record_with_a_right_checksum_breaks_the_chain() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    for _ in 0..3 {
        complete(&spool).await;
    }
    drop(spool);
    let record = whole(&dir).swap_remove(2);
    let forged = record.payload.replace("anonymous", "synonymous").replacen("Metadata", "Metadat", 1);
    let mut frame = Vec::new();
    frame::encode(&mut frame, record.sequence, &record.previous, record.kind, record.id, forged.as_bytes());
    let file = fs::OpenOptions::new().write(true).open(last_segment(&dir)).unwrap();
    file.write_all_at(&frame, record.position.offset).unwrap();
    let chain: Vec<_> = Reader::new(&dir).filter_map(Result::err).collect();
    assert!(matches!(chain[..], [Damage::Chain { sequence: 3, .. }]), "{chain:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_serves_again_when_there_is_room() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    let open = record(&spool, Durability::Written).await.unwrap();
    disk.full.store(true, SeqCst);
    spool.note(&open);
    for durability in [Durability::Written, Durability::Synced] {
        let refused = record(&spool, durability).await.unwrap_err();
        assert!(refused.to_string().contains("make room"), "{refused}");
    }
    assert!(spool.status().failing);
    disk.full.store(false, SeqCst);
    record(&spool, Durability::Synced).await.unwrap();
    assert!(!spool.status().failing);
    assert_eq!(spool.status().lost, 0);
    complete(&spool).await;
    drop(spool);
    let records = whole(&dir);
    assert_eq!(records.len(), 5);
    assert_eq!(records.iter().filter(|record| record.id == open.audit_id).count(), 2, "its end was kept");
}

#[tokio::test]
async fn what_was_not_synced_is_not_acknowledged_and_a_new_segment_is_begun() {
    let (_keep, dir) = dir();
    let (spool, disk) = faulty(SpoolOptions::new(&dir));
    disk.unsyncable.store(true, SeqCst);
    let refused = record(&spool, Durability::Synced).await.unwrap_err();
    assert!(refused.to_string().contains("check it"), "{refused}");
    disk.unsyncable.store(false, SeqCst);
    record(&spool, Durability::Synced).await.unwrap();
    assert_eq!(spool.status().end.segment, 2);
    drop(spool);
    whole(&dir);
}

#[tokio::test]
async fn at_the_quota_nothing_opens_until_consumers_have_taken_it() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).quota(64 * 1024).consumer("controller");
    let (spool, _) = open(options.clone());
    let first = record(&spool, Durability::Written).await.unwrap();
    let refused = loop {
        match record(&spool, Durability::Written).await {
            Ok(event) => spool.note(&event),
            Err(refused) => break refused.to_string(),
        }
    };
    assert!(refused.contains("quota of 65536 bytes") && refused.contains("\"controller\""), "{refused}");
    assert_eq!(segment::list(&dir).unwrap().first(), Some(&1));
    // What is open can be closed all the same.
    spool.note(&first);
    drop(spool);
    assert_eq!(whole(&dir).iter().filter(|record| record.id == first.audit_id).count(), 2);

    let (spool, _) = open(options.clone());
    spool.set_cursor("controller", spool.status().end).unwrap();
    complete(&spool).await;
    assert!(!spool.status().failing);
    drop(spool);
    assert!(segment::list(&dir).unwrap().first() > Some(&1), "oldest segments make room");
    let (spool, _) = open(options);
    assert!(spool.cursor("controller").unwrap().segment > 1, "kept over a restart");
    assert_eq!(spool.cursor("stranger"), None);
}

#[tokio::test]
async fn without_a_consumer_nothing_is_ever_removed() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir).quota(32 * 1024));
    while record(&spool, Durability::Written).await.is_ok() {}
    assert_eq!(segment::list(&dir).unwrap().first(), Some(&1));
}

#[test]
fn two_processes_cannot_share_a_spool() {
    let (_keep, dir) = dir();
    let (_spool, _) = open(SpoolOptions::new(&dir));
    let second = Spool::open(SpoolOptions::new(&dir), &SystemClock);
    assert!(matches!(second, Err(SpoolError::InUse(_))));
    let bad = Spool::open(SpoolOptions::new(&dir).consumer("../x"), &SystemClock);
    assert!(matches!(bad, Err(SpoolError::ConsumerName(_))));
    let file = dir.join("lock");
    assert!(matches!(Spool::open(SpoolOptions::new(file), &SystemClock), Err(SpoolError::Io { .. })));
}

#[tokio::test]
async fn a_cursor_ahead_of_the_end_goes_back() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).consumer("file");
    let (spool, _) = open(options.clone());
    complete(&spool).await;
    spool.set_cursor("file", Position { segment: 1, offset: 1 << 20 }).unwrap();
    drop(spool);
    let (spool, _) = open(options);
    assert_eq!(spool.cursor("file"), Some(Position { segment: 1, offset: 0 }));
}

#[tokio::test]
async fn events_too_large_are_refused_not_cut() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    let mut event = event(Stage::RequestReceived);
    event.request_uri = "x".repeat(frame::MAX_PAYLOAD);
    assert!(Journal::open(&spool, &event, Durability::Written).await.is_err());
    spool.note(&event);
    assert_eq!(spool.status().lost, 1);
}

/// Counts what is logged as an error.
#[derive(Clone, Debug, Default)]
struct Errors(Arc<AtomicUsize>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, SeqCst);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_first_lost_record_is_said_aloud_and_all_are_counted() {
    let (_keep, dir) = dir();
    let (spool, _) = open(SpoolOptions::new(&dir));
    let errors = Errors::default();
    let mut event = event(Stage::ResponseComplete);
    event.request_uri = "x".repeat(frame::MAX_PAYLOAD);
    tracing::subscriber::with_default(errors.clone(), || (0..3).for_each(|_| spool.note(&event)));
    assert_eq!((spool.status().lost, errors.0.load(SeqCst)), (3, 1));
}

#[tokio::test]
async fn whoever_looks_at_the_end_may_ask_for_the_state_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(SpoolOptions::new(dir.path()), &SystemClock).unwrap();
    for round in 0..500 {
        let event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::now());
        let mut written = spool.written();
        spool.note(&event);
        spool.hurry();
        // The condition runs under the lock of the place that the writer is about to change.
        written.wait_for(|_| spool.status().records > round).await.unwrap();
    }
}
