//! Reads a spool from any place on, tells what is damaged, and goes on behind it.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    frame::{self, Hash, PREFIX, Position, Record},
    segment::{self, Header},
};

/// Bytes read from a file at a time.
const CHUNK: usize = 256 * 1024;

/// Something in a spool that is not as it was written, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file could not be read.
    #[error("segment {segment} of the spool cannot be read; check the disk and the file's owner")]
    Unreadable {
        /// Number of the segment.
        segment: u64,
        /// Why.
        source: io::Error,
    },
    /// The header of a segment is not valid.
    #[error("the header of segment {segment} is damaged")]
    Header {
        /// Number of the segment.
        segment: u64,
    },
    /// Bytes that are no record, before the next one that is.
    #[error("{bytes} bytes of segment {} are damaged from byte {} on", at.segment, at.offset)]
    Bytes {
        /// Where they begin.
        at: Position,
        /// How many they are.
        bytes: u64,
    },
    /// Records are not there.
    #[error("records {from} to {} are missing before byte {} of segment {}", to - 1, at.offset, at.segment)]
    Missing {
        /// Where they are found to be: before this place.
        at: Position,
        /// The first one missing.
        from: u64,
        /// The first one after it that is there.
        to: u64,
    },
    /// A record does not follow from the one before: something was changed or exchanged.
    #[error("the hash chain is broken at record {sequence}, byte {} of segment {}", at.offset, at.segment)]
    Chain {
        /// Where that record is; byte 0 if it is a segment that does not go on from the one before.
        at: Position,
        /// The record that names another predecessor.
        sequence: u64,
    },
}

impl Damage {
    /// Where it is; of a whole segment byte 0 of it.
    pub fn place(&self) -> Position {
        match self {
            Self::Unreadable { segment, .. } | Self::Header { segment } => Position { segment: *segment, offset: 0 },
            Self::Bytes { at, .. } | Self::Missing { at, .. } | Self::Chain { at, .. } => *at,
        }
    }

    /// The file that it is in, of a spool in `dir`.
    pub fn file(&self, dir: &Path) -> PathBuf {
        segment::path(dir, self.place().segment)
    }
}

/// Iterates over the records of a spool; damage is an `Err`, after which reading goes on.
///
/// `None` at the end is not final: a reader of a spool that is being written goes on when there is more.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    at: Position,
    limit: Option<Position>,
    file: Option<Open>,
    expected: Option<(u64, Hash)>,
    ready: VecDeque<Result<Record, Damage>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    chunk: Vec<u8>,
    start: u64,
}

impl Open {
    /// Up to `length` bytes from `offset` on.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let held = |open: &Self| {
            let from = usize::try_from(offset.checked_sub(open.start)?).ok()?;
            (from.checked_add(length)? <= open.chunk.len()).then_some(from)
        };
        let from = match held(self) {
            Some(from) => from,
            None => {
                self.chunk.resize(length.max(CHUNK), 0);
                let mut filled = 0;
                while let Some(rest) = self.chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    match self.file.read_at(rest, offset + filled as u64)? {
                        0 => break,
                        read => filled += read,
                    }
                }
                self.chunk.truncate(filled);
                self.start = offset;
                0
            }
        };
        let to = (from + length).min(self.chunk.len());
        Ok(self.chunk.get(from..to).unwrap_or_default())
    }
}

