//! Every journal and store of this crate passes the suite of its trait.

use std::{path::Path, sync::Arc};

use ztka_audit::{Event, MemoryJournal, MemoryStore, Receipt, Receipts, Spool, SpoolOptions, Stage, conformance, read};
use ztka_core::{AuditId, SystemClock};

fn payloads(dir: &Path) -> Vec<String> {
    read(dir).flatten().map(|record| record.payload).collect()
}

#[tokio::test]
async fn memory_journal() {
    let journal = Arc::new(MemoryJournal::default());
    let read = async || journal.events().iter().map(|event| (event.audit_id, event.stage)).collect();
    conformance::journal(&journal, read).await;
}

#[tokio::test]
async fn spool() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(SpoolOptions::new(dir.path()), &SystemClock).unwrap();
    let read = async || {
        spool.hurry();
        spool.written().wait_for(|_| spool.status().records == 9).await.unwrap();
        let place = |json: String| -> (AuditId, Stage) {
            let event = Event::from_json(json.as_bytes()).unwrap();
            (event.audit_id, event.stage)
        };
        payloads(dir.path()).into_iter().map(place).collect()
    };
    conformance::journal(&spool, read).await;
}

#[tokio::test]
async fn agents_receipts() {
    let dir = tempfile::tempdir().unwrap();
    let (receipts, _) = Receipts::open(SpoolOptions::new(dir.path()), &SystemClock).unwrap();
    let read = async || {
        receipts.spool().hurry();
        receipts.spool().written().wait_for(|_| receipts.spool().status().records == 9).await.unwrap();
        let place = |json: String| -> (AuditId, Stage) {
            let receipt = Receipt::from_json(json.as_bytes()).unwrap();
            (receipt.audit_id, receipt.stage)
        };
        payloads(dir.path()).into_iter().map(place).collect()
    };
    conformance::journal(&receipts, read).await;
}

#[tokio::test]
async fn memory_store() {
    conformance::events(&MemoryStore::default()).await;
    conformance::receipts(&MemoryStore::default()).await;
    conformance::log(&MemoryStore::default()).await;
}
