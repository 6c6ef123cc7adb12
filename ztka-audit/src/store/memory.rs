//! A store that is gone with the process, for tests and for trying things out.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{AuditId, BoxError, ClusterId};

use super::{EventQuery, EventStore, Ingested, ReceiptStore, StoredEvent};
use crate::{Batch, Chain, Event, Receipt, Stage};

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
