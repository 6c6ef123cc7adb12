//! Where records are opened and closed: the trait, and a journal in memory for tests.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;

use crate::Event;

/// How much a record has to survive before its request may go on.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Durability {
    /// The end of the process: written to the file system.
    Written,
    /// Loss of power as well: synced to the disk.
    Synced,
}

/// A record could not be opened. The text says what to do; the user sees it too.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Unrecorded {
    reason: String,
}

impl Unrecorded {
    /// For this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Result of [`Journal::open`]: there at once, or later. Dropping it does not undo the record.
#[must_use = "a request may not go on before its record is open"]
pub struct Opening(State);

enum State {
    Now(Option<Result<(), Unrecorded>>),
    Later(BoxFuture<'static, Result<(), Unrecorded>>),
}

impl Opening {
    /// Known already.
    pub fn now(result: Result<(), Unrecorded>) -> Self {
        Self(State::Now(Some(result)))
    }

    /// What this future returns.
    pub fn later(result: impl Future<Output = Result<(), Unrecorded>> + Send + 'static) -> Self {
        Self(State::Later(Box::pin(result)))
    }
}

impl Future for Opening {
    type Output = Result<(), Unrecorded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Now(result) => {
                Poll::Ready(result.take().unwrap_or_else(|| Err(Unrecorded::new("asked again after the answer"))))
            }
            State::Later(result) => result.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Now(result) => f.debug_tuple("Opening").field(result).finish(),
            State::Later(_) => f.write_str("Opening(later)"),
        }
    }
}

/// Keeps the records of requests.
///
/// A record is opened with its [`RequestReceived`](crate::Stage::RequestReceived) event, and the request goes on when
/// the returned future says that the event is durable. Whatever follows is noted without waiting;
/// [`ResponseComplete`](crate::Stage::ResponseComplete) closes the record. A request refused before it had a record is
/// one such event alone. Neither method blocks. `conformance::journal` (feature `conformance`) says all of this as tests.
pub trait Journal: Send + Sync + fmt::Debug + 'static {
    /// Opens a record. The event is in the journal even if the future is dropped; `Err` means that the request must not
    /// go on.
    fn open(&self, event: &Event, durability: Durability) -> Opening;

    /// Takes a later event of a record, or one that stands alone. Called from destructors.
    fn note(&self, event: &Event);
}

/// A journal that is gone with the process, for tests.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    events: Mutex<Vec<Event>>,
    full: AtomicBool,
}

impl MemoryJournal {
    /// The events so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on refuses to open records, or opens them again.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Relaxed);
    }
}

impl Journal for MemoryJournal {
    fn open(&self, event: &Event, _: Durability) -> Opening {
        if self.full.load(Relaxed) {
            return Opening::now(Err(Unrecorded::new("the journal is full")));
        }
        self.note(event);
        Opening::now(Ok(()))
    }

    fn note(&self, event: &Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}

impl<J: Journal + ?Sized> Journal for std::sync::Arc<J> {
    fn open(&self, event: &Event, durability: Durability) -> Opening {
        (**self).open(event, durability)
    }

    fn note(&self, event: &Event) {
        (**self).note(event);
    }
}
