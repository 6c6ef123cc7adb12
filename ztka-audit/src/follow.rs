//! Takes records from a spool in order and brings them to a sink, however long that takes.

mod standing;

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{task, time};
use ztka_core::{BoxError, Clock, SystemClock};

pub use self::standing::{SinkMonitor, SinkStatus};
use crate::{Batch, Damage, Position, Reader, Record, Sink, SinkError, Spool, sink::Chained};

/// When a follower ships.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// It waits this long for more after a first record; 500 ms by default.
    pub linger: Duration,
    /// Bytes of payload after which a batch is cut; 1 MiB by default.
    pub batch: usize,
    /// A sink that has not taken a batch within this time has failed; 30 s by default.
    pub timeout: Duration,
    /// Longest wait after a first failure, doubled with each further one; 500 ms by default. The wait is random from
    /// nothing to that, so that many senders do not come back at once.
    pub retry: Duration,
    /// Longest wait after any failure, unless the place asks for more; 30 s by default.
    pub longest_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(500),
            batch: 1 << 20,
            timeout: Duration::from_secs(30),
            retry: Duration::from_millis(500),
            longest_retry: Duration::from_secs(30),
        }
    }
}

/// What a place may ask to be spared for, at most.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// So many records refused one after the other are no poison in one of them: it is the place that is not itself. From
/// there on, each costs the longest wait before it is passed over, while somebody comes to look.
const REFUSED_IN_A_ROW: u64 = 16;

/// The spool was opened without this consumer, and would not keep anything for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit spool does not know the consumer {0:?}; name it when the spool is opened")]
pub struct UnknownConsumer(String);

/// A consumer of a spool: reads on from its cursor, delivers, and moves the cursor when it is acknowledged.
///
/// What it delivers is on this machine's disk first, so that a place never knows more than the spool after a loss of
/// power. Followers know nothing of each other: one whose sink is slow or gone holds up no other, and no request before
/// the spool has reached its quota.
///
/// A record that the sink refuses for good is logged by Audit-ID, journal and sequence, counted, and passed over; it stays
/// in the spool as long as its segment does, and goes to all other sinks.
#[derive(Debug)]
pub struct Follower<S> {
    sink: S,
    pace: Pace,
    clock: Arc<dyn Clock>,
    monitor: SinkMonitor,
}

/// What is to be done with records that were read, first things last.
enum Step {
    Deliver(Vec<Record>),
    PassOver(Record, BoxError),
}

impl<S: Sink> Follower<S> {
    /// Delivers as consumer `name` of `spool`. One follower at a time per name.
    ///
    /// # Errors
    /// The spool was opened without this consumer.
    pub fn new(spool: Spool, name: impl Into<String>, sink: S) -> Result<Self, UnknownConsumer> {
        let name = name.into();
        if spool.cursor(&name).is_none() {
            return Err(UnknownConsumer(name));
        }
        let monitor = SinkMonitor::new(spool, name);
        Ok(Self { sink, pace: Pace::default(), clock: Arc::new(SystemClock), monitor })
    }

    /// Delivers at this pace.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Tells by this clock when a batch was taken last.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Tells how the sink is, from anywhere.
    pub fn monitor(&self) -> SinkMonitor {
        self.monitor.clone()
    }

    /// Delivers for ever; failures are logged and tried again. May be dropped at any time: what was not acknowledged is
    /// delivered by the next follower of that name.
    pub async fn run(&self) -> Infallible {
        let name = self.monitor.name();
        let mut written = self.spool().written();
        let mut wait = self.pace.retry;
        loop {
            written.mark_unchanged();
            let before = self.spool().cursor(name);
            if let Err(error) = self.pass().await {
                let after = match &error {
                    SinkError::Failed { after, .. } => after.unwrap_or_default().min(LONGEST_ASKED),
                    SinkError::Refused { .. } => Duration::ZERO,
                };
                tracing::warn!(sink = name, %error, "audit records wait to be delivered");
                if self.spool().cursor(name) != before {
                    wait = self.pace.retry;
                }
                time::sleep(after + jittered(wait)).await;
                wait = wait.saturating_mul(2).min(self.pace.longest_retry);
                continue;
            }
            wait = self.pace.retry;
            // The spool is held here, so its end of the channel is there.
            let _ = written.changed().await;
            time::sleep(self.pace.linger).await;
        }
    }

    /// Delivers what is written so far, then returns.
    ///
    /// # Errors
    /// The spool cannot be read or synced, or the sink fails; the rest is still to be delivered then.
    pub async fn drain(&self) -> Result<(), BoxError> {
        self.pass().await.map_err(|error| match error {
            SinkError::Failed { why, .. } | SinkError::Refused { why, .. } => why,
        })
    }

    fn spool(&self) -> &Spool {
        self.monitor.spool()
    }

    async fn pass(&self) -> Result<(), SinkError> {
        let passed = self.pass_on().await;
        if passed.is_err() {
            self.monitor.failed();
        }
        passed
    }

