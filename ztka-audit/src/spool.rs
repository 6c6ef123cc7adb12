//! Records on disk: numbered segments of checksummed records in one hash chain.
//!
//! ```text
//! <dir>/lock                                   one process at a time
//! <dir>/mark.json                              whether the last one could close the spool
//! <dir>/00000000000000000001.segment           "ZTKASPL1", header, record, record, …
//! <dir>/00000000000000000002.segment           its header names the hash of the record before and what was open
//! <dir>/cursor-<consumer>.json                 how far a consumer has come
//!
//! frame   = length of content: u32 LE │ CRC32C of length and content: u32 LE │ content
//! header  = frame of JSON
//! record  = frame of sequence: u64 LE │ SHA-256 of the record before │ kind: u8 │ Audit-ID: 36 bytes │ payload
//! ```

mod commit;
mod cursor;
mod frame;
mod gap;
mod log;
mod mark;
mod reader;
mod recover;
mod segment;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;
use ztka_core::{AuditId, Clock};

pub(crate) use self::frame::{framed, unframed};
use self::{
    commit::Shared,
    cursor::Cursors,
    log::{Disk, Entry, FileSystem, Limits, Log},
    mark::Mark,
};
pub use self::{
    frame::{Hash, Kind, NotAHash, Position, Record},
    gap::Gap,
    reader::{Damage, Reader},
    recover::Recovery,
};
use crate::{Durability, End, Event, Journal, Opening, Stage, Unrecorded};

/// Where a spool is, how large it may become, and who takes from it.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    dir: PathBuf,
    quota: u64,
    segment: u64,
    consumers: Vec<String>,
    keep: Option<Duration>,
    when_full: WhenFull,
    window: Duration,
    sync_all: bool,
}

/// What becomes of new records when a spool has reached its quota, and nobody has taken what is in it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// They are refused, and with them the requests: nothing goes on unrecorded.
    #[default]
    Refuse,
    /// The oldest segment loses its events of level Metadata, and an event ([`Gap::Dropped`]) counts them and says which they
    /// were. Events of a higher level and what is open are kept; where those are most of it, records are refused all the same.
    DropMetadata,
}

impl SpoolOptions {
    /// A spool in `dir`, which is made for its owner alone if it is not there: 1 GiB in segments of 32 MiB, nobody
    /// takes from it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            quota: 1 << 30,
            segment: 32 << 20,
            consumers: Vec::new(),
            keep: None,
            when_full: WhenFull::Refuse,
            window: Duration::ZERO,
            sync_all: false,
        }
    }

    /// At this many bytes segments are removed that every consumer has taken; without one, new records are refused.
    #[must_use]
    pub fn quota(mut self, bytes: u64) -> Self {
        self.quota = bytes;
        self
    }

    /// Bytes of a segment; at most a quarter of the quota is used.
    #[must_use]
    pub fn segment(mut self, bytes: u64) -> Self {
        self.segment = bytes;
        self
    }

    /// What is older goes although there is room, once every consumer has taken it; with [`WhenFull::DropMetadata`] also what
    /// nobody has taken, as at the quota; without consumers whatever is older. Looked at segment by segment: a record stays
    /// at most about twice as long.
    #[must_use]
    pub fn keep(mut self, age: Duration) -> Self {
        self.keep = Some(age);
        self
    }

    /// What becomes of new records at the quota: refused by default.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// A sync waits so long for more records to go with it (group commit). Zero by default: whoever comes while one sync
    /// goes on shares the next.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Every record is synced before its request goes on, not only those that ask for it.
    #[must_use]
    pub fn sync_all(mut self, sync_all: bool) -> Self {
        self.sync_all = sync_all;
        self
    }

    /// `name` takes from the spool: nothing that it has not taken is removed. Lower-case letters, digits and hyphens.
    #[must_use]
    pub fn consumer(mut self, name: impl Into<String>) -> Self {
        self.consumers.push(name.into());
        self
    }
}

