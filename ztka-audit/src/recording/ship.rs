//! Brings recordings to where they are kept, chunk by chunk while they run.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task, time::sleep};
use ztka_core::{AuditId, BoxError};

use super::{Recordings, chunk::Chunk, sealed::ChunkReader, spool::Inner};

/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where recordings are kept.
///
/// It has each chunk once, in order, and nothing that does not fit to the one before, however often and by however many it is
/// brought.
#[async_trait]
pub trait RecordingSink: Send + Sync + 'static {
    /// Takes a chunk, durably, and says the number of the chunk that is wanted next: that of this one if it cannot be the
    /// next, or a later one if this one is there already.
    ///
    /// # Errors
    /// It cannot be kept now.
    async fn take(&self, chunk: &Chunk) -> Result<u64, BoxError>;
}

impl Recordings {
    /// Brings what is recorded to `sink`, again and again until it has it, and removes here what is there whole. Never returns.
    pub async fn ship(self, sink: impl RecordingSink) {
        let mut open = HashMap::new();
        let mut pause = PAUSE;
        loop {
            let failed = self.ship_once(&sink, &mut open).await;
            if failed {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = PAUSE;
                self.inner().news.notified().await;
            }
        }
    }

    /// True if something could not be brought away.
    async fn ship_once(&self, sink: &impl RecordingSink, open: &mut HashMap<AuditId, ChunkReader>) -> bool {
        let all: BTreeSet<AuditId> = self.inner().kept().keys().copied().collect();
        open.retain(|id, _| all.contains(id));
        let mut failed = false;
        for id in all {
            match self.ship_one(sink, id, open).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(recording = %id, error = &*error, "a recording cannot be brought away now");
                    open.remove(&id);
                    failed = true;
                }
            }
        }
        failed
    }

    async fn ship_one(
        &self,
        sink: &impl RecordingSink,
        id: AuditId,
        open: &mut HashMap<AuditId, ChunkReader>,
    ) -> Result<(), BoxError> {
        loop {
            let reader = open.remove(&id);
            let inner = self.inner().clone();
            let (reader, chunk) = task::spawn_blocking(move || next(&inner, id, reader)).await??;
            let Some(chunk) = chunk else {
                open.insert(id, reader);
                return Ok(());
            };
            let wanted = sink.take(&chunk).await?;
            if wanted <= chunk.number {
                return Err(format!("chunk {} is wanted, and {} was brought", wanted, chunk.number).into());
            }
            if chunk.last.is_some() {
                let inner = self.inner().clone();
                task::spawn_blocking(move || inner.remove(id)).await?;
                return Ok(());
            }
            open.insert(id, reader);
        }
    }
}

fn next(inner: &Inner, id: AuditId, reader: Option<ChunkReader>) -> std::io::Result<(ChunkReader, Option<Chunk>)> {
    let mut reader = match reader {
        Some(reader) => reader,
        None => inner.reader(id)?,
    };
    let chunk = reader.next()?;
    Ok((reader, chunk))
}
