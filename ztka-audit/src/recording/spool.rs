//! Recordings on this server's disk, until they have been brought away.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::Notify;
use ztka_core::{AuditId, Clock, OrgId};

use super::{
    Input,
    chunk::{About, Chunk, Last, RecordingEnd},
    sealed::{ChunkReader, Sealer, ServerKey},
    tape::Tape,
    writer::{self, Signal, Writing},
};
use crate::Hash;

const SUFFIX: &str = "recording";

/// Where recordings are kept, and how much of them.
#[derive(Clone, Debug)]
pub struct RecordingOptions {
    dir: PathBuf,
    key: PathBuf,
    session: u64,
    org: u64,
    total: u64,
    input: Input,
}

impl RecordingOptions {
    /// In `dir`, which is made for its owner alone if it is not there: at most 256 MiB of one session, 1 GiB of one
    /// organisation and 4 GiB altogether wait there to be brought away. What is typed is recorded where the terminal shows
    /// it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let key = dir.join("key");
        Self { dir, key, session: 256 << 20, org: 1 << 30, total: 4 << 30, input: Input::Echoed }
    }

    /// The file with the key under which they are encrypted here, 32 bytes; made if it is not there.
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = path.into();
        self
    }

    /// Most bytes of one session.
    #[must_use]
    pub fn session_limit(mut self, bytes: u64) -> Self {
        self.session = bytes;
        self
    }

    /// Most bytes of one organisation that wait here.
    #[must_use]
    pub fn org_limit(mut self, bytes: u64) -> Self {
        self.org = bytes;
        self
    }

    /// Most bytes that wait here.
    #[must_use]
    pub fn total_limit(mut self, bytes: u64) -> Self {
        self.total = bytes;
        self
    }

    /// What of the input is recorded.
    #[must_use]
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }
}

/// The directory of recordings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("recordings cannot be kept in {dir}; check that the directory is this user's and that there is room")]
pub struct RecordingsError {
    dir: PathBuf,
    source: io::Error,
}

/// A recording that was running when the process before ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterruptedRecording {
    /// The recording.
    pub id: AuditId,
    /// What it is of.
    pub about: About,
    /// Its chunks; the last one says that it was interrupted.
    pub chunks: u64,
    /// Hash of the last one.
    pub hash: Hash,
}

/// The recordings of this server. Cheap to clone; the last clone to be dropped ends what runs, and blocks until it is written.
#[derive(Clone, Debug)]
pub struct Recordings {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

/// How a file is.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) org: OrgId,
    pub(super) bytes: u64,
    /// Nothing follows.
    pub(super) over: bool,
}

pub(super) struct Inner {
    options: RecordingOptions,
    key: ServerKey,
    pub(super) clock: Arc<dyn Clock>,
    signal: Arc<Signal>,
    new: Mutex<Vec<Writing>>,
    kept: Mutex<BTreeMap<AuditId, Kept>>,
    pub(super) news: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recordings").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Recordings {
    /// Opens the directory, and closes what the process before has left open.
    ///
    /// # Errors
    /// [`RecordingsError`]
    pub fn open(
        options: RecordingOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<InterruptedRecording>), RecordingsError> {
        let dir = options.dir.clone();
        let failed = |source| RecordingsError { dir: dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let key = ServerKey::load_or_create(&options.key).map_err(failed)?;
        let (signal, news) = (Arc::new(Signal::default()), Notify::new());
        let (new, kept) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { options, key, clock, signal, new, kept, news });
        let interrupted = inner.recover().map_err(failed)?;
        let thread = {
            let inner = inner.clone();
            let work = move || writer::run(&inner, &inner.signal);
            thread::Builder::new().name("recordings".into()).spawn(work).map_err(failed)?
        };
        Ok((Self { handle: Arc::new(Handle { inner, thread: Some(thread) }) }, interrupted))
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }

    /// The recordings that are here, and whether each is over.
    pub fn kept(&self) -> Vec<(AuditId, bool)> {
        self.inner().kept().iter().map(|(id, kept)| (*id, kept.over)).collect()
    }

    /// The chunks of a recording that are here, in order. Blocks.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    pub fn chunks(&self, id: AuditId) -> io::Result<Vec<Chunk>> {
        let mut reader = self.inner().reader(id)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next()? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Begins a recording: when this returns its first chunk is on the disk. Blocks.
    pub(super) fn begin(&self, id: AuditId, about: About) -> io::Result<Arc<Tape>> {
        let inner = self.inner();
        let org = about.org.clone();
        inner.has_room(&org)?;
        let (limit, clock, signal) = (inner.options.session, inner.clock.clone(), inner.signal.clone());
        let (tape, first) = Tape::new(id, about, limit, clock, signal);
        let (sealer, mut out) = Sealer::new(&inner.key, id)?;
        sealer.seal(&first, &mut out)?;
        let path = inner.path(id);
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(true).mode(0o600).open(&path)?;
        let written = file.write_all(&out).and_then(|()| file.sync_all()).and_then(|()| inner.sync_dir());
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let tape = Arc::new(tape);
        inner.kept().insert(id, Kept { org, bytes: out.len() as u64, over: false });
        inner.lock_new().push(Writing::new(tape.clone(), file, sealer));
        inner.signal.hurry();
        Ok(tape)
    }

