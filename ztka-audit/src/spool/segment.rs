//! Files of a spool: their names, and the header that ties each to the one before it.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use ztka_core::AuditId;

use super::frame::{self, Hash, PREFIX, Position};

const MAGIC: &[u8; 8] = b"ZTKASPL1";
/// A header lists the records open when its segment began; half a million of them fit.
const MAX_HEADER: usize = 64 * 1024 * 1024;

/// No spool comes so far: a file with a higher number is none of its segments, so that there is always a next one.
const HIGHEST: u64 = u64::MAX / 2;

/// What a segment begins with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// Names the chain: made when a spool is.
    pub(super) journal: AuditId,
    /// The segment's own number; a renamed file is noticed.
    pub(super) number: u64,
    /// Sequence of the first record.
    pub(super) sequence: u64,
    /// Hash of the record before the first.
    pub(super) previous: Hash,
    /// Records open at the beginning, and where they were opened.
    pub(super) open: HashMap<AuditId, Position>,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        // Ids, numbers and hashes always serialise.
        let json = serde_json::to_vec(self).unwrap_or_default();
        frame::framed(&mut out, |out| out.extend_from_slice(&json));
        out
    }

    /// Reads the header of segment `number`, and where its records begin.
    pub(super) fn read(file: &File, number: u64) -> io::Result<Option<(Self, u64)>> {
        let size = file.metadata()?.len();
        let mut start = [0; 8 + PREFIX];
        if size < start.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut start, 0)?;
        let Some((magic, prefix)) = start.split_first_chunk::<8>() else { return Ok(None) };
        let Some((length, _)) = prefix.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let end = (length as u64).saturating_add(start.len() as u64);
        if magic != MAGIC || length > MAX_HEADER || size < end {
            return Ok(None);
        }
        let mut bytes = vec![0; PREFIX + length];
        file.read_exact_at(&mut bytes, MAGIC.len() as u64)?;
        let header = frame::content(&bytes, length).and_then(|json| serde_json::from_slice::<Self>(json).ok());
        Ok(header.filter(|header| header.number == number).map(|header| (header, end)))
    }
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.segment"))
}

/// Numbers of the segments in `dir`, in order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        let number = number.filter(|number| number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|number| number.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *number <= HIGHEST));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn create(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path(dir, number))
}

pub(super) fn open(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).open(path(dir, number))
}

/// Creates `dir` for the owner alone, if it is not there.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes additions to and removals from `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
