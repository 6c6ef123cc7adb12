//! Events in a file: one event, one line of JSON.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use tokio::task;
use ztka_core::BoxError;

use crate::{Batch, Record, Shipper};

/// Appends to a file that its owner alone can read.
///
/// The file is opened for each batch, so that it can be renamed away at any time. A line is there once or, after a
/// crash, twice; a line that a crash cut short ends where it ended, and its event follows whole.
#[derive(Clone, Debug)]
pub struct FileSink {
    path: PathBuf,
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "audit events cannot be appended to {path}; check that the directory is there, whose it is, and that there is room"
)]
pub struct FileSinkError {
    path: PathBuf,
    source: io::Error,
}

impl FileSink {
    /// Appends to the file at `path`, and makes it if it is not there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Shipper for FileSink {
    async fn ship(&self, batch: Batch) -> Result<(), BoxError> {
        let path = self.path.clone();
        let appended = task::spawn_blocking(move || {
            append(&path, &batch.records).map_err(|source| FileSinkError { path, source })
        });
        Ok(appended.await??)
    }
}

fn append(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let mut lines = Vec::new();
    if !ends_a_line(&file, length)? {
        lines.push(b'\n');
    }
    for record in records {
        // Events are written without control characters; whatever is here, a record is one line.
        lines.extend(record.payload.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        lines.push(b'\n');
    }
    let written = file.write_all(&lines).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half a batch would be there twice.
        let _ = file.set_len(length);
    }
    written
}

fn ends_a_line(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}
