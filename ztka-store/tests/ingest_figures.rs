//! How fast events are taken in, for whoever looks: `cargo test -p ztka-store --test ingest_figures -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "these are figures")]

mod kit;

use std::time::Instant;

use kit::Place;
use ztka_audit::{Batch, Event, EventStore as _, Hash, Kind, Position, Record, Stage};
use ztka_core::AuditId;

fn batch(count: usize) -> Batch {
    let (mut previous, mut records) = (Hash::default(), Vec::new());
    for sequence in 0..count as u64 {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, jiff::Timestamp::UNIX_EPOCH);
        for (name, value) in [("org", "acme"), ("cluster", "c0j4ys1q9f0000000000"), ("decision", "allow")] {
            event.annotations.set(name, value);
        }
        event.request_uri = format!("/api/v1/namespaces/shop/pods/{}", "x".repeat(500));
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, kind, id) = (Position::default(), Kind::Close, event.audit_id);
        records.push(Record { position, sequence, previous, kind, id, payload });
        previous = records.last().unwrap().hash();
    }
    Batch { journal: AuditId::generate(), records, signature: None }
}

async fn measure(place: &Place, what: &str) {
    let store = place.unlocked().await;
    for (size, times) in [(1, 300), (256, 40), (1000, 20)] {
        let batches: Vec<_> = (0..times).map(|_| batch(size)).collect();
        let begun = Instant::now();
        for batch in &batches {
            store.ingest("spiffe://example.com/proxy/p1", batch).await.unwrap();
        }
        let taken = begun.elapsed().as_secs_f64();
        println!("{what}, batches of {size}: {:.0} events/s", (size * times) as f64 / taken);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures"]
async fn sqlite() {
    measure(&Place::sqlite().unwrap(), "SQLite").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures"]
async fn postgres() {
    if let Some(place) = Place::postgres() {
        measure(&place, "PostgreSQL").await;
    }
}
