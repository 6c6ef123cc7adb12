//! A store that is gone with the process, for tests and for trying things out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{AuditId, BoxError, ClusterId, OrgId};

use super::{EventQuery, EventStore, GrownLog, HeadAt, Ingested, LogStore, ReceiptStore, StoredEvent};
use crate::{
    Batch, Chain, Event, Hash, Receipt, Stage,
    log::{Leaf, LeafContent, Salt, SignedHead, TILE_WIDTH, TileId, Tiles, TreeHead, entry, grow, one_line},
};

/// Events and receipts in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<StoredEvent>,
    seen: HashSet<(String, AuditId, Stage)>,
    receipts: Vec<(ClusterId, Receipt)>,
    chains: HashMap<(String, AuditId), Chain>,
    logs: BTreeMap<String, Log>,
}

/// The log of an organisation.
#[derive(Debug, Default)]
struct Log {
    leaves: Vec<(AuditId, Stage, LeafContent)>,
    tiles: Tiles,
    heads: BTreeMap<u64, (TreeHead, SignedHead)>,
}

impl Log {
    fn push(&mut self, id: AuditId, stage: Stage, content: LeafContent) {
        let (mut size, mut new, mut level) = (self.leaves.len() as u64, vec![content.hash()], 0);
        while !new.is_empty() {
            let width = TILE_WIDTH as u64;
            let last = self.tiles.hashes(TileId { level, index: size / width });
            let held: Vec<Hash> =
                last.iter().take(usize::try_from(size % width).unwrap_or_default()).copied().collect();
            let grown = grow(size, held, &new);
            for (index, hashes) in grown.tiles {
                self.tiles.insert(TileId { level, index }, hashes);
            }
            (size, new, level) = (size / width, grown.above, level + 1);
        }
        self.leaves.push((id, stage, content));
    }

    fn leaf(&self, index: usize) -> Option<Leaf> {
        let (.., content) = self.leaves.get(index)?;
        Some(Leaf { index: index as u64, content: Some(content.clone()) })
    }
}

/// Random enough for a store that is gone with the process.
fn salt() -> Salt {
    let mut salt = [0; 16];
    for half in salt.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(()).to_le_bytes());
    }
    Salt::new(salt)
}

impl Inner {
    fn chain(&mut self, source: &str, journal: AuditId) -> &mut Chain {
        self.chains.entry((source.to_owned(), journal)).or_insert_with(Chain::start)
    }
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn ingest(&self, source: &str, batch: &Batch) -> Result<Ingested, BoxError> {
        let mut inner = self.lock();
        let findings = inner.chain(source, batch.journal).follow(batch);
        let mut ingested = Ingested { findings, ..Ingested::default() };
        for record in &batch.records {
            let Ok(event) = Event::from_json(record.payload.as_bytes()) else {
                ingested.stored += 1;
                continue;
            };
            if inner.seen.insert((source.to_owned(), event.audit_id, event.stage)) {
                let entry = entry(source, &one_line(&record.payload));
                let log = inner.logs.entry(event.fact("org").unwrap_or_default().to_owned()).or_default();
                log.push(event.audit_id, event.stage, LeafContent { salt: salt(), entry });
                let number = inner.events.len() as u64 + 1;
                inner.events.push(StoredEvent { number, event });
                ingested.stored += 1;
            } else {
                ingested.known += 1;
            }
        }
        Ok(ingested)
    }

    async fn query(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, BoxError> {
        let inner = self.lock();
        let matches = |stored: &&StoredEvent| query.matches(stored.number, &stored.event);
        Ok(match query.oldest_first {
            true => inner.events.iter().filter(matches).take(query.rows()).cloned().collect(),
            false => inner.events.iter().rev().filter(matches).take(query.rows()).cloned().collect(),
        })
    }
}

#[async_trait]
impl ReceiptStore for MemoryStore {
    async fn ingest_receipts(&self, source: &str, cluster: &ClusterId, batch: &Batch) -> Result<Ingested, BoxError> {
        let mut inner = self.lock();
        let known = inner.chain(source, batch.journal).next;
        let findings = inner.chain(source, batch.journal).follow(batch);
        let mut ingested = Ingested { findings, ..Ingested::default() };
        for record in &batch.records {
            if record.sequence < known {
                ingested.known += 1;
                continue;
            }
            ingested.stored += 1;
            if let Ok(receipt) = Receipt::from_json(record.payload.as_bytes()) {
                inner.receipts.push((cluster.clone(), receipt));
            }
        }
        Ok(ingested)
    }