/// A spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it open.
    #[error("another process uses the audit spool in {0}; give each process a directory of its own")]
    InUse(PathBuf),
    /// The name of a consumer cannot be that of a file.
    #[error("{0:?} cannot name a consumer of the audit spool; use lower-case letters, digits and hyphens")]
    ConsumerName(String),
    /// The directory or a file in it cannot be used.
    #[error(
        "the audit spool in {dir} cannot be opened; check that the directory is this user's and that there is room"
    )]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How a spool is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct SpoolStatus {
    /// Names the hash chain.
    pub journal: AuditId,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records so far.
    pub records: u64,
    /// Requests whose record is open.
    pub open: usize,
    /// Behind the last record.
    pub end: Position,
    /// How far each consumer has come.
    pub consumers: BTreeMap<String, Position>,
    /// Bytes that each consumer has not taken yet.
    pub behind: BTreeMap<String, u64>,
    /// True while records cannot be opened.
    pub failing: bool,
    /// Events after a request's first that had to be given up; their records will be closed as interrupted.
    pub lost: u64,
}

/// The payloads that a spool writes by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wording {
    /// Makes the last payload of a record from its first, when the process that opened it is gone.
    pub(crate) interrupted: fn(AuditId, Option<&str>, Timestamp) -> Vec<u8>,
    /// Says what is missing.
    pub(crate) gap: fn(&Gap, Timestamp) -> (AuditId, Vec<u8>),
}

/// Those of events.
const EVENTS: Wording = Wording {
    interrupted,
    gap: |gap, now| {
        let event = gap.event(now);
        (event.audit_id, event.to_json())
    },
};

/// A journal on disk. Cheap to clone; the last clone to be dropped writes what waits, syncs, and blocks for it.
#[derive(Clone, Debug)]
pub struct Spool {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    dir: PathBuf,
    shared: Arc<Shared>,
    threads: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
    sync_all: bool,
    boot: Option<String>,
    _lock: File,
}

impl Spool {
    /// Opens or makes a spool of [`Event`]s; repairs its end, and closes what was open as interrupted. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used, or another process uses it.
    pub fn open(options: SpoolOptions, clock: &dyn Clock) -> Result<(Self, Recovery), SpoolError> {
        Self::open_as(options, clock, EVENTS, Arc::new(FileSystem))
    }

    pub(crate) fn open_receipts(
        options: SpoolOptions,
        clock: &dyn Clock,
        wording: Wording,
    ) -> Result<(Self, Recovery), SpoolError> {
        Self::open_as(options, clock, wording, Arc::new(FileSystem))
    }

    fn open_as(
        options: SpoolOptions,
        clock: &dyn Clock,
        wording: Wording,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovery), SpoolError> {
        let SpoolOptions { dir, quota, segment, consumers, keep, when_full, window, sync_all } = options;
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if let Some(bad) = consumers.iter().find(|name| name.is_empty() || !name.bytes().all(fits)) {
            return Err(SpoolError::ConsumerName(bad.clone()));
        }
        let failed = |source| SpoolError::Io { dir: dir.clone(), source };
        segment::make_dir(&dir).map_err(failed)?;
        let lock = lock(&dir)?;
        let (left, boot) = (Mark::read(&dir), disk.boot());
        let (tail, mut recovery) = recover::recover(&dir).map_err(failed)?;
        if left.is_some_and(|left| left.may_have_lost(boot.as_deref())) {
            recovery.gap = Some(recover::lost(&dir, &tail));
        }
        let cursors = Arc::new(Cursors::read(&dir, &consumers));
        cursors.confine(Position { segment: tail.number, offset: tail.length });
        let limits = Limits {
            segment: segment.min(quota / 4),
            quota,
            reserve: (quota / 8).max(64 * 1024),
            keep,
            drops: when_full == WhenFull::DropMetadata,
        };
        let log = Log::new(dir.clone(), disk.clone(), cursors.clone(), limits, wording, tail).map_err(failed)?;

        let open: Vec<_> = log.open().iter().map(|(id, position)| (*id, *position)).collect();
        recovery.interrupted = open.len();
        let shared = Arc::new(Shared::new(log, disk, cursors, window, keep.is_some()));
        if let Some(gap) = &recovery.gap {
            // On the disk before the mark says that the spool is open anew, or another loss of power would hide this one.
            let (id, payload) = (wording.gap)(gap, clock.now());
            shared.write_first(Entry { kind: Kind::Close, id, payload, ticket: None }).map_err(failed)?;
        }
        Mark { boot: boot.clone(), open: true }.write(&dir).map_err(failed)?;
        for (id, position) in open {
            let payload = (wording.interrupted)(id, recover::payload(&dir, position).as_deref(), clock.now());
            shared.note(Entry { kind: Kind::Close, id, payload, ticket: None });
        }
        let run = |name: &str, work: fn(&Shared)| {
            let shared = shared.clone();
            thread::Builder::new().name(name.into()).spawn(move || work(&shared))
        };
        let writer = run("audit-write", Shared::write_loop).map_err(failed)?;
        let syncer = run("audit-sync", Shared::sync_loop).map_err(|error| {
            shared.stop_writer();
            failed(error)
        })?;
        let threads = Mutex::new(Some((writer, syncer)));
        let handle = Handle { dir, shared, threads, sync_all, boot, _lock: lock };
        Ok((Self { handle: Arc::new(handle) }, recovery))
    }