    pub(super) fn input(&self) -> Input {
        self.inner().options.input
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.signal.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock_new(&self) -> MutexGuard<'_, Vec<Writing>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, BTreeMap<AuditId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_writings(&self) -> Vec<Writing> {
        std::mem::take(&mut *self.lock_new())
    }

    fn path(&self, id: AuditId) -> PathBuf {
        self.options.dir.join(format!("{id}.{SUFFIX}"))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.options.dir)?.sync_all()
    }

    pub(super) fn reader(&self, id: AuditId) -> io::Result<ChunkReader> {
        ChunkReader::open(&self.key, id, &self.path(id))
    }

    fn has_room(&self, org: &OrgId) -> io::Result<()> {
        let kept = self.kept();
        let all: u64 = kept.values().map(|kept| kept.bytes).sum();
        let of_org: u64 = kept.values().filter(|kept| kept.org == *org).map(|kept| kept.bytes).sum();
        let full = |whose| Err(io::Error::new(io::ErrorKind::QuotaExceeded, whose));
        if of_org >= self.options.org {
            return full("too many recordings of this organisation wait here; check that the controller takes them");
        }
        if all >= self.options.total {
            return full("too many recordings wait here to be brought away; check that the controller takes them");
        }
        Ok(())
    }

    pub(super) fn has_room_for(&self, id: AuditId) -> io::Result<()> {
        let org = self.kept().get(&id).map(|kept| kept.org.clone());
        self.has_room(&org.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
    }

    /// So many bytes more are there.
    pub(super) fn written(&self, id: AuditId, bytes: u64, over: bool) {
        if let Some(kept) = self.kept().get_mut(&id) {
            (kept.bytes, kept.over) = (kept.bytes + bytes, over);
        }
        self.news.notify_one();
    }

    pub(super) fn remove(&self, id: AuditId) {
        if let Err(error) = fs::remove_file(self.path(id)) {
            tracing::warn!(recording = %id, %error, "a recording cannot be removed");
        }
        self.kept().remove(&id);
    }

    fn recover(&self) -> io::Result<Vec<InterruptedRecording>> {
        let mut interrupted = Vec::new();
        for entry in fs::read_dir(&self.options.dir)? {
            let path = entry?.path();
            let Some(id) = named(&path) else { continue };
            match self.close(id, &path) {
                Ok(Some(closed)) => interrupted.push(closed),
                Ok(None) => {}
                Err(error) => {
                    // Kept as it is: somebody may still read it.
                    tracing::error!(path = %path.display(), %error, "a recording cannot be read");
                }
            }
        }
        Ok(interrupted)
    }

    /// Takes the file in; closes it if nobody has.
    fn close(&self, id: AuditId, path: &Path) -> io::Result<Option<InterruptedRecording>> {
        let mut reader = match ChunkReader::open(&self.key, id, path) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Nothing was let through before its first chunk was on the disk.
                fs::remove_file(path)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (mut about, mut over) = (None, false);
        while let Some(chunk) = reader.next()? {
            about = about.or(chunk.about);
            over = chunk.last.is_some();
        }
        let Some(about) = about else {
            let damaged = reader.offset() < fs::metadata(path)?.len();
            return match damaged {
                true => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, "its first chunk is damaged, or of another key"))
                }
                false => fs::remove_file(path).map(|()| None),
            };
        };
        let (mut chain, end) = (reader.chain(), reader.offset());
        let mut kept = Kept { org: about.org.clone(), bytes: end, over: true };
        let closed = if over {
            None
        } else {
            const REASON: &str = "the server that recorded it stopped without warning";
            let reason = Some(REASON.to_owned());
            let last = Last { end: RecordingEnd::Interrupted, reason, exit: None };
            // Without a header there is nothing to mark.
            let mark: &[u8] = match chain.next {
                ..2 => b"",
                _ => b"[0.000000, \"m\", \"interrupted: the server that recorded it stopped without warning\"]\n",
            };
            let last = chain.cut(id, self.clock.now(), None, Some(last), mark);
            let mut out = Vec::new();
            reader.into_sealer().seal(&last, &mut out)?;
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.set_len(end)?;
            file.write_all(&out)?;
            file.sync_data()?;
            kept.bytes = end + out.len() as u64;
            Some(InterruptedRecording { id, about, chunks: chain.next, hash: chain.head })
        };
        self.kept().insert(id, kept);
        Ok(closed)
    }
}

fn named(path: &Path) -> Option<AuditId> {
    let is_one = path.extension().is_some_and(|suffix| suffix == SUFFIX);
    AuditId::parse(path.file_stem()?.to_str()?).filter(|_| is_one)
}
