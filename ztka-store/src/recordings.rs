//! Recordings of sessions.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_audit::{About, Chunk, Hash};
use ztka_controller::store::{KeptRecording, RecordingStore, TakenChunk};
use ztka_core::{AuditId, OrgId};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    encryption::Place,
    row::{json, micros, number, signed, time, to_json},
    sql::{Row, sql},
};

/// Recordings that are removed at once.
const AT_ONCE: i64 = 16;

pub(crate) fn body_of<'a>(org: &'a str, id: &'a str) -> Place<'a> {
    Place { org, table: "recordings", column: "body", row: id }
}

/// Names a chunk.
pub(crate) fn chunk_row(recording: &str, number: i64) -> String {
    format!("{recording}/{number}")
}

pub(crate) fn chunk_of<'a>(org: &'a str, row: &'a str) -> Place<'a> {
    Place { org, table: "recording_chunks", column: "body", row }
}

impl Store {
    async fn kept(&self, org: &OrgId, row: &Row) -> Result<KeptRecording, Failed> {
        let id = row.str("id")?;
        let about = self.text_at(body_of(org.as_str(), id), row, "body", "sealed").await?;
        let last = row.some_str("last")?.is_some();
        Ok(KeptRecording {
            id: AuditId::parse(id).ok_or(Failed::Corrupt("id"))?,
            about: serde_json::from_str(&about).map_err(|_| Failed::Corrupt("body"))?,
            chunks: number(row, "chunks")?,
            bytes: number(row, "bytes")?,
            hash: Hash::try_from(row.str("head")?.to_owned()).map_err(|_| Failed::Corrupt("head"))?,
            last: if last { Some(json(row, "last")?) } else { None },
            at: time(row, "at")?,
        })
    }

    /// Why an organisation gets no new recording, if it does not: it is not there, or has `most` bytes of them.
    async fn may_begin(&self, org: &OrgId, most: u64) -> Result<Option<TakenChunk>, Failed> {
        let is = sql("SELECT org FROM versions WHERE org = $1 AND deleted IS NULL").bind(org.as_str());
        if self.readers().fetch_optional(is).await?.is_none() {
            return Ok(Some(TakenChunk::Nobody));
        }
        let sum = sql("SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM recordings WHERE org = $1");
        let row = self.readers().fetch_one(sum.bind(org.as_str())).await?;
        Ok((number(&row, "bytes")? >= most).then_some(TakenChunk::Full))
    }

    /// The organisation of a recording.
    async fn org_of_recording(&self, id: AuditId) -> Result<Option<OrgId>, Failed> {
        let row = sql("SELECT org FROM recordings WHERE id = $1").bind(id.to_string());
        let row = self.readers().fetch_optional(row).await?;
        row.map(|row| row.str("org")?.parse().map_err(|_| Failed::Corrupt("org"))).transpose()
    }

    async fn begin_recording(
        &self,
        source: &str,
        chunk: &Chunk,
        about: &About,
        most: u64,
    ) -> Result<TakenChunk, Failed> {
        let id = chunk.recording.to_string();
        let there = sql("SELECT chunks FROM recordings WHERE id = $1").bind(&id);
        if let Some(row) = self.readers().fetch_optional(there).await? {
            return Ok(TakenChunk::Next(number(&row, "chunks")?));
        }
        if let Some(refused) = self.may_begin(&about.org, most).await? {
            return Ok(refused);
        }
        let org = about.org.as_str();
        let sealer = self.sealer(org).await?;
        let (body, sealed) = sealer.seal(body_of(org, &id), to_json(about)?)?;
        let row = chunk_row(&id, 0);
        let (clear, sealed_chunk) = sealer.seal_bytes(chunk_of(org, &row), chunk.encoded())?;
        let mut write = self.write().await?;
        let insert = "INSERT INTO recordings (id, org, source, started, at, chunks, bytes, head, last, body, sealed) \
                      VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
        let last = chunk.last.as_ref().map(to_json).transpose()?;
        let insert = sql(insert).bind(&id).bind(org).bind(source).bind(micros(about.started)).bind(micros(chunk.at));
        let insert = insert.bind(signed(chunk.encoded().len() as u64)).bind(chunk.hash().to_string());
        if write.execute(insert.bind(last).bind(body).bind(sealed)).await? == 1 {
            let insert =
                sql("INSERT INTO recording_chunks (recording, number, org, body, sealed) VALUES ($1, 0, $2, $3, $4)");
            write.execute(insert.bind(&id).bind(org).bind(clear).bind(sealed_chunk)).await?;
        }
        write.commit().await?;
        Ok(TakenChunk::Next(1))
    }

