//! Brings records to the disk: on the caller's thread where that is one short write, else on the spool's own two.
//!
//! A record that has to be written only, and finds nobody writing or syncing, is written by whoever brings it, together
//! with the notes that wait: no change of threads, a few microseconds. Everything slower (a new segment, a full disk,
//! the file system busy with a sync) is left to the writing thread, and syncs to the syncing thread, where one sync
//! serves all who wait for one.

use std::{
    io, mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{oneshot, watch};

use super::{
    cursor::Cursors,
    frame::{Kind, MAX_PAYLOAD, Position},
    log::{Disk, Entry, Failure, Log, Ticket},
};
use crate::{Durability, Opening, Unrecorded};

/// Notes wait this long for a record to be written with.
const LINGER: Duration = Duration::from_millis(10);
/// What has become old is looked for so often while nothing is written.
const LOOK: Duration = Duration::from_secs(60);
/// And after a failure this long for another try.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of notes that are written without waiting for more.
const ENOUGH: usize = 256 * 1024;
/// Bytes of notes held in memory while they cannot be written.
const MAX_HELD: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake_writer: Condvar,
    log: Mutex<Log>,
    syncs: Mutex<Syncs>,
    wake_syncer: Condvar,
    syncing: AtomicBool,
    failing: AtomicBool,
    lost: AtomicU64,
    written: watch::Sender<Position>,
    disk: Arc<dyn Disk>,
    pub(super) cursors: Arc<Cursors>,
    /// A sync waits so long for more to go with it.
    window: Duration,
    /// What has become old is let go of.
    expires: bool,
}

