//! A file: rotated by the sink or by others, removed, and on a disk that is full.

use std::{
    fs,
    io::Read as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_audit::{
    Batch, Compression, Event, FileSink, Kind, Position, Record, Rotation, Sink, SinkError, Stage,
    conformance::{self, Place, Trouble},
};
use ztka_core::{AuditId, ManualClock};

use crate::places::events;

struct Files {
    folder: PathBuf,
    rotation: Rotation,
}

impl Files {
    fn path(&self) -> PathBuf {
        self.folder.join("logs").join("audit.log")
    }
}

/// All rotated files and the current one, oldest first.
fn contents(path: &Path) -> Vec<u8> {
    let folder = path.parent().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    // The current one has the shortest name.
    names.sort_by_key(|name| (name == path, name.clone()));
    let mut all = Vec::new();
    for name in names.iter().filter(|name| name.extension().is_some_and(|end| end != "new")) {
        // It may be compressed just now.
        let Ok(bytes) = fs::read(name) else { continue };
        if name.extension().is_some_and(|end| end == "gz") {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut all).unwrap();
        } else {
            all.extend(bytes);
        }
    }
    all
}

#[async_trait]
impl Place for Files {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(FileSink::new(self.path()).rotate(self.rotation.clone()))
    }

    async fn arrived(&self) -> Vec<Event> {
        events(&contents(&self.path()))
    }

    async fn trouble(&self, trouble: Option<Trouble>) -> bool {
        let (logs, away) = (self.folder.join("logs"), self.folder.join("away"));
        match trouble {
            None => fs::rename(away, logs).is_ok(),
            Some(Trouble::Refuses) => fs::rename(logs, away).is_ok(),
            Some(_) => false,
        }
    }
}

fn files(rotation: Rotation) -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files { folder: dir.path().to_owned(), rotation };
    fs::create_dir(dir.path().join("logs")).unwrap();
    (dir, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_passes() {
    let (dir, files) = files(Rotation::default());
    conformance::sink(&files, &dir.path().join("spool")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rotated_passes() {
    let rotation = Rotation { size: Some(20_000), compression: Compression::Gzip, ..Rotation::default() };
    let (dir, files) = files(rotation);
    conformance::sink(&files, &dir.path().join("spool")).await;
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn batch(second: i64, count: usize) -> Batch {
    let record = |sequence| {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, at(second));
        event.annotations.set("cluster", "c1");
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, previous) = (Position::default(), ztka_audit::Hash::default());
        Record { position, sequence, previous, kind: Kind::Close, id: event.audit_id, payload }
    };
    let records = (0..count as u64).map(record).collect();
    Batch { journal: AuditId::generate(), records, signature: None }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn names_become(folder: &Path, wanted: &[&str]) {
    for _ in 0..3000 {
        if names(folder) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names(folder), wanted);
}

#[tokio::test]
async fn a_file_that_is_old_is_compressed_and_the_oldest_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, clock) = (dir.path().join("audit.log"), ManualClock::at(at(0)));
    let rotation = Rotation {
        age: Some(SignedDuration::from_secs(60)),
        keep: NonZeroUsize::new(2),
        compression: Compression::Gzip,
        ..Rotation::default()
    };
    let sink = FileSink::new(&path).rotate(rotation).clock(Arc::new(clock.clone()));
    // Not ours, whatever the names are like.
    let others = ["audit.log.bak", "audit.log.1", "audit.log.00000001.gz.old", "other.log.00000001"];
    others.iter().for_each(|name| fs::write(dir.path().join(name), "keep").unwrap());
    let with_others = |ours: &[&'static str]| {
        let mut all: Vec<_> = others.iter().chain(ours).copied().collect();
        all.sort_unstable();
        all
    };
    sink.deliver(&batch(0, 3)).await.unwrap();
    clock.advance(SignedDuration::from_secs(59));
    sink.deliver(&batch(59, 1)).await.unwrap();
    assert_eq!(names(dir.path()), with_others(&["audit.log"]));
    for (round, wanted) in [
        &["audit.log", "audit.log.00000001.gz"][..],
        &["audit.log", "audit.log.00000001.gz", "audit.log.00000002.gz"],
        &["audit.log", "audit.log.00000002.gz", "audit.log.00000003.gz"],
    ]
    .into_iter()
    .enumerate()
    {
        clock.advance(SignedDuration::from_secs(61));
        // It is the age of the first event that counts, also for a sink that has just been made.
        sink.clone().deliver(&batch(120 + 61 * round as i64, 1)).await.unwrap();
        names_become(dir.path(), &with_others(wanted)).await;
    }
    // A clock that goes back rotates nothing, and removes nothing.
    clock.advance(SignedDuration::from_secs(-10_000));
    sink.deliver(&batch(0, 1)).await.unwrap();
    assert_eq!(names(dir.path()).len(), 7);
}

#[tokio::test]
async fn what_a_crash_left_half_compressed_is_compressed_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let rotation = Rotation { size: Some(1), compression: Compression::Gzip, ..Rotation::default() };
    let sink = FileSink::new(&path).rotate(rotation);
    fs::write(dir.path().join("audit.log.00000004"), "{\"old\":1}\n").unwrap();
    fs::write(dir.path().join("audit.log.00000004.new"), "half").unwrap();
    sink.deliver(&batch(0, 1)).await.unwrap();
    sink.deliver(&batch(0, 1)).await.unwrap();
    names_become(dir.path(), &["audit.log", "audit.log.00000004.gz", "audit.log.00000005.gz"]).await;
    assert!(contents(&path).starts_with(b"{\"old\":1}\n"));
}

#[tokio::test]
async fn a_file_may_be_renamed_and_removed_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let sink = FileSink::new(&path);
    sink.deliver(&batch(0, 1)).await.unwrap();
    fs::rename(&path, dir.path().join("audit.log-today")).unwrap();
    sink.deliver(&batch(0, 2)).await.unwrap();
    assert_eq!(events(&fs::read(&path).unwrap()).len(), 2);
    fs::remove_file(&path).unwrap();
    sink.deliver(&batch(0, 3)).await.unwrap();
    assert_eq!(events(&fs::read(&path).unwrap()).len(), 3);
}

#[tokio::test]
async fn a_disk_that_is_full_fails_the_batch() {
    // The kernel's own full disk.
    let sink = FileSink::new("/dev/full");
    let Err(SinkError::Failed { why, .. }) = sink.deliver(&batch(0, 1)).await else { panic!("it is full") };
    assert!(why.to_string().contains("that there is room"), "{why}");
}
