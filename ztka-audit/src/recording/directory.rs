//! Recordings as files of a directory, for whoever keeps them elsewhere.

use std::{
    fs::{self, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::task;
use ztka_core::BoxError;

use super::{
    chunk::{About, Chunk, Last, RecordingChain},
    ship::RecordingSink,
};
use crate::Hash;

/// Keeps each recording as `<id>.cast`, in clear, and beside it `<id>.json`: what it is of, how far it is, the hash of its last
/// chunk. Files are their owner's alone.
///
/// A crash leaves no line twice and none half: what is behind the length that the second file says is written again.
#[derive(Clone, Debug)]
pub struct RecordingDirectory {
    dir: PathBuf,
}

/// What stands beside a recording.
#[derive(Debug, Deserialize, Serialize)]
struct Beside {
    about: About,
    chunks: u64,
    hash: Hash,
    bytes: u64,
    last: Option<Last>,
}

impl RecordingDirectory {
    /// In `dir`, which is there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

#[async_trait]
impl RecordingSink for RecordingDirectory {
    async fn take(&self, chunk: &Chunk) -> Result<u64, BoxError> {
        let (dir, chunk) = (self.dir.clone(), chunk.clone());
        Ok(task::spawn_blocking(move || keep(&dir, &chunk)).await??)
    }
}

fn keep(dir: &Path, chunk: &Chunk) -> io::Result<u64> {
    let [cast, beside, part] = ["cast", "json", "part"].map(|kind| dir.join(format!("{}.{kind}", chunk.recording)));
    let held: Option<Beside> = match fs::read(&beside) {
        Ok(text) => Some(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let (mut chain, length) = match &held {
        Some(held) => (RecordingChain { next: held.chunks, head: held.hash }, held.bytes),
        None => (RecordingChain::start(), 0),
    };
    if held.as_ref().is_some_and(|held| held.last.is_some()) || !chain.takes(chunk) {
        return Ok(chain.next);
    }
    let about = held.map(|held| held.about).or_else(|| chunk.about.clone());
    let about = about.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(cast)?;
    file.set_len(length)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&chunk.lines)?;
    file.sync_data()?;
    let bytes = length + chunk.lines.len() as u64;
    let state = Beside { about, chunks: chain.next, hash: chain.head, bytes, last: chunk.last.clone() };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.sync_data()?;
    fs::rename(part, beside)?;
    Ok(chain.next)
}