    /// Appends the first record of a request.
    pub(crate) fn begin(&self, id: AuditId, payload: Vec<u8>, durability: Durability) -> Opening {
        let durability = if self.handle.sync_all { Durability::Synced } else { durability };
        self.handle.shared.open(Entry { kind: Kind::Open, id, payload, ticket: None }, durability)
    }

    /// Appends a later one, soon.
    pub(crate) fn append(&self, kind: Kind, id: AuditId, payload: Vec<u8>) {
        self.handle.shared.note(Entry { kind, id, payload, ticket: None });
    }

    /// Where the spool is.
    pub fn dir(&self) -> &Path {
        &self.handle.dir
    }

    /// How the spool is.
    pub fn status(&self) -> SpoolStatus {
        let shared = &self.handle.shared;
        let log = shared.log();
        let consumers = shared.cursors.all();
        SpoolStatus {
            journal: log.journal(),
            bytes: log.bytes(),
            records: log.sequence(),
            open: log.open().len(),
            end: log.end(),
            behind: consumers.iter().map(|(name, place)| (name.clone(), log.bytes_from(*place))).collect(),
            consumers,
            failing: shared.failing(),
            lost: shared.lost(),
        }
    }

    /// Returns the end of what is written, when everything up to there is on the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn sync(&self) -> Result<Position, Unrecorded> {
        let shared = &self.handle.shared;
        let end = *shared.written().borrow();
        let synced = shared.barrier().await;
        synced.unwrap_or_else(|_| Err(Unrecorded::new("the audit spool is closed")))?;
        Ok(end)
    }

    /// Has the events that are still in memory written now, not within milliseconds. Returns at once.
    pub fn hurry(&self) {
        self.handle.shared.hurry();
    }

    /// The end of what is written, whenever it changes.
    pub fn written(&self) -> watch::Receiver<Position> {
        self.handle.shared.written()
    }

    /// How far consumer `name` has come; none if the spool was opened without it.
    pub fn cursor(&self, name: &str) -> Option<Position> {
        self.handle.shared.cursors.place(name)
    }

    /// Says that consumer `name` has taken everything before `place`. Survives the process; a loss of power may take it
    /// back to an earlier place in the same segment. Blocks.
    ///
    /// # Errors
    /// The cursor cannot be written.
    pub fn set_cursor(&self, name: &str, place: Position) -> io::Result<()> {
        self.handle.shared.cursors.set(name, place)
    }
}

impl Journal for Spool {
    fn open(&self, event: &Event, durability: Durability) -> Opening {
        self.begin(event.audit_id, event.to_json(), durability)
    }

    fn note(&self, event: &Event) {
        let kind = if event.stage.is_last() { Kind::Close } else { Kind::Note };
        self.append(kind, event.audit_id, event.to_json());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((writer, syncer)) = threads {
            self.shared.stop_writer();
            let _ = writer.join();
            // Kept on the syncer's list until it has done its last.
            let mut last = self.shared.barrier();
            self.shared.stop_syncer();
            let _ = syncer.join();
            if matches!(last.try_recv(), Ok(Ok(()))) {
                // Without it the next start takes this for a crash.
                let _ = Mark { boot: self.boot.clone(), open: false }.write(&self.dir);
            }
        }
    }
}

fn lock(dir: &Path) -> Result<File, SpoolError> {
    let failed = |source| SpoolError::Io { dir: dir.to_owned(), source };
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The event that closes the record of `opened` when its process is gone.
fn interrupted(id: AuditId, opened: Option<&str>, now: Timestamp) -> Vec<u8> {
    let opened = opened.and_then(|json| Event::from_json(json.as_bytes()).ok());
    let mut event = opened.unwrap_or_else(|| Event::new(id, Stage::ResponseComplete, now));
    event.stage = Stage::ResponseComplete;
    event.stage_timestamp = now;
    event.annotations.set("end", End::Interrupted.as_str());
    event.to_json()
}

#[cfg(test)]
mod tests;
