//! Rotation of a file: `audit.log` becomes `audit.log.00000001`, which is compressed and, in the end, removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};

use crate::Event;

/// Digits of a rotated file's number; a longer number is longer.
const DIGITS: usize = 8;
/// A first line of more bytes is no event of ours.
const LONGEST_LINE: u64 = 1 << 20;

/// When a file is rotated, and what becomes of it then. By default never.
///
/// Rotated files are named `<file>.<number>`, with `.gz` when they are compressed; the highest number is the newest, so
/// that no clock decides what is removed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rotation {
    /// Before the next batch, when the file has this many bytes.
    pub size: Option<u64>,
    /// Before the next batch, when the first event of the file is as old as this.
    pub age: Option<SignedDuration>,
    /// How many rotated files are kept; all of them by default.
    pub keep: Option<NonZeroUsize>,
    /// How rotated files are compressed.
    pub compression: Compression,
}

/// How rotated files are compressed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As `.gz`.
    Gzip,
}

/// A rotated file.
struct Rotated {
    number: u64,
    path: PathBuf,
    is_plain: bool,
}

/// Renames the file if it is time to; true if it was.
pub(super) fn turn(path: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<bool> {
    if !is_due(path, rotation, now)? {
        return Ok(false);
    }
    let next = rotated(path)?.last().map_or(1, |newest| newest.number.saturating_add(1));
    fs::rename(path, with_suffix(path, &format!("{next:0DIGITS$}")))?;
    File::open(folder(path))?.sync_all()?;
    Ok(true)
}

fn is_due(path: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<bool> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if length == 0 {
        return Ok(false);
    }
    if rotation.size.is_some_and(|size| size <= length) {
        return Ok(true);
    }
    let Some(age) = rotation.age else { return Ok(false) };
    // Of a file that begins otherwise nothing is known.
    Ok(first_time(path)?.is_some_and(|first| age <= now.duration_since(first)))
}

/// When the first event in the file was made; what a crash has cut short is passed over.
fn first_time(path: &Path) -> io::Result<Option<Timestamp>> {
    let lines = BufReader::new(File::open(path)?.take(LONGEST_LINE)).lines();
    for line in lines.take(8).map_while(Result::ok) {
        if let Ok(event) = Event::from_json(line.as_bytes()) {
            return Ok(Some(event.stage_timestamp));
        }
    }
    Ok(None)
}

/// Removes the oldest of too many rotated files, and compresses the others.
pub(super) fn tidy(path: &Path, rotation: &Rotation) -> io::Result<()> {
    let mut all = rotated(path)?;
    let too_many = rotation.keep.map_or(0, |keep| all.len().saturating_sub(keep.get()));
    for old in all.drain(..too_many) {
        fs::remove_file(old.path)?;
    }
    match rotation.compression {
        Compression::None => Ok(()),
        Compression::Gzip => all.iter().filter(|file| file.is_plain).try_for_each(|file| gzip(&file.path)),
    }
}

/// Under its new name a file is whole; one that a crash has left half done is made again.
fn gzip(path: &Path) -> io::Result<()> {
    let (unfinished, done) = (with_suffix(path, "new"), with_suffix(path, "gz"));
    let compressed = (|| {
        let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut encoder = GzEncoder::new(out, flate2::Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::rename(&unfinished, done)
    })();
    if compressed.is_err() {
        let _ = fs::remove_file(&unfinished);
        return compressed;
    }
    fs::remove_file(path)
}

/// The rotated files, oldest first; a file that is there both compressed and not is not compressed yet.
fn rotated(path: &Path) -> io::Result<Vec<Rotated>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(path))? {
        let path_of = entry?.path();
        if let Some((number, is_plain)) = number_of(path, &path_of) {
            found.push(Rotated { number, path: path_of, is_plain });
        }
    }
    found.sort_by_key(|file| (file.number, !file.is_plain));
    found.dedup_by_key(|file| file.number);
    Ok(found)
}

/// The number of a rotated file, and whether it is as it was written.
fn number_of(path: &Path, candidate: &Path) -> Option<(u64, bool)> {
    let rest = candidate.file_name()?.to_str()?.strip_prefix(path.file_name()?.to_str()?)?.strip_prefix('.')?;
    let (digits, is_plain) = rest.strip_suffix(".gz").map_or((rest, true), |digits| (digits, false));
    let is_number = DIGITS <= digits.len() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().map(|number| (number, is_plain))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
