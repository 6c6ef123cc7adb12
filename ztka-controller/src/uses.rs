//! When credentials were used last: gathered from what proxies report, and written now and then.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::Notify;
use ztka_audit::{Batch, Kind};
use ztka_core::CredentialId;
use ztka_identity::StoreError;

use crate::Controller;

/// Between two writes.
const EVERY: Duration = Duration::from_secs(5);
/// So many credentials are written at once, and kept at most until then: a few megabytes.
const MOST: usize = 10_000;

/// The latest use of each credential since they were written. However many requests there are, each credential is
/// written once in [`EVERY`]; what is not written when the process is killed is known again at the next use.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    latest: Mutex<HashMap<CredentialId, Timestamp>>,
    full: Notify,
}

/// The part of an event that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Used {
    request_received_timestamp: Timestamp,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "ztka.dev/credential")]
    credential: CredentialId,
}

impl Uses {
    /// `credential` was used at `at`.
    pub(crate) fn note(&self, credential: &CredentialId, at: Timestamp) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = latest.len() >= MOST;
        match latest.get_mut(credential) {
            Some(noted) => *noted = at.max(*noted),
            // It is a figure for people: at the limit the use is left out, and the next one is not.
            None if is_full => self.full.notify_one(),
            None => drop(latest.insert(credential.clone(), at)),
        }
    }

    /// Whoever has opened a record in these events was here. What lies in the future is as of now: a proxy's clock may be wrong.
    pub(crate) fn note_events(&self, batch: &Batch, now: Timestamp) {
        for record in batch.records.iter().filter(|record| record.kind == Kind::Open) {
            if let Ok(used) = serde_json::from_str::<Used>(&record.payload) {
                self.note(&used.annotations.credential, used.request_received_timestamp.min(now));
            }
        }
    }

    fn take(&self) -> Vec<(CredentialId, Timestamp)> {
        std::mem::take(&mut *self.latest.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

impl Controller {
    /// Writes when credentials were used last.
    ///
    /// # Errors
    /// [`StoreError`]; what was not written is written with the next.
    pub async fn write_uses(&self) -> Result<(), StoreError> {
        let uses = self.0.uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        let written = self.directory().store().note_uses(&uses).await;
        if written.is_err() {
            uses.iter().for_each(|(credential, at)| self.0.uses.note(credential, *at));
        }
        written
    }

    /// Writes now and then, without end.
    pub(crate) async fn keep_uses(&self) {
        loop {
            let _ = tokio::time::timeout(EVERY, self.0.uses.full.notified()).await;
            if let Err(error) = self.write_uses().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "uses of credentials are not written now");
                self.0.counts.store_failed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ztka_audit::{Event, Kind, Position, Record, Stage};
    use ztka_core::AuditId;

    use super::*;

    fn event(credential: Option<&str>, at: Timestamp) -> Record {
        let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, at);
        if let Some(credential) = credential {
            event.annotations.set("credential", credential);
        }
        let payload = String::from_utf8(event.to_json()).unwrap();
        let chain = ztka_audit::Chain::start();
        let (sequence, previous) = (chain.next, chain.head);
        Record { position: Position::default(), sequence, previous, kind: Kind::Open, id: event.audit_id, payload }
    }

    #[test]
    fn the_latest_use_of_each_counts_and_what_cannot_be_read_does_not() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut records = vec![event(Some("k1"), at(20)), event(Some("k1"), at(10)), event(None, at(30))];
        records.extend([event(Some("k2"), at(5)), event(Some("k3"), at(900))]);
        records.push(Record { payload: "rubbish".into(), ..event(None, at(1)) });
        let uses = Uses::default();
        uses.note_events(&Batch { journal: AuditId::generate(), records, signature: None }, at(100));
        let mut taken = uses.take();
        taken.sort();
        let expected = [("k1", at(20)), ("k2", at(5)), ("k3", at(100))];
        assert_eq!(taken, expected.map(|(id, at)| (id.parse().unwrap(), at)));
        assert!(uses.take().is_empty());
    }

    #[test]
    fn more_than_there_is_room_for_is_left_out_and_asks_to_be_written() {
        let uses = Uses::default();
        for _ in 0..MOST + 10 {
            uses.note(&CredentialId::generate(), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(uses.take().len(), MOST);
    }
}
