//! The end of a spool that is written to: appends whole batches or nothing, begins new segments, frees old ones.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::oneshot;
use ztka_core::AuditId;

use super::{
    cursor::Cursors,
    frame::{self, Hash, Kind, Position},
    segment::{self, Header},
};
use crate::{Durability, Unrecorded};

/// What a spool asks of its disk; tests have one that is full or broken.
pub(super) trait Disk: Send + Sync + fmt::Debug + 'static {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
    fn truncate(&self, file: &File, length: u64) -> io::Result<()>;
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
    pub(super) sizes: BTreeMap<u64, u64>,
}

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) segment: u64,
    pub(super) quota: u64,
    /// Room above the quota for closing what is open.
    pub(super) reserve: u64,
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
}

impl Log {
    pub(super) fn new(
        dir: PathBuf,
        disk: Arc<dyn Disk>,
        cursors: Arc<Cursors>,
        limits: Limits,
        tail: Tail,
    ) -> io::Result<Self> {
        let file = Arc::new(tail.file.try_clone()?);
        Ok(Self { dir, disk, cursors, limits, tail, file, torn: false, doubtful: false, buffer: Vec::new() })
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
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(segment::path(&self.dir, number));
                Err(error)
            }
        }
    }

    /// Removes the oldest segments that every consumer has passed, until `needed` more bytes are `allowed`.
    fn free(&mut self, needed: u64, allowed: u64) -> Result<(), Failure> {
        while self.bytes() + needed > allowed {
            let oldest = self.tail.sizes.keys().next().copied().filter(|oldest| *oldest != self.tail.number);
            let last = self.cursors.last();
            let quota = self.limits.quota;
            let Some((name, place)) = last else {
                let text = format!(
                    "the audit spool has reached its quota of {quota} bytes and nobody takes from it; configure a consumer or raise the quota"
                );
                return Err(Failure::Full(text));
            };
            let Some(oldest) = oldest.filter(|oldest| *oldest < place.segment) else {
                let text = format!(
                    "the audit spool has reached its quota of {quota} bytes and its consumer {name:?} is behind; see why it is, or raise the quota"
                );
                return Err(Failure::Full(text));
            };
            fs::remove_file(segment::path(&self.dir, oldest))?;
            self.tail.sizes.remove(&oldest);
        }
        Ok(())
    }
}
