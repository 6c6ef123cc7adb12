//! The thread that writes recordings to the disk, a few times a second while there are any.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    chunk::Chunk,
    sealed::Sealer,
    spool::Inner,
    tape::{Due, Tape},
};

/// What is said is on the disk that long after it at the latest, and the time that the disk takes.
const TICK: Duration = Duration::from_millis(250);

/// Wakes the thread.
#[derive(Debug, Default)]
pub(super) struct Signal {
    flags: Mutex<Flags>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Flags {
    hurry: bool,
    stop: bool,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do now.
    pub(super) fn hurry(&self) {
        self.lock().hurry = true;
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Waits for a while, or if nothing is `running` until there is something to do. True if the thread is to stop.
    fn wait(&self, running: bool) -> bool {
        let mut flags = self.lock();
        if running {
            let waited = self.changed.wait_timeout_while(flags, TICK, |flags| !flags.hurry && !flags.stop);
            flags = waited.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            let waited = self.changed.wait_while(flags, |flags| !flags.hurry && !flags.stop);
            flags = waited.unwrap_or_else(PoisonError::into_inner);
        }
        flags.hurry = false;
        flags.stop
    }
}

/// A recording whose file is open.
#[derive(Debug)]
pub(super) struct Writing {
    tape: Arc<Tape>,
    file: File,
    sealer: Sealer,
    /// What is to be written; what could not be is tried again.
    waiting: Vec<Chunk>,
    failing: bool,
}

impl Writing {
    pub(super) fn new(tape: Arc<Tape>, file: File, sealer: Sealer) -> Self {
        Self { tape, file, sealer, waiting: Vec::new(), failing: false }
    }

    /// Writes what is due. False at the end.
    fn write(&mut self, spool: &Inner) -> bool {
        let Due { chunks, over, discarded } = self.tape.due();
        let id = self.tape.id();
        if discarded {
            spool.remove(id);
            return false;
        }
        self.waiting.extend(chunks);
        if self.waiting.is_empty() {
            return !over;
        }
        let mut out = Vec::new();
        let sealed = self.waiting.iter().try_for_each(|chunk| self.sealer.seal(chunk, &mut out));
        let length = out.len() as u64;
        // The end is always written, if the disk takes it.
        let room = sealed.and_then(|()| if over { Ok(()) } else { spool.has_room_for(id) });
        match room.and_then(|()| self.append(&out)) {
            Ok(()) => {
                self.waiting.clear();
                spool.written(id, length, over);
                !over
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(recording = %id, %error, "a recording cannot be written");
                }
                self.tape.fail(format!("the recording cannot be stored: {error}"));
                true
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if written.is_err() {
            let _ = self.file.set_len(before);
        }
        written
    }
}

/// Until it is to stop and nothing runs any more.
pub(super) fn run(spool: &Inner, signal: &Signal) {
    let mut running: Vec<Writing> = Vec::new();
    loop {
        let stop = signal.wait(!running.is_empty());
        running.append(&mut spool.new_writings());
        if stop {
            running.iter().for_each(|writing| writing.tape.finish());
        }
        running.retain_mut(|writing| writing.write(spool));
        if stop {
            return;
        }
    }
}