#[derive(Debug)]
struct Queue {
    entries: Vec<Entry>,
    bytes: usize,
    urgent: bool,
    due: Instant,
    asleep: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Syncs {
    waiting: Vec<oneshot::Sender<Result<(), Unrecorded>>>,
    stop: bool,
}

// None of what the locks guard is left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(log: Log, disk: Arc<dyn Disk>, cursors: Arc<Cursors>, window: Duration, expires: bool) -> Self {
        let (written, _) = watch::channel(log.end());
        let queue =
            Queue { entries: Vec::new(), bytes: 0, urgent: false, due: Instant::now(), asleep: false, stop: false };
        Self {
            queue: Mutex::new(queue),
            wake_writer: Condvar::new(),
            log: Mutex::new(log),
            syncs: Mutex::default(),
            wake_syncer: Condvar::new(),
            syncing: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            written,
            disk,
            cursors,
            window,
            expires,
        }
    }

    /// Appends and syncs on this thread, before anybody else has the spool.
    pub(super) fn write_first(&self, entry: Entry) -> io::Result<()> {
        let mut log = self.log();
        log.append(&[entry], true).map_err(|failure| match failure {
            Failure::Disk(error) => error,
            Failure::Slow | Failure::Full(_) => io::Error::other(explain(&failure).to_string()),
        })?;
        self.disk.sync(&log.file())?;
        self.tell(log);
        Ok(())
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// The end of what is written; changes wake whoever waits.
    pub(super) fn written(&self) -> watch::Receiver<Position> {
        self.written.subscribe()
    }

    /// Notes that had to be given up.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub(super) fn failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// Appends the first record of a request.
    pub(super) fn open(&self, mut entry: Entry, durability: Durability) -> Opening {
        if entry.payload.len() > MAX_PAYLOAD {
            return Opening::now(Err(Unrecorded::new("the event is too large for the audit spool")));
        }
        let mut waits = None;
        if durability == Durability::Synced {
            let (done, wait) = oneshot::channel();
            entry.ticket = Some(Ticket { durability, done });
            waits = Some(wait);
        }
        entry = match self.write_here(entry) {
            Ok(()) => {
                return match waits {
                    None => Opening::now(Ok(())),
                    Some(wait) => later(wait),
                };
            }
            Err(entry) => entry,
        };
        let wait = waits.unwrap_or_else(|| {
            let (done, wait) = oneshot::channel();
            entry.ticket = Some(Ticket { durability, done });
            wait
        });
        let mut queue = lock(&self.queue);
        if queue.stop {
            return Opening::now(Err(Unrecorded::new("the audit spool is closed")));
        }
        queue.bytes += entry.payload.len();
        queue.entries.push(entry);
        queue.urgent = true;
        drop(queue);
        self.wake_writer.notify_one();
        later(wait)
    }

    /// Appends a later record, soon.
    pub(super) fn note(&self, entry: Entry) {
        let mut queue = lock(&self.queue);
        if queue.bytes + entry.payload.len() > MAX_HELD || entry.payload.len() > MAX_PAYLOAD || queue.stop {
            drop(queue);
            self.lose(1);
            return;
        }
        if queue.entries.is_empty() && !self.failing() {
            queue.due = Instant::now() + LINGER;
        }
        queue.bytes += entry.payload.len();
        queue.entries.push(entry);
        let enough = queue.bytes >= ENOUGH && !self.failing();
        queue.urgent |= enough;
        if mem::take(&mut queue.asleep) || enough {
            drop(queue);
            self.wake_writer.notify_one();
        }
    }

    /// The first is told aloud; how many there are is in the figures.
    fn lose(&self, notes: u64) {
        if notes > 0 && self.lost.fetch_add(notes, Relaxed) == 0 {
            tracing::error!(
                "the audit spool has lost a record of how a request went on; its beginning is kept. See that its disk \
                 has room and keeps up"
            );
        }
    }

    /// Returns when everything appended before the call is durable.
    pub(super) fn barrier(&self) -> oneshot::Receiver<Result<(), Unrecorded>> {
        let (done, wait) = oneshot::channel();
        self.push_sync(vec![done]);
        wait
    }

    /// Has the notes that wait written now.
    pub(super) fn hurry(&self) {
        lock(&self.queue).urgent = true;
        self.wake_writer.notify_one();
    }

    /// One write on this thread, with the notes that wait. `Err` gives the entry back: it is to be queued.
    fn write_here(&self, entry: Entry) -> Result<(), Entry> {
        if self.syncing.load(Relaxed) || self.failing() {
            return Err(entry);
        }
        let Ok(mut log) = self.log.try_lock() else { return Err(entry) };
        let mut batch = lock(&self.queue).take();
        batch.push(entry);
        match log.append(&batch, false) {
            Ok(()) => {
                self.finish(batch, log);
                Ok(())
            }
            // A failed write is tried again by the thread that may take its time over it.
            Err(_) => {
                drop(log);
                let entry = batch.pop();
                let mut queue = lock(&self.queue);
                queue.put_back(batch);
                queue.urgent = true;
                // The entry pushed above is the last one.
                entry.map_or(Ok(()), Err)
            }
        }
    }

    /// Tells those who follow how far the log has come; never backwards, whoever comes first.
    ///
    /// Not under the log's lock: somebody who looks at the place may ask for the log meanwhile.
    fn tell(&self, log: MutexGuard<'_, Log>) {
        let end = log.end();
        drop(log);
        self.written.send_if_modified(|told| {
            let further = end > *told;
            *told = end.max(*told);
            further
        });
    }

    /// Tells those who wait for a batch that was appended.
    fn finish(&self, batch: Vec<Entry>, log: MutexGuard<'_, Log>) {
        self.tell(log);
        let mut syncs = Vec::new();
        for ticket in batch.into_iter().filter_map(|entry| entry.ticket) {
            match ticket.durability {
                Durability::Written => drop(ticket.done.send(Ok(()))),
                Durability::Synced => syncs.push(ticket.done),
            }
        }
        if !syncs.is_empty() {
            self.push_sync(syncs);
        }
        if self.failing.swap(false, Relaxed) {
            tracing::info!("the audit spool can be written again");
        }
    }

    fn push_sync(&self, mut waiting: Vec<oneshot::Sender<Result<(), Unrecorded>>>) {
        lock(&self.syncs).waiting.append(&mut waiting);
        self.wake_syncer.notify_one();
    }

    /// The writing thread.
    pub(super) fn write_loop(&self) {
        loop {
            let (batch, stop) = self.next_batch();
            if !batch.is_empty() {
                self.write_batch(batch, stop);
            }
            if self.expires && !self.failing() {
                self.expire();
            }
            if stop {
                return;
            }
        }
    }

    fn expire(&self) {
        let mut log = self.log();
        match log.expire(SystemTime::now()) {
            Ok(()) => self.tell(log),
            // It is tried again; whatever matters of it is said by the next write.
            Err(failure) => tracing::warn!(reason = %explain(&failure), "old audit records are kept for now"),
        }
    }

    /// What waits to be written; nothing when it is time to look for what has become old.
    fn next_batch(&self) -> (Vec<Entry>, bool) {
        let mut queue = lock(&self.queue);
        let looks = self.expires.then(|| Instant::now() + LOOK);
        loop {
            if looks.is_some_and(|looks| looks <= Instant::now()) && queue.entries.is_empty() && !queue.stop {
                return (Vec::new(), false);
            }
            if queue.stop || queue.urgent || !queue.entries.is_empty() && queue.due <= Instant::now() {
                return (queue.take(), queue.stop);
            }
            queue = if queue.entries.is_empty() {
                queue.asleep = true;
                match looks {
                    None => self.wake_writer.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    Some(looks) => {
                        let left = looks.saturating_duration_since(Instant::now());
                        let woken = self.wake_writer.wait_timeout(queue, left);
                        woken.unwrap_or_else(PoisonError::into_inner).0
                    }
                }
            } else {
                let left = queue.due.saturating_duration_since(Instant::now());
                let (queue, _) = self.wake_writer.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
                queue
            };
            queue.asleep = false;
        }
    }

    fn write_batch(&self, batch: Vec<Entry>, stop: bool) {
        let mut log = self.log();
        let failure = match log.append(&batch, true) {
            Ok(()) => return self.finish(batch, log),
            Err(failure) => failure,
        };
        let (opens, notes): (Vec<_>, Vec<_>) = batch.into_iter().partition(|entry| entry.kind == Kind::Open);
        // Ends of open records have room above the quota.
        let written = matches!(failure, Failure::Full(_)) && log.append(&notes, true).is_ok();
        let unrecorded = explain(&failure);
        if !self.failing.swap(true, Relaxed) {
            tracing::error!(reason = %unrecorded, "the audit spool cannot be written: requests are refused");
        }
        match written {
            true => self.tell(log),
            false => drop(log),
        }
        for ticket in opens.into_iter().filter_map(|entry| entry.ticket) {
            let _ = ticket.done.send(Err(unrecorded.clone()));
        }
        if written {
            return;
        }
        let mut queue = lock(&self.queue);
        if stop {
            drop(queue);
            self.lose(notes.len() as u64);
        } else {
            queue.put_back(notes);
            queue.due = Instant::now() + RETRY;
        }
    }

    /// The syncing thread.
    pub(super) fn sync_loop(&self) {
        loop {
            let mut syncs = lock(&self.syncs);
            while syncs.waiting.is_empty() && !syncs.stop {
                syncs = self.wake_syncer.wait(syncs).unwrap_or_else(PoisonError::into_inner);
            }
            if !self.window.is_zero() && !syncs.stop {
                let more = self.wake_syncer.wait_timeout_while(syncs, self.window, |syncs| !syncs.stop);
                syncs = more.unwrap_or_else(PoisonError::into_inner).0;
            }
            // From here on nobody writes on a thread of their own: the file system may hold them up.
            self.syncing.store(true, Relaxed);
            let waiting = mem::take(&mut syncs.waiting);
            let stop = syncs.stop && waiting.is_empty();
            drop(syncs);
            if stop {
                return;
            }
            // What they wait for is in this segment, or in one that was synced when this one was begun.
            let file = self.log().file();
            let synced = self.disk.sync(&file).map_err(|error| {
                self.log().doubt();
                tracing::error!(%error, "the audit spool cannot be synced: requests are refused");
                explain(&Failure::Disk(error))
            });
            self.syncing.store(false, Relaxed);
            for done in waiting {
                let _ = done.send(synced.clone());
            }
        }
    }

    pub(super) fn stop_writer(&self) {
        lock(&self.queue).stop = true;
        self.wake_writer.notify_one();
    }

    pub(super) fn stop_syncer(&self) {
        lock(&self.syncs).stop = true;
        self.wake_syncer.notify_one();
    }
}

impl Queue {
    fn take(&mut self) -> Vec<Entry> {
        self.bytes = 0;
        self.urgent = false;
        mem::take(&mut self.entries)
    }

    /// In front of what came since.
    fn put_back(&mut self, mut entries: Vec<Entry>) {
        self.bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
        entries.append(&mut self.entries);
        self.entries = entries;
    }
}

fn later(wait: oneshot::Receiver<Result<(), Unrecorded>>) -> Opening {
    Opening::later(async { wait.await.unwrap_or_else(|_| Err(Unrecorded::new("the audit spool is closed"))) })
}

fn explain(failure: &Failure) -> Unrecorded {
    Unrecorded::new(match failure {
        Failure::Slow => "the audit spool is busy; try again".to_owned(),
        Failure::Full(text) => text.clone(),
        Failure::Disk(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            "the disk of the audit spool is full; make room on it".to_owned()
        }
        Failure::Disk(error) => format!("the disk of the audit spool fails ({error}); check it"),
    })
}
