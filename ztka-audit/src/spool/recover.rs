//! Finds the end of a spool when it is opened, and repairs what a crash left there.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::Path,
};

use ztka_core::AuditId;

use super::{
    frame::{self, Hash, Kind, Position, Record},
    gap::{Gap, Glance},
    log::Tail,
    reader::{Damage, Reader, find},
    segment::{self, Header},
};

/// What was found when a spool was opened.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Bytes of a record that was never finished, cut off. Nothing acknowledged is among them after a crash of the
    /// process, and nothing synced after a loss of power.
    pub torn_bytes: u64,
    /// Damage of another kind in the last segment. It is left as it is; whoever reads is told.
    pub damage: Vec<Damage>,
    /// Records that were open, and have been closed as interrupted.
    pub interrupted: usize,
    /// Set if the machine stopped while the spool was open: what had not been synced may be missing. An event says so.
    pub gap: Option<Gap>,
}

/// Reads the last segment of `dir`, or makes the first.
pub(super) fn recover(dir: &Path) -> io::Result<(Tail, Recovery)> {
    let mut recovery = Recovery::default();
    let mut sizes = BTreeMap::new();
    for number in segment::list(dir)? {
        sizes.insert(number, fs::metadata(segment::path(dir, number))?.len());
    }
    while let Some(number) = sizes.keys().next_back().copied() {
        let file = segment::open(dir, number)?;
        let size = file.metadata()?.len();
        match Header::read(&file, number)? {
            Some((header, start)) => {
                let tail = scan(dir, file, header, start, &mut recovery)?;
                sizes.insert(number, tail.length);
                return Ok((Tail { sizes, ..tail }, recovery));
            }
            // The crash came before its header was there.
            None if find(&file, Position::default(), size)?.is_none() => {
                fs::remove_file(segment::path(dir, number))?;
                sizes.remove(&number);
                recovery.torn_bytes += size;
            }
            None => {
                recovery.damage.push(Damage::Header { segment: number });
                return Ok((behind(dir, number, sizes)?, recovery));
            }
        }
    }
    Ok((first(dir, 1, sizes, AuditId::generate(), 0, Hash::default())?, recovery))
}

fn scan(dir: &Path, file: File, header: Header, start: u64, recovery: &mut Recovery) -> io::Result<Tail> {
    let number = header.number;
    let mut open = header.open;
    let (mut sequence, mut head, mut end, mut last) = (header.sequence, header.previous, start, None);
    let limit = Position { segment: number, offset: u64::MAX };
    for item in Reader::resume(dir, Position { segment: number, offset: 0 }).until(limit) {
        match item {
            Ok(record) => {
                follow(&mut open, &record);
                (sequence, head) = (record.sequence.saturating_add(1), record.hash());
                end = record.position.offset + record.length();
                last = Some(record.position);
            }
            Err(Damage::Unreadable { source, .. }) => return Err(source),
            Err(damage) => recovery.damage.push(damage),
        }
    }
    let size = file.metadata()?.len();
    if end < size {
        recovery.torn_bytes += size - end;
        file.set_len(end)?;
        file.sync_all()?;
    }
    let journal = header.journal;
    Ok(Tail { journal, number, file, start, length: end, sequence, head, open, last, sizes: BTreeMap::new() })
}

fn follow(open: &mut HashMap<AuditId, Position>, record: &Record) {
    match record.kind {
        Kind::Open => drop(open.insert(record.id, record.position)),
        Kind::Note => {}
        Kind::Close => drop(open.remove(&record.id)),
    }
}

/// A new segment behind `damaged`, whose header is lost but whose records are not.
fn behind(dir: &Path, damaged: u64, sizes: BTreeMap<u64, u64>) -> io::Result<Tail> {
    let (mut sequence, mut head, mut open) = (0, Hash::default(), HashMap::new());
    for record in Reader::resume(dir, Position { segment: damaged, offset: 0 }).flatten() {
        follow(&mut open, &record);
        (sequence, head) = (record.sequence.saturating_add(1), record.hash());
    }
    let mut journal = None;
    for number in sizes.keys().rev() {
        let header = Header::read(&segment::open(dir, *number)?, *number)?;
        journal = journal.or(header.map(|(header, _)| header.journal));
    }
    let journal = journal.unwrap_or_else(AuditId::generate);
    let mut tail = first(dir, damaged + 1, sizes, journal, sequence, head)?;
    tail.open = open;
    Ok(tail)
}

fn first(
    dir: &Path,
    number: u64,
    mut sizes: BTreeMap<u64, u64>,
    journal: AuditId,
    sequence: u64,
    previous: Hash,
) -> io::Result<Tail> {
    let header = Header { journal, number, sequence, previous, open: HashMap::new() }.encode();
    let file = segment::create(dir, number)?;
    io::Write::write_all(&mut &file, &header)?;
    file.sync_all()?;
    segment::sync_dir(dir)?;
    let length = header.len() as u64;
    sizes.insert(number, length);
    let (open, last) = (HashMap::new(), None);
    Ok(Tail { journal, number, file, start: length, length, sequence, head: previous, open, last, sizes })
}

/// What may be missing behind `tail`, when the machine has stopped meanwhile.
pub(super) fn lost(dir: &Path, tail: &Tail) -> Gap {
    let last = tail.last.and_then(|position| payload(dir, position));
    Gap::PowerLoss { from: tail.sequence, since: last.and_then(|payload| Glance::at(&payload).at) }
}

/// The payload of the record at `position`, if it is still there and whole.
pub(super) fn payload(dir: &Path, position: Position) -> Option<String> {
    let file = File::open(segment::path(dir, position.segment)).ok()?;
    let mut prefix = [0; frame::PREFIX];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut prefix, position.offset).ok()?;
    let mut bytes = vec![0; frame::PREFIX + frame::claimed(&prefix)?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, position.offset).ok()?;
    frame::decode(&bytes, position).map(|record| record.payload)
}