    async fn receipts(&self, cluster: &ClusterId, from: Timestamp, until: Timestamp) -> Result<Vec<Receipt>, BoxError> {
        let inner = self.lock();
        let asked = |(of, receipt): &&(ClusterId, Receipt)| of == cluster && (from..until).contains(&receipt.time);
        Ok(inner.receipts.iter().filter(asked).map(|(_, receipt)| receipt.clone()).collect())
    }
}

#[async_trait]
impl LogStore for MemoryStore {
    async fn log_size(&self, org: &OrgId) -> Result<u64, BoxError> {
        Ok(self.lock().logs.get(org.as_str()).map_or(0, |log| log.leaves.len() as u64))
    }

    async fn tiles(&self, org: &OrgId, ids: &[TileId]) -> Result<Tiles, BoxError> {
        let inner = self.lock();
        let Some(log) = inner.logs.get(org.as_str()) else { return Ok(Tiles::default()) };
        let there = ids.iter().map(|id| (*id, log.tiles.hashes(*id).to_vec())).filter(|(_, hashes)| !hashes.is_empty());
        Ok(there.collect())
    }

    async fn leaves(&self, org: &OrgId, range: Range<u64>) -> Result<Vec<Leaf>, BoxError> {
        let inner = self.lock();
        let Some(log) = inner.logs.get(org.as_str()) else { return Ok(Vec::new()) };
        let end = range.end.min(log.leaves.len() as u64);
        Ok((range.start..end).filter_map(|index| log.leaf(usize::try_from(index).ok()?)).collect())
    }

    async fn leaves_of(&self, org: &OrgId, id: AuditId, stage: Option<Stage>) -> Result<Vec<Leaf>, BoxError> {
        let inner = self.lock();
        let Some(log) = inner.logs.get(org.as_str()) else { return Ok(Vec::new()) };
        let asked = |(of, at, _): &(AuditId, Stage, LeafContent)| *of == id && stage.is_none_or(|stage| *at == stage);
        let found = (0..log.leaves.len()).filter(|index| log.leaves.get(*index).is_some_and(asked));
        Ok(found.filter_map(|index| log.leaf(index)).take(100).collect())
    }

    async fn add_head(&self, head: &TreeHead, signed: &SignedHead) -> Result<bool, BoxError> {
        let mut inner = self.lock();
        let heads = &mut inner.logs.entry(head.org.to_string()).or_default().heads;
        let is_new = !heads.contains_key(&head.size);
        heads.entry(head.size).or_insert_with(|| (head.clone(), signed.clone()));
        Ok(is_new)
    }

    async fn head(&self, org: &OrgId, at: HeadAt) -> Result<Option<SignedHead>, BoxError> {
        let inner = self.lock();
        let Some(Log { heads, .. }) = inner.logs.get(org.as_str()) else { return Ok(None) };
        let found = match at {
            HeadAt::Newest => heads.values().next_back(),
            HeadAt::Size(size) => heads.get(&size),
            HeadAt::After(size) => heads.range(size.saturating_add(1)..).next().map(|(_, head)| head),
        };
        Ok(found.map(|(_, signed)| signed.clone()))
    }

    async fn grown_logs(&self, of: Option<&OrgId>) -> Result<Vec<GrownLog>, BoxError> {
        let inner = self.lock();
        let asked = inner.logs.iter().filter(|(org, _)| of.is_none_or(|of| of.as_str() == *org));
        let grown = asked.filter_map(|(org, log)| {
            let (org, size) = (org.parse().ok()?, log.leaves.len() as u64);
            let head = log.heads.values().next_back().map(|(head, _)| (head.size, head.time));
            (head.map_or(0, |(size, _)| size) < size).then_some(GrownLog { org, epoch: 1, size, head })
        });
        Ok(grown.collect())
    }
}
