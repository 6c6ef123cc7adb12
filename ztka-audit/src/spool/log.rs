//! The end of a spool that is written to: appends whole batches or nothing, begins new segments, frees old ones.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;
use ztka_core::AuditId;

use super::{
    Wording,
    cursor::Cursors,
    frame::{self, Hash, Kind, Position},
    gap::{Gap, Glance},
    mark,
    reader::{Damage, Reader},
    segment::{self, Header},
};
use crate::{Durability, Unrecorded};

/// What a spool asks of its disk; tests have one that is full or broken.
pub(super) trait Disk: Send + Sync + fmt::Debug + 'static {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
    fn truncate(&self, file: &File, length: u64) -> io::Result<()>;

    /// Names this run of the machine: what was written in another one and not synced may be gone.
    fn boot(&self) -> Option<String> {
        mark::boot()
    }
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn append(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }
}

/// One record to be appended.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) id: AuditId,
    pub(super) payload: Vec<u8>,
    pub(super) ticket: Option<Ticket>,
}

/// Somebody waits for a record.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) durability: Durability,
    pub(super) done: oneshot::Sender<Result<(), Unrecorded>>,
}

/// Why a batch was not appended; nothing of it was.
#[derive(Debug)]
pub(super) enum Failure {
    /// It takes longer than the caller may block.
    Slow,
    /// The quota is reached.
    Full(String),
    /// The disk says no.
    Disk(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// What [`recover`](super::recover) found, and [`Log`] goes on from.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) journal: AuditId,
    pub(super) number: u64,
    pub(super) file: File,
    /// Bytes of the header.
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) sequence: u64,
    pub(super) head: Hash,
    pub(super) open: HashMap<AuditId, Position>,
    /// The last record that was there when the spool was opened, if its segment had one.
    pub(super) last: Option<Position>,
    pub(super) sizes: BTreeMap<u64, u64>,
}

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) segment: u64,
    pub(super) quota: u64,
    /// Room above the quota for closing what is open.
    pub(super) reserve: u64,
    /// What has become older than this need not be kept.
    pub(super) keep: Option<Duration>,
    /// At the quota the oldest records of level Metadata are dropped, taken or not.
    pub(super) drops: bool,
}

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    cursors: Arc<Cursors>,
    limits: Limits,
    tail: Tail,
    file: Arc<File>,
    /// Bytes behind `tail.length` could not be taken back.
    torn: bool,
    /// What is in the current segment may not be on the disk although it was asked for.
    doubtful: bool,
    buffer: Vec<u8>,
    wording: Wording,
    /// When the current segment was begun, or opened.
    begun: SystemTime,
}

impl Log {
    pub(super) fn new(
        dir: PathBuf,
        disk: Arc<dyn Disk>,
        cursors: Arc<Cursors>,
        limits: Limits,
        wording: Wording,
        tail: Tail,
    ) -> io::Result<Self> {
        let file = Arc::new(tail.file.try_clone()?);
        let (buffer, begun) = (Vec::new(), SystemTime::now());
        Ok(Self { dir, disk, cursors, limits, tail, file, torn: false, doubtful: false, buffer, wording, begun })
    }

    /// Behind the last record.
    pub(super) fn end(&self) -> Position {
        Position { segment: self.tail.number, offset: self.tail.length }
    }

