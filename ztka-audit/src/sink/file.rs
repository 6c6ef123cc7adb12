//! Events in a file: one event, one line of JSON.

mod rotate;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{sync::Mutex, task};
use ztka_core::{Clock, SystemClock};

pub use self::rotate::{Compression, Rotation};
use super::{Sink, SinkError};
use crate::{Batch, Record};

/// Appends to a file that its owner alone can read.
///
/// The file is opened for each batch, so that it can be renamed away or removed at any time (logrotate needs neither
/// `copytruncate` nor a signal), or rotated by the sink itself ([`Self::rotate`]). A line is there once or, after a
/// crash, twice; a line that a crash cut short ends where it ended, and its event follows whole.
#[derive(Clone, Debug)]
pub struct FileSink {
    path: PathBuf,
    rotation: Rotation,
    clock: Arc<dyn Clock>,
    /// One at a time: an append that has hung for too long may still be there when the next one comes.
    writing: Arc<Mutex<()>>,
    compressing: Arc<Mutex<()>>,
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
        Self {
            path: path.into(),
            rotation: Rotation::default(),
            clock: Arc::new(SystemClock),
            writing: Arc::default(),
            compressing: Arc::default(),
        }
    }

    /// Rotates the file by itself.
    #[must_use]
    pub fn rotate(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    /// Tells by this clock how old the file is.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Compresses what was rotated, and removes what is too much. Nobody waits for it.
    fn tidy(&self) {
        let (path, rotation, turn) = (self.path.clone(), self.rotation.clone(), self.compressing.clone());
        drop(task::spawn_blocking(move || {
            let _turn = turn.blocking_lock();
            if let Err(error) = rotate::tidy(&path, &rotation) {
                let path = path.display();
                tracing::warn!(%path, %error, "rotated audit files are not as they should be; see to the disk's room");
            }
        }));
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let turn = self.writing.clone().lock_owned().await;
        let (path, rotation, now) = (self.path.clone(), self.rotation.clone(), self.clock.now());
        let lines = lines(&batch.records);
        let appended = task::spawn_blocking(move || {
            let _turn = turn;
            let rotated = rotate::turn(&path, &rotation, now).unwrap_or_else(|error| {
                // It grows; nothing is lost.
                tracing::warn!(path = %path.display(), %error, "the audit file cannot be rotated; see whose its directory is");
                false
            });
            append(&path, &lines).map_err(|source| FileSinkError { path, source })?;
            Ok::<_, FileSinkError>(rotated)
        });
        if appended.await?? {
            self.tidy();
        }
        Ok(())
    }
}

/// Events are written without control characters; whatever is here, a record is one line.
pub(super) fn lines(records: &[Record]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(records.iter().map(|record| record.payload.len() + 1).sum());
    for record in records {
        lines.extend(record.payload.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        lines.push(b'\n');
    }
    lines
}

fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let cut = if ends_a_line(&file, length)? { &b""[..] } else { b"\n" };
    let written = file.write_all(cut).and_then(|()| file.write_all(lines)).and_then(|()| file.sync_data());
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
