//! Takes records from a spool in order and brings them somewhere, however long that takes.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task, time};
use ztka_core::BoxError;

use crate::{Batch, Damage, Position, Reader, Record, Spool};

/// Brings records to another place.
#[async_trait]
pub trait Shipper: Send + Sync + std::fmt::Debug + 'static {
    /// Takes a batch over; `Ok` means that it is durable there. A batch that was not acknowledged comes again, perhaps
    /// cut otherwise: the receiver has to recognise records it has, by journal and sequence, or by Audit-ID and stage.
    ///
    /// Not retried for ever in vain: what the receiver will never take (a batch it finds malformed) it should take and
    /// report, or the spool fills up.
    async fn ship(&self, batch: Batch) -> Result<(), BoxError>;
}

#[async_trait]
impl<S: Shipper + ?Sized> Shipper for std::sync::Arc<S> {
    async fn ship(&self, batch: Batch) -> Result<(), BoxError> {
        (**self).ship(batch).await
    }
}

/// When a follower ships.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// It waits this long for more after a first record; 500 ms by default.
    pub linger: Duration,
    /// Bytes of payload after which a batch is cut; 1 MiB by default.
    pub batch: usize,
    /// Wait after a first failure, doubled with each further one; 500 ms by default.
    pub retry: Duration,
    /// Longest wait; 30 s by default.
    pub longest_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(500),
            batch: 1 << 20,
            retry: Duration::from_millis(500),
            longest_retry: Duration::from_secs(30),
        }
    }
}

/// The spool was opened without this consumer, and would not keep anything for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit spool does not know the consumer {0:?}; name it when the spool is opened")]
pub struct UnknownConsumer(String);

/// A consumer of a spool: reads on from its cursor, ships, and moves the cursor when it is acknowledged.
///
/// What it ships is on this machine's disk first, so that a receiver never knows more than the spool after a loss of
/// power.
#[derive(Debug)]
pub struct Follower<S> {
    spool: Spool,
    name: String,
    shipper: S,
    pace: Pace,
}

impl<S: Shipper> Follower<S> {
    /// Ships as consumer `name` of `spool`. One follower at a time per name.
    ///
    /// # Errors
    /// The spool was opened without this consumer.
    pub fn new(spool: Spool, name: impl Into<String>, shipper: S) -> Result<Self, UnknownConsumer> {
        let name = name.into();
        if spool.cursor(&name).is_none() {
            return Err(UnknownConsumer(name));
        }
        Ok(Self { spool, name, shipper, pace: Pace::default() })
    }

    /// Ships at this pace.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Ships for ever; failures are logged and tried again. May be dropped at any time: what was not acknowledged is
    /// shipped by the next follower of that name.
    pub async fn run(&self) -> Infallible {
        let mut written = self.spool.written();
        let mut wait = self.pace.retry;
        loop {
            written.mark_unchanged();
            match self.drain().await {
                Ok(()) => wait = self.pace.retry,
                Err(error) => {
                    tracing::warn!(consumer = %self.name, error = %Chained(&*error), "audit records wait to be shipped");
                    time::sleep(jittered(wait)).await;
                    wait = wait.saturating_mul(2).min(self.pace.longest_retry);
                    continue;
                }
            }
            // The spool is held here, so its end of the channel is there.
            let _ = written.changed().await;
            time::sleep(self.pace.linger).await;
        }
    }

    /// Ships what is written so far, then returns.
    ///
    /// # Errors
    /// The spool cannot be read or synced, or the shipper fails; the rest is still to be shipped then.
    pub async fn drain(&self) -> Result<(), BoxError> {
        let end = self.spool.sync().await?;
        let journal = self.spool.status().journal;
        loop {
            let from = self.spool.cursor(&self.name).unwrap_or_default();
            let (spool, limit) = (self.spool.clone(), self.pace.batch);
            let (records, to) = task::spawn_blocking(move || read(&spool, from, end, limit)).await??;
            if to == from {
                return Ok(());
            }
            if !records.is_empty() {
                self.shipper.ship(Batch { journal, records, signature: None }).await?;
            }
            let (spool, name) = (self.spool.clone(), self.name.clone());
            task::spawn_blocking(move || spool.set_cursor(&name, to)).await??;
        }
    }
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

/// Between half of `wait` and all of it, so that many senders do not come back at once.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1024;
    let share = u32::try_from(random).unwrap_or_default();
    wait / 2 + wait / 2048 * share
}

/// An error and what caused it, in one line.
struct Chained<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
