//! The one who writes records: what layer and refusals have in common.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use ztka_core::{AuditId, Caller, Clock, Reason, Refusal, RefusalSink, Status};

use crate::{
    End, Event, Journal, ResponseStatus, Stage,
    event::{MAX_TEXT, clean},
    retries::Retries,
};

/// Sources share this many buckets: one that floods hides at most a few of the others' refusals.
const BUCKETS: usize = 64;
/// Refusals of one bucket that are written in a row.
const BURST: u32 = 20;
/// And from then on one per this long.
const REFILL_MICROS: i64 = 200_000;

/// Handle to a journal and a clock; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    refusals: AtomicU64,
    unwritten: AtomicU64,
    buckets: Mutex<[Bucket; BUCKETS]>,
    retries: Retries,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    refilled: Timestamp,
    suppressed: u64,
}

impl Bucket {
    /// How many were left out before this one, if this one is to be written.
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        let passed = now.as_microsecond().saturating_sub(self.refilled.as_microsecond());
        let refill = u32::try_from(passed / REFILL_MICROS).unwrap_or(if passed < 0 { 0 } else { BURST });
        if refill > 0 || passed < 0 {
            self.left = self.left.saturating_add(refill).min(BURST);
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

impl Recorder {
    /// Records into `journal`, with the time of `clock`.
    pub fn new(journal: Arc<dyn Journal>, clock: Arc<dyn Clock>) -> Self {
        let bucket = Bucket { left: BURST, refilled: clock.now(), suppressed: 0 };
        let buckets = Mutex::new([bucket; BUCKETS]);
        let (refusals, unwritten) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { journal, clock, refusals, unwritten, buckets, retries: Retries::default() }) }
    }

    /// Notes how the recording of a session has ended whose process is gone: the record of its request says nothing of it.
    #[cfg(feature = "recordings")]
    pub fn interrupted(&self, recording: &crate::InterruptedRecording) {
        let about = &recording.about;
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, self.now());
        event.verb = "record".into();
        event.user.username = about.user_name.as_str().to_owned();
        event.user.uid = about.user.as_str().to_owned();
        let facts = [
            ("org", about.org.to_string()),
            ("cluster", about.cluster.to_string()),
            ("credential", about.credential.to_string()),
            ("recording", "interrupted".to_owned()),
            ("recording-of", recording.id.to_string()),
            ("recording-chunks", recording.chunks.to_string()),
            ("recording-hash", recording.hash.to_string()),
            ("end", End::Interrupted.as_str().to_owned()),
        ];
        for (name, value) in facts {
            event.annotations.set(name, value);
        }
        self.inner.journal.note(&event);
    }

    /// Refusals heard of as a [`RefusalSink`], whether they were written or not.
    pub fn refusals(&self) -> u64 {
        self.inner.refusals.load(Relaxed)
    }

    /// Of these, the ones left out for their number; the next event from the same place says how many.
    pub fn suppressed_refusals(&self) -> u64 {
        self.inner.unwritten.load(Relaxed)
    }

    pub(crate) fn journal(&self) -> &dyn Journal {
        self.inner.journal.as_ref()
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.inner.retries
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Whoever is known has a bucket beside that of the strangers behind the same address.
    fn admit(&self, source: Option<IpAddr>, who: Option<&Caller>, now: Timestamp) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        match who {
            Some(Caller::Principal(who)) => (who.org(), who.user()).hash(&mut hasher),
            Some(Caller::Certificate(id)) => id.hash(&mut hasher),
            None => {}
        }
        let index = usize::try_from(hasher.finish() % BUCKETS as u64).unwrap_or_default();
        let mut buckets = self.inner.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get_mut(index)?.take(now)
    }
}

impl RefusalSink for Recorder {
    fn refused(&self, refusal: Refusal<'_>) {
        self.inner.refusals.fetch_add(1, Relaxed);
        let now = self.now();
        let Some(suppressed) = self.admit(refusal.source, refusal.principal, now) else {
            self.inner.unwritten.fetch_add(1, Relaxed);
            return;
        };
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now);
        if let Some(target) = refusal.target {
            event.asked_at(&target.to_string());
        }
        match refusal.principal {
            Some(Caller::Principal(who)) => event.asked_by(who),
            Some(Caller::Certificate(id)) => event.asked_with(id),
            None => {}
        }
        event.source_ips.extend(refusal.source);
        refuse(&mut event, refusal.reason);
        event.annotations.set("end", End::Complete.as_str());
        if suppressed > 0 {
            event.annotations.set("suppressed", suppressed.to_string());
        }
        self.inner.journal.note(&event);
    }
}

/// Notes that `reason` is the answer.
pub(crate) fn refuse(event: &mut Event, reason: &Reason) {
    let message = clean(&reason.to_string(), MAX_TEXT);
    event.annotations.set("decision", "deny");
    event.annotations.set("reason", message.clone());
    let mut status = ResponseStatus::from(Status::from(reason).code());
    (status.status, status.message) = ("Failure".into(), message);
    event.response_status = Some(status);
}