    /// The segment that is written to.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn journal(&self) -> AuditId {
        self.tail.journal
    }

    pub(super) fn sequence(&self) -> u64 {
        self.tail.sequence
    }

    pub(super) fn open(&self) -> &HashMap<AuditId, Position> {
        &self.tail.open
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tail.sizes.values().sum::<u64>()
    }

    /// Bytes from `place` on.
    pub(super) fn bytes_from(&self, place: Position) -> u64 {
        let all: u64 = self.tail.sizes.range(place.segment..).map(|(_, size)| size).sum();
        let passed = if self.tail.sizes.contains_key(&place.segment) { place.offset } else { 0 };
        all.saturating_sub(passed)
    }

    /// A sync of the current segment failed: the kernel may have dropped what it could not write, and a second sync
    /// would not say so. The next append begins a new segment.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Appends all of `entries` or nothing. With `patient` false it never does more than one write.
    pub(super) fn append(&mut self, entries: &[Entry], patient: bool) -> Result<(), Failure> {
        if self.torn {
            self.disk.truncate(&self.file, self.tail.length)?;
            self.torn = false;
        }
        let estimate: u64 = entries.iter().map(|entry| entry.payload.len() as u64 + 96).sum();
        let opens = entries.iter().any(|entry| entry.kind == Kind::Open);
        let allowed = self.limits.quota + if opens { 0 } else { self.limits.reserve };
        let rotates = self.doubtful || self.is_full(estimate);
        if rotates || self.bytes() + estimate > allowed {
            if !patient {
                return Err(Failure::Slow);
            }
            self.free(estimate, allowed)?;
            if rotates {
                self.rotate()?;
            }
        }
        self.write(entries)
    }

    /// A segment has room for so many bytes behind its header, which is long when much was open, and for one batch.
    fn is_full(&self, more: u64) -> bool {
        let records = self.tail.length.saturating_sub(self.tail.start);
        records > 0 && records + more > self.limits.segment
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let (mut sequence, mut head) = (self.tail.sequence, self.tail.head);
        self.buffer.clear();
        for entry in entries {
            head = frame::encode(&mut self.buffer, sequence, &head, entry.kind, entry.id, &entry.payload);
            // Only what a spoilt record claims comes so far.
            sequence = sequence.saturating_add(1);
        }
        if let Err(error) = self.disk.append(&self.file, &self.buffer) {
            self.torn = self.disk.truncate(&self.file, self.tail.length).is_err();
            return Err(error.into());
        }
        let mut at = self.end();
        for entry in entries {
            match entry.kind {
                Kind::Open => drop(self.tail.open.insert(entry.id, at)),
                Kind::Note => {}
                Kind::Close => drop(self.tail.open.remove(&entry.id)),
            }
            at.offset += frame::length(entry.payload.len());
        }
        (self.tail.sequence, self.tail.head, self.tail.length) = (sequence, head, at.offset);
        self.tail.sizes.insert(self.tail.number, at.offset);
        Ok(())
    }

    /// Makes the current segment durable and begins the next one.
    fn rotate(&mut self) -> io::Result<()> {
        if let Err(error) = self.disk.sync(&self.file)
            && !self.doubtful
        {
            self.doubtful = true;
            return Err(error);
        }
        let number = self.tail.number + 1;
        let file = segment::create(&self.dir, number)?;
        let header = Header {
            journal: self.tail.journal,
            number,
            sequence: self.tail.sequence,
            previous: self.tail.head,
            open: self.tail.open.clone(),
        };
        let header = header.encode();
        let begun = (|| {
            self.disk.append(&file, &header)?;
            self.disk.sync(&file)?;
            segment::sync_dir(&self.dir)?;
            file.try_clone()
        })();
        match begun {
            Ok(same) => {
                let length = header.len() as u64;
                self.file = Arc::new(file);
                (self.tail.file, self.tail.number) = (same, number);
                (self.tail.start, self.tail.length) = (length, length);
                self.tail.sizes.insert(number, length);
                self.doubtful = false;
                self.begun = SystemTime::now();
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(segment::path(&self.dir, number));
                Err(error)
            }
        }
    }

    /// Removes the oldest segments that every consumer has passed, until `needed` more bytes are `allowed`; where that is not
    /// enough, drops records if that is what is asked for at the quota.
    fn free(&mut self, needed: u64, allowed: u64) -> Result<(), Failure> {
        while self.bytes() + needed > allowed {
            let last = self.cursors.last();
            let oldest = self.oldest();
            let taken = oldest.filter(|oldest| last.as_ref().is_some_and(|(_, place)| *oldest < place.segment));
            if let Some(taken) = taken {
                self.remove(taken)?;
                continue;
            }
            if self.limits.drops
                && let Some(oldest) = oldest
                && self.drop_records(oldest)?
            {
                continue;
            }
            let quota = self.limits.quota;
            return Err(Failure::Full(match last {
                None => format!(
                    "the audit spool has reached its quota of {quota} bytes and nobody takes from it; configure a consumer or raise the quota"
                ),
                Some((name, _)) => format!(
                    "the audit spool has reached its quota of {quota} bytes and its consumer {name:?} is behind; see why it is, or raise the quota"
                ),
            }));
        }
        Ok(())
    }

    /// The oldest segment, if it is not the one that is written to.
    fn oldest(&self) -> Option<u64> {
        self.tail.sizes.keys().next().copied().filter(|oldest| *oldest != self.tail.number)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        fs::remove_file(segment::path(&self.dir, number))?;
        self.tail.sizes.remove(&number);
        Ok(())
    }

    /// Drops what segment `number` has of level Metadata. Whatever else it has, and the beginnings of what is still open, is
    /// appended anew first, with an event that counts what is missing; then the file goes. False where that would gain
    /// little.
    fn drop_records(&mut self, number: u64) -> Result<bool, Failure> {
        let (mut kept, mut bytes, mut dropped) = (Vec::new(), 0, None);
        let segment = Position { segment: number, offset: 0 };
        for item in Reader::resume(&self.dir, segment).until(Position { offset: u64::MAX, ..segment }) {
            let record = match item {
                Ok(record) => record,
                Err(Damage::Unreadable { source, .. }) => return Err(source.into()),
                Err(_) => continue,
            };
            let is_open = record.kind == Kind::Open && self.tail.open.get(&record.id) == Some(&record.position);
            let glance = Glance::at(&record.payload);
            if glance.is_droppable() && !is_open {
                Gap::add(&mut dropped, record.sequence, glance.at);
                continue;
            }
            bytes += record.length();
            // What was opened and has ended since must not be open again.
            let kind = if record.kind == Kind::Open && !is_open { Kind::Note } else { record.kind };
            kept.push(Entry { kind, id: record.id, payload: record.payload.into_bytes(), ticket: None });
        }
        let size = self.tail.sizes.get(&number).copied().unwrap_or_default();
        let Some(gap) = dropped.filter(|_| bytes < size / 2) else { return Ok(false) };
        tracing::warn!(?gap, "the audit spool is full: its oldest records of level Metadata are dropped");
        let (id, payload) = (self.wording.gap)(&gap, jiff::Timestamp::try_from(self.begun).unwrap_or_default());
        kept.push(Entry { kind: Kind::Close, id, payload, ticket: None });
        self.write(&kept)?;
        if let Err(error) = self.disk.sync(&self.file) {
            self.doubtful = true;
            return Err(error.into());
        }
        self.remove(number)?;
        Ok(true)
    }

    /// Lets go of what is older than it has to be kept, as of `now`: what every consumer has taken or, where records may be
    /// dropped, what none of them has. Begins a new segment if the current one has become old.
    pub(super) fn expire(&mut self, now: SystemTime) -> Result<(), Failure> {
        let Some(keep) = self.limits.keep else { return Ok(()) };
        let is_old = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age > keep);
        if is_old(self.begun) && self.tail.length > self.tail.start {
            self.rotate()?;
        }
        while let Some(oldest) = self.oldest() {
            if !is_old(fs::metadata(segment::path(&self.dir, oldest))?.modified()?) {
                break;
            }
            match self.cursors.last() {
                Some((_, place)) if place.segment <= oldest => {
                    if !self.limits.drops || !self.drop_records(oldest)? {
                        break;
                    }
                }
                _ => self.remove(oldest)?,
            }
        }
        Ok(())
    }
}