    async fn continue_recording(&self, source: &str, chunk: &Chunk) -> Result<TakenChunk, Failed> {
        // One that was removed, or never begun: from its beginning, if it is still wanted.
        let Some(org) = self.org_of_recording(chunk.recording).await? else { return Ok(TakenChunk::Next(0)) };
        let (id, at, org) = (chunk.recording.to_string(), signed(chunk.number), org.as_str());
        let sealer = self.sealer(org).await?;
        let row = chunk_row(&id, at);
        let (clear, sealed) = sealer.seal_bytes(chunk_of(org, &row), chunk.encoded())?;
        let mut write = self.write().await?;
        // Only the next one that fits to the last one, by who has begun it, and none behind the end.
        let take = "UPDATE recordings SET chunks = chunks + 1, bytes = bytes + $1, head = $2, last = $3, at = $4 \
                    WHERE id = $5 AND source = $6 AND chunks = $7 AND head = $8 AND last IS NULL";
        let last = chunk.last.as_ref().map(to_json).transpose()?;
        let take = sql(take).bind(signed(chunk.encoded().len() as u64)).bind(chunk.hash().to_string()).bind(last);
        let take = take.bind(micros(chunk.at)).bind(&id).bind(source).bind(at).bind(chunk.previous.to_string());
        if write.execute(take).await? == 1 {
            let text =
                "INSERT INTO recording_chunks (recording, number, org, body, sealed) VALUES ($1, $2, $3, $4, $5)";
            write.execute(sql(text).bind(&id).bind(at).bind(org).bind(clear).bind(sealed)).await?;
            write.commit().await?;
            return Ok(TakenChunk::Next(chunk.number + 1));
        }
        let there = sql("SELECT chunks FROM recordings WHERE id = $1").bind(&id);
        let there = write.fetch_optional(there).await?;
        Ok(TakenChunk::Next(there.map(|row| number(&row, "chunks")).transpose()?.unwrap_or(0)))
    }
}

#[async_trait]
impl RecordingStore for Store {
    async fn take_chunk(&self, source: &str, chunk: &Chunk, most: u64) -> Result<TakenChunk, StoreError> {
        Ok(match &chunk.about {
            Some(about) => self.begin_recording(source, chunk, about, most).await?,
            None => self.continue_recording(source, chunk).await?,
        })
    }

    async fn recordings(
        &self,
        org: &OrgId,
        before: Option<(Timestamp, AuditId)>,
        limit: u32,
    ) -> Result<Vec<KeptRecording>, StoreError> {
        let (time, id) = before.map_or((i64::MAX, String::new()), |(time, id)| (micros(time), id.to_string()));
        let query = "SELECT * FROM recordings WHERE org = $1 AND (started, id) < ($2, $3) \
                     ORDER BY started DESC, id DESC LIMIT $4";
        let query = sql(query).bind(org.as_str()).bind(time).bind(id).bind(i64::from(limit));
        let rows = self.readers().fetch_all(query).await?;
        let mut kept = Vec::with_capacity(rows.len());
        for row in &rows {
            kept.push(self.kept(org, row).await?);
        }
        Ok(kept)
    }

    async fn recording(&self, org: &OrgId, id: AuditId) -> Result<Option<KeptRecording>, StoreError> {
        let query = sql("SELECT * FROM recordings WHERE org = $1 AND id = $2").bind(org.as_str()).bind(id.to_string());
        match self.readers().fetch_optional(query).await? {
            Some(row) => Ok(Some(self.kept(org, &row).await?)),
            None => Ok(None),
        }
    }

    async fn recording_chunks(
        &self,
        org: &OrgId,
        id: AuditId,
        from: u64,
        limit: u32,
    ) -> Result<Vec<Chunk>, StoreError> {
        let query = "SELECT recording, number, body, sealed FROM recording_chunks \
                     WHERE org = $1 AND recording = $2 AND number >= $3 ORDER BY number LIMIT $4";
        let query = sql(query).bind(org.as_str()).bind(id.to_string()).bind(signed(from)).bind(i64::from(limit));
        let rows = self.readers().fetch_all(query).await?;
        let mut chunks = Vec::with_capacity(rows.len());
        for row in &rows {
            let place = chunk_row(row.str("recording")?, row.number("number")?);
            let wire = match row.some_bytes("sealed")? {
                Some(sealed) => self.unseal(chunk_of(org.as_str(), &place), sealed).await?,
                None => row.bytes("body")?.to_vec(),
            };
            chunks.push(Chunk::decode(Bytes::from(wire)).map_err(|_| Failed::Corrupt("body"))?);
        }
        Ok(chunks)
    }

    async fn remove_recordings(&self, before: Timestamp) -> Result<u64, StoreError> {
        let old =
            sql("SELECT id FROM recordings WHERE at < $1 ORDER BY at LIMIT $2").bind(micros(before)).bind(AT_ONCE);
        let rows = self.readers().fetch_all(old).await?;
        for row in &rows {
            let mut write = self.write().await?;
            let id = row.str("id")?;
            write.execute(sql("DELETE FROM recording_chunks WHERE recording = $1").bind(id)).await?;
            write.execute(sql("DELETE FROM recordings WHERE id = $1").bind(id)).await?;
            write.commit().await?;
        }
        Ok(rows.len() as u64)
    }
}
