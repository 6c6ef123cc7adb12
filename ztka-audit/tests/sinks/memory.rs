//! The suite itself: a sink that does it right passes.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ztka_audit::{
    Batch, Event, Sink, SinkError,
    conformance::{self, Place, Trouble},
};

/// A place in memory, which is away or hangs when it is told to.
#[derive(Clone, Debug, Default)]
struct Memory {
    payloads: Arc<Mutex<Vec<String>>>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

#[async_trait]
impl Sink for Memory {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let trouble = *self.trouble.lock().unwrap();
        let some = match trouble {
            None => batch.records.len(),
            Some(Trouble::Refuses) => 0,
            Some(Trouble::CutsOff) => batch.records.len() / 2,
            Some(Trouble::Hangs) => std::future::pending().await,
        };
        let payloads = batch.records.iter().take(some).map(|record| record.payload.clone());
        self.payloads.lock().unwrap().extend(payloads);
        trouble.map_or(Ok(()), |_| Err(SinkError::failed("away")))
    }
}

#[async_trait]
impl Place for Memory {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.clone())
    }

    async fn arrived(&self) -> Vec<Event> {
        let payloads = self.payloads.lock().unwrap();
        payloads.iter().filter_map(|payload| Event::from_json(payload.as_bytes()).ok()).collect()
    }

    async fn trouble(&self, trouble: Option<Trouble>) -> bool {
        *self.trouble.lock().unwrap() = trouble;
        true
    }
}

#[tokio::test]
async fn a_place_in_memory_passes() {
    let dir = tempfile::tempdir().unwrap();
    conformance::sink(&Memory::default(), dir.path()).await;
}