    async fn pass_on(&self) -> Result<(), SinkError> {
        let end = self.spool().sync().await?;
        loop {
            let from = self.spool().cursor(self.monitor.name()).unwrap_or_default();
            let (spool, limit) = (self.spool().clone(), self.pace.batch);
            let (records, to) = task::spawn_blocking(move || read(&spool, from, end, limit)).await??;
            if to == from {
                return Ok(());
            }
            if let Some(first) = records.first() {
                self.monitor.next_is(first.sequence);
            }
            self.hand_over(records).await?;
            self.passed(to).await?;
        }
    }

    /// Delivers `records`, in smaller parts if the sink refuses one of them. What was taken of them before a failure is
    /// behind the cursor.
    async fn hand_over(&self, records: Vec<Record>) -> Result<(), SinkError> {
        let journal = self.spool().status().journal;
        let mut steps = vec![Step::Deliver(records)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Deliver(records) if records.is_empty() => continue,
                Step::Deliver(records) => {
                    let batch = Batch { journal, records, signature: None };
                    match self.deliver(&batch).await {
                        Ok(()) => self.monitor.took(batch.records.last(), self.clock.now()),
                        Err(SinkError::Refused { at, why }) => {
                            steps.extend(divided(batch.records, at, why));
                            continue;
                        }
                        Err(failed) => return Err(failed),
                    }
                }
                Step::PassOver(record, why) => self.pass_over(&record, &*why).await,
            }
            let next = steps.iter().rev().find_map(|step| match step {
                Step::Deliver(records) => records.first().map(|record| record.position),
                Step::PassOver(record, _) => Some(record.position),
            });
            if let Some(next) = next {
                self.passed(next).await?;
            }
        }
        Ok(())
    }

    /// One call of the sink, which may hang or panic.
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let delivered = AssertUnwindSafe(self.sink.deliver(batch)).catch_unwind();
        match time::timeout(self.pace.timeout, delivered).await {
            Ok(Ok(delivered)) => delivered,
            Ok(Err(_)) => Err(SinkError::failed("the sink has panicked; its message is in the log")),
            Err(_) => {
                let text =
                    format!("the sink has not taken {} records within {:?}", batch.records.len(), self.pace.timeout);
                Err(SinkError::failed(text))
            }
        }
    }

    async fn pass_over(&self, record: &Record, why: &(dyn std::error::Error + Send + Sync)) {
        let (sink, audit_id, sequence) = (self.monitor.name(), record.id, record.sequence);
        let in_a_row = self.monitor.refused(record);
        if in_a_row > REFUSED_IN_A_ROW {
            let longest = self.pace.longest_retry;
            tracing::error!(
                sink,
                in_a_row,
                "the sink refuses everything; records are passed over slowly until it is seen to"
            );
            time::sleep(longest).await;
        }
        let journal = self.spool().status().journal;
        let why = Chained(why);
        tracing::error!(sink, %audit_id, %journal, sequence, %why, "the sink refuses an audit record for good: it is passed over");
    }

    async fn passed(&self, to: Position) -> Result<(), SinkError> {
        let (spool, name) = (self.spool().clone(), self.monitor.name().to_owned());
        Ok(task::spawn_blocking(move || spool.set_cursor(&name, to)).await??)
    }
}

/// What remains to be done with records of which one is refused, first things last.
fn divided(mut records: Vec<Record>, at: Option<usize>, why: BoxError) -> Vec<Step> {
    let at = at.filter(|at| *at < records.len()).or((records.len() == 1).then_some(0));
    let Some(at) = at else {
        let second = records.split_off(records.len() / 2);
        return vec![Step::Deliver(second), Step::Deliver(records)];
    };
    let behind = records.split_off(at + 1);
    let refused = records.pop().map(|record| Step::PassOver(record, why));
    [Some(Step::Deliver(behind)), refused, Some(Step::Deliver(records))].into_iter().flatten().collect()
}

fn read(spool: &Spool, from: Position, end: Position, limit: usize) -> Result<(Vec<Record>, Position), Damage> {
    let mut reader = Reader::resume(spool.dir(), from).until(end);
    let (mut records, mut bytes, mut to) = (Vec::new(), 0, from);
    while bytes < limit {
        match reader.next() {
            None => break,
            Some(Ok(record)) => {
                bytes += record.payload.len();
                records.push(record);
            }
            Some(Err(Damage::Unreadable { segment, source })) => {
                // Perhaps not for ever: what comes before it is shipped, it is not passed over.
                if records.is_empty() {
                    return Err(Damage::Unreadable { segment, source });
                }
                return Ok((records, to));
            }
            Some(Err(damage)) => tracing::error!(%damage, "the audit spool is damaged"),
        }
        to = reader.position();
    }
    Ok((records, to.max(reader.position())))
}

/// Between nothing and `wait` ("full jitter").
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1024;
    let share = u32::try_from(random).unwrap_or_default();
    wait / 1024 * share
}
