//! One recording while it runs: what the stream's task and the thread that writes have in common.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use jiff::Timestamp;
use ztka_core::{AuditId, Clock};

use super::{
    Transcript,
    account::Account,
    chunk::{About, Chunk, Last, RecordingChain, RecordingEnd},
    writer::Signal,
};

/// Lines that are cut off at once, in bytes; what is left is cut off at the next tick.
const CUT: usize = 64 * 1024;
/// Bytes that are read at once: escaped they still fit into a chunk.
const PIECE: usize = 64 * 1024;
/// With so many bytes waiting for the disk the stream waits as well.
const MOST_WAITING: usize = 4 << 20;

/// A recording that runs, or has just ended.
#[derive(Debug)]
pub(super) struct Tape {
    id: AuditId,
    required: bool,
    /// Most bytes of its chunks.
    limit: u64,
    clock: Arc<dyn Clock>,
    signal: Arc<Signal>,
    state: Mutex<State>,
    broken: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    /// None before the stream is open, and after it could not be recorded any more.
    transcript: Option<Transcript>,
    chain: RecordingChain,
    waiting: Vec<Chunk>,
    bytes_waiting: usize,
    bytes: u64,
    last: Option<Last>,
    discarded: bool,
}

/// What the writing thread is to do.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) chunks: Vec<Chunk>,
    /// Nothing comes behind them.
    pub(super) over: bool,
    /// Nothing of it is kept: no stream has come of it.
    pub(super) discarded: bool,
}

impl Tape {
    /// With the first chunk, which says what it is of.
    pub(super) fn new(
        id: AuditId,
        about: About,
        limit: u64,
        clock: Arc<dyn Clock>,
        signal: Arc<Signal>,
    ) -> (Self, Chunk) {
        let mut chain = RecordingChain::start();
        let required = about.required;
        let first = chain.cut(id, clock.now(), Some(about), None, &[]);
        let state = State {
            transcript: None,
            chain,
            waiting: Vec::new(),
            bytes_waiting: 0,
            bytes: 0,
            last: None,
            discarded: false,
        };
        let (state, waker) = (Mutex::new(state), AtomicWaker::new());
        (Self { id, required, limit, clock, signal, state, broken: AtomicBool::new(false), waker }, first)
    }

    pub(super) fn id(&self) -> AuditId {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream is open.
    pub(super) fn begin(&self, transcript: Transcript) {
        self.lock().transcript = Some(transcript);
    }

    /// No stream has come of it.
    pub(super) fn discard(&self) {
        let mut state = self.lock();
        state.discarded = true;
        state.last.get_or_insert(Last { end: RecordingEnd::Complete, reason: None, exit: None });
        drop(state);
        self.signal.hurry();
    }

    /// Reads what the client sends, or the cluster.
    pub(super) fn read(&self, from_client: bool, bytes: &[u8]) {
        let now = self.clock.now();
        let mut state = self.lock();
        for piece in bytes.chunks(PIECE) {
            let Some(transcript) = &mut state.transcript else { return };
            let read = if from_client { transcript.client(piece, now) } else { transcript.server(piece, now) };
            if transcript.waiting() >= CUT {
                self.cut(&mut state, now, None);
            }
            if let Err(violation) = read {
                self.fail_locked(&mut state, violation.to_string(), now);
            } else if state.bytes > self.limit {
                let reason = format!("the recording is longer than {} MiB; begin a new session", self.limit >> 20);
                self.fail_locked(&mut state, reason, now);
            }
        }
        let hurry = state.bytes_waiting > 0;
        drop(state);
        if hurry {
            self.signal.hurry();
        }
    }

    /// Ready if the stream may go on.
    ///
    /// # Errors
    /// It has to be recorded, and cannot be.
    pub(super) fn poll_go_on(&self, cx: &mut Context<'_>) -> Poll<Result<(), CannotBeRecorded>> {
        self.waker.register(cx.waker());
        if self.broken.load(Relaxed) {
            if !self.required {
                return Poll::Ready(Ok(()));
            }
            let reason = self.lock().last.as_ref().and_then(|last| last.reason.clone());
            return Poll::Ready(Err(CannotBeRecorded(reason.unwrap_or_default())));
        }
        match self.lock().bytes_waiting > MOST_WAITING {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    /// It cannot be recorded any more.
    pub(super) fn fail(&self, reason: String) {
        let now = self.clock.now();
        self.fail_locked(&mut self.lock(), reason, now);
        self.waker.wake();
    }

    fn fail_locked(&self, state: &mut State, reason: String, now: Timestamp) {
        if state.last.is_some() {
            return;
        }
        tracing::warn!(recording = %self.id, reason, required = self.required, "a session cannot be recorded any more");
        if let Some(transcript) = &mut state.transcript {
            transcript.finish(now);
            transcript.mark(&format!("not recorded from here on: {reason}"), now);
        }
        let exit = state.transcript.as_ref().and_then(Transcript::exit);
        self.cut(state, now, Some(Last { end: RecordingEnd::Failed, reason: Some(reason), exit }));
        state.transcript = None;
        self.broken.store(true, Relaxed);
    }

    /// The stream is over; only the first end counts.
    pub(super) fn finish(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.last.is_none() {
            let exit = state.transcript.as_mut().and_then(|transcript| {
                transcript.finish(now);
                transcript.exit()
            });
            self.cut(&mut state, now, Some(Last { end: RecordingEnd::Complete, reason: None, exit }));
            state.transcript = None;
        }
        drop(state);
        self.signal.hurry();
    }

    fn cut(&self, state: &mut State, now: Timestamp, last: Option<Last>) {
        let lines = state.transcript.as_mut().map(Transcript::take).unwrap_or_default();
        let chunk = state.chain.cut(self.id, now, None, last.clone(), &lines);
        state.last = last;
        let length = chunk.encoded().len();
        state.bytes = state.bytes.saturating_add(length as u64);
        state.bytes_waiting += length;
        state.waiting.push(chunk);
    }

    /// For the thread that writes: what is to be written now.
    pub(super) fn due(&self) -> Due {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(transcript) = &mut state.transcript {
            transcript.pass(now);
            if transcript.waiting() > 0 {
                self.cut(&mut state, now, None);
            }
        }
        let chunks = mem::take(&mut state.waiting);
        state.bytes_waiting = 0;
        let (over, discarded) = (state.last.is_some(), state.discarded);
        drop(state);
        if !chunks.is_empty() {
            self.waker.wake();
        }
        Due { chunks, over, discarded }
    }

    /// What the record of the request says of it.
    pub(super) fn account(&self) -> Account {
        let state = self.lock();
        let (state_is, reason) = match &state.last {
            Some(last) => (last.end.as_str(), last.reason.clone()),
            None => ("running", None),
        };
        let cut = self.required && self.broken.load(Relaxed);
        Account { state: state_is, chunks: Some((state.chain.next, state.chain.head)), reason, cut }
    }
}

/// A session that has to be recorded, and cannot be any more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this session has to be recorded, and cannot be any more: {0}")]
pub(super) struct CannotBeRecorded(String);