impl Reader {
    /// Reads the spool in `dir` from its first record on.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self::resume(dir, Position::default())
    }

    /// Reads from `at` on, which is where a record begins or the beginning of a segment.
    pub fn resume(dir: impl AsRef<Path>, at: Position) -> Self {
        let dir = dir.as_ref().to_owned();
        Self { dir, at, limit: None, file: None, expected: None, ready: VecDeque::new() }
    }

    /// Reads nothing from `limit` on.
    #[must_use]
    pub fn until(mut self, limit: Position) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Where to resume so that the next record is the next one again.
    pub fn position(&self) -> Position {
        let ready = self.ready.iter().flatten().next();
        ready.map_or(self.at, |record| record.position)
    }

    fn advance(&mut self) -> io::Result<bool> {
        if self.limit.is_some_and(|limit| limit <= self.at) {
            return Ok(false);
        }
        if self.file.is_none() {
            // What comes behind a header may be behind the limit: looked at anew.
            return self.enter(self.at.segment);
        }
        let Some(open) = &mut self.file else { return Ok(false) };
        let (at, mut whole) = (self.at, None);
        let length = frame::claimed(open.bytes(at.offset, PREFIX)?).map(|length| PREFIX + length);
        if let Some(length) = length {
            whole = frame::decode(open.bytes(at.offset, length)?, at);
        }
        if let Some(record) = whole {
            self.at.offset += record.length();
            self.deliver(record);
            return Ok(true);
        }
        self.stuck()
    }

    fn deliver(&mut self, record: Record) {
        if let Some((sequence, hash)) = self.expected {
            let at = record.position;
            if record.sequence > sequence {
                self.ready.push_back(Err(Damage::Missing { at, from: sequence, to: record.sequence }));
            } else if record.sequence < sequence || record.previous != hash {
                self.ready.push_back(Err(Damage::Chain { at, sequence: record.sequence }));
            }
        }
        self.expected = Some((record.sequence.saturating_add(1), record.hash()));
        self.ready.push_back(Ok(record));
    }

    /// There is no whole record here: it is the end of a segment, the end of all, or damage.
    fn stuck(&mut self) -> io::Result<bool> {
        let Some(open) = &self.file else { return Ok(false) };
        let mut size = open.file.metadata()?.len();
        let next = segment::list(&self.dir)?.into_iter().find(|number| *number > self.at.segment);
        if let Some(limit) = self.limit.filter(|limit| limit.segment == self.at.segment) {
            size = size.min(limit.offset);
        }
        if self.at.offset < size {
            match find(&open.file, self.at, size)? {
                Some(found) => {
                    self.ready.push_back(Err(Damage::Bytes { at: self.at, bytes: found - self.at.offset }));
                    self.at.offset = found;
                    return Ok(true);
                }
                // Perhaps a record that is being written.
                None if next.is_none() => return Ok(false),
                None => {
                    self.ready.push_back(Err(Damage::Bytes { at: self.at, bytes: size - self.at.offset }));
                    self.at.offset = size;
                }
            }
        }
        match next {
            Some(next) if self.limit.is_none_or(|limit| next <= limit.segment) => {
                self.at = Position { segment: next, offset: 0 };
                self.file = None;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Opens segment `number`, or the first one after it.
    fn enter(&mut self, number: u64) -> io::Result<bool> {
        let Some(found) = segment::list(&self.dir)?.into_iter().find(|found| *found >= number) else {
            return Ok(false);
        };
        if found != number {
            self.at = Position { segment: found, offset: 0 };
        }
        let file = File::open(segment::path(&self.dir, found))?;
        match Header::read(&file, found)? {
            Some((header, start)) if self.at.offset < start => {
                self.at.offset = start;
                let at = Position { segment: found, offset: 0 };
                let (sequence, hash) = *self.expected.get_or_insert((header.sequence, header.previous));
                if header.sequence > sequence {
                    self.ready.push_back(Err(Damage::Missing { at, from: sequence, to: header.sequence }));
                } else if header.sequence < sequence || header.previous != hash {
                    self.ready.push_back(Err(Damage::Chain { at, sequence: header.sequence }));
                }
                self.expected = Some((header.sequence, header.previous));
            }
            Some(_) => {}
            None if self.at.offset == 0 => {
                let size = file.metadata()?.len();
                let Some(first) = find(&file, self.at, size)? else {
                    let more = segment::list(&self.dir)?.into_iter().any(|number| number > found);
                    if more {
                        self.ready.push_back(Err(Damage::Header { segment: found }));
                        self.at = Position { segment: found + 1, offset: 0 };
                    }
                    // The last one may be in the making.
                    return Ok(false);
                };
                self.ready.push_back(Err(Damage::Header { segment: found }));
                self.at.offset = first;
            }
            None => {}
        }
        self.file = Some(Open { file, chunk: Vec::new(), start: 0 });
        Ok(true)
    }
}

impl Iterator for Reader {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return self.ready.pop_front(),
                Err(source) => {
                    let segment = self.at.segment;
                    self.at = Position { segment: segment + 1, offset: 0 };
                    self.file = None;
                    return Some(Err(Damage::Unreadable { segment, source }));
                }
            }
        }
    }
}

/// Offset of the first whole record behind `at`. The file's size bounds what is held in memory.
pub(super) fn find(file: &File, at: Position, size: u64) -> io::Result<Option<u64>> {
    let length = usize::try_from(size.saturating_sub(at.offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at.offset)?;
    let found = (1..length).find(|skip| {
        let rest = bytes.get(*skip..).unwrap_or_default();
        frame::claimed(rest).is_some() && frame::decode(rest, at).is_some()
    });
    Ok(found.map(|skip| at.offset + skip as u64))
}
