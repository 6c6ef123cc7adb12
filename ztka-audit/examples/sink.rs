//! A sink of one's own: an alarm for every denied request, beside whatever else takes from the spool.
//!
//! `cargo run -p ztka-audit --example sink`

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_audit::{Batch, Durability, Event, Follower, Journal as _, Sink, SinkError, Spool, SpoolOptions, Stage};
use ztka_core::{AuditId, BoxError, SystemClock};

#[derive(Debug, Default)]
struct Alarm {
    calls: AtomicUsize,
}

#[async_trait]
impl Sink for Alarm {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        if self.calls.fetch_add(1, Relaxed) == 0 {
            // Not taken: the same batch comes again.
            return Err(SinkError::failed("nobody answers"));
        }
        for (at, record) in batch.records.iter().enumerate() {
            // What is no event never will be: it is counted and passed over.
            let event = Event::from_json(record.payload.as_bytes()).map_err(|e| SinkError::refused_at(at, e))?;
            if event.fact("decision") == Some("deny") {
                println!("{} was denied {} {}", event.user.username, event.verb, event.request_uri);
            }
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let dir = tempfile::tempdir()?;
    let (spool, _) = Spool::open(SpoolOptions::new(dir.path().join("spool")).consumer("alarm"), &SystemClock)?;
    for (user, decision) in [("alice", "allow"), ("mallory", "deny")] {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::now());
        (event.user.username, event.verb) = (user.into(), "delete".into());
        event.request_uri = "/api/v1/namespaces/shop/secrets/key".into();
        event.annotations.set("decision", decision);
        spool.open(&event, Durability::Synced).await?;
    }
    let follower = Follower::new(spool, "alarm", Alarm::default())?;
    let failed = follower.drain().await;
    println!("first: {failed:?}");
    // A server has `tokio::spawn(follower.run())` here, which comes again by itself.
    follower.drain().await?;
    println!("then: {:?}", follower.monitor().status());
    Ok(())
}
