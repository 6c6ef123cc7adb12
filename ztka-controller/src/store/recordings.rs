//! Recordings of sessions, chunk by chunk as proxies bring them.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_audit::{About, Chunk, Hash, Last};
use ztka_core::{AuditId, OrgId};

use super::StoreError;

/// What is known of a recording.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptRecording {
    /// The recording: the Audit-ID of its request.
    pub id: AuditId,
    /// What it is of.
    pub about: About,
    /// Chunks that are there.
    pub chunks: u64,
    /// Bytes that these are.
    pub bytes: u64,
    /// Hash of the last of them.
    pub hash: Hash,
    /// How it has ended; none of one that runs, or whose proxy is away.
    pub last: Option<Last>,
    /// When its newest chunk was closed.
    pub at: Timestamp,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TakenChunk {
    /// It, or what is there in its place, leaves this number as the next.
    Next(u64),
    /// The organisation has as many recordings as it may.
    Full,
    /// There is no such organisation (any more): nothing of it is kept.
    Nobody,
}

/// Keeps recordings, sealed under the data key of their organisation.
#[async_trait]
pub trait RecordingStore: Send + Sync + std::fmt::Debug + 'static {
    /// Takes a chunk that `source` has brought, if it is the next of its recording; one that is there already is not taken
    /// again. A recording is its source's alone. The first chunk is refused if the organisation has `most` bytes or more.
    async fn take_chunk(&self, source: &str, chunk: &Chunk, most: u64) -> Result<TakenChunk, StoreError>;

    /// Recordings of an organisation, newest first, behind the one with this time and id, at most `limit`.
    async fn recordings(
        &self,
        org: &OrgId,
        before: Option<(Timestamp, AuditId)>,
        limit: u32,
    ) -> Result<Vec<KeptRecording>, StoreError>;

    /// One recording of an organisation.
    async fn recording(&self, org: &OrgId, id: AuditId) -> Result<Option<KeptRecording>, StoreError>;

    /// Chunks of a recording of an organisation from a number on, in order, at most `limit`.
    async fn recording_chunks(&self, org: &OrgId, id: AuditId, from: u64, limit: u32)
    -> Result<Vec<Chunk>, StoreError>;

    /// Removes recordings whose newest chunk is older than `before`, a few of them; says how many.
    async fn remove_recordings(&self, before: Timestamp) -> Result<u64, StoreError>;
}
