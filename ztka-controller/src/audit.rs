//! The controller's own record: who changed what, who enrolled, who was refused.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use ztka_audit::{Batch, Chain, Event, EventStore, Kind, Position, Record, ResponseStatus, Stage, User};
use ztka_core::{AuditId, BoxError, OrgId};
use ztka_identity::{Caller, StoreError};

use crate::{Controller, figures::Counts};

/// Notes that wait for the store at most.
const WAITING: usize = 1024;

/// A journal that goes straight to the store of events, as a hash chain of its own.
#[derive(Debug)]
pub(crate) struct OwnJournal {
    events: Arc<dyn EventStore>,
    source: String,
    journal: AuditId,
    counts: Arc<Counts>,
    chain: Mutex<Chain>,
    notes: mpsc::Sender<Event>,
    waiting: Mutex<mpsc::Receiver<Event>>,
}

impl OwnJournal {
    pub(crate) fn new(events: Arc<dyn EventStore>, source: String, counts: Arc<Counts>) -> Self {
        let (notes, waiting) = mpsc::channel(WAITING);
        let (journal, chain) = (AuditId::generate(), Mutex::new(Chain::start()));
        Self { events, source, journal, counts, chain, notes, waiting: Mutex::new(waiting) }
    }

    /// Records an event durably before it returns, and also if the future is dropped.
    pub(crate) async fn record(self: &Arc<Self>, event: Event) -> Result<(), BoxError> {
        let journal = self.clone();
        tokio::spawn(async move { journal.append(&event).await }).await?
    }

    async fn append(&self, event: &Event) -> Result<(), BoxError> {
        let mut chain = self.chain.lock().await;
        let record = Record {
            position: Position::default(),
            sequence: chain.next,
            previous: chain.head,
            kind: if event.stage == Stage::RequestReceived { Kind::Open } else { Kind::Close },
            id: event.audit_id,
            payload: String::from_utf8(event.to_json())?,
        };
        let next = Chain { next: chain.next.saturating_add(1), head: record.hash() };
        let batch = Batch { journal: self.journal, records: vec![record], signature: None };
        self.events.ingest(&self.source, &batch).await.inspect_err(|_| self.counts.store_failed())?;
        *chain = next;
        Ok(())
    }

    /// Records an event soon, from where nothing can be waited for.
    pub(crate) fn note(&self, event: Event) {
        if let Err(error) = self.notes.try_send(event) {
            tracing::error!(%error, "an event of the controller itself was not recorded");
        }
    }

    /// Records what is noted, without end.
    pub(crate) async fn run(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock().await;
        while let Some(event) = waiting.recv().await {
            self.record_noted(event).await;
        }
    }

    async fn record_noted(self: &Arc<Self>, event: Event) {
        if let Err(error) = self.record(event).await {
            tracing::error!(error = &*error, "an event of the controller itself was not recorded");
        }
    }

    /// Records what was noted so far.
    pub(crate) async fn flush(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock().await;
        while let Ok(event) = waiting.try_recv() {
            self.record_noted(event).await;
        }
    }
}

impl Controller {
    /// Puts a restore on record that was done while no controller ran.
    pub(crate) async fn record_restore(&self) -> Result<(), StoreError> {
        let documents = &self.0.stores.documents;
        let Some(epoch) = documents.unrecorded_epoch().await? else { return Ok(()) };
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, self.now());
        event.verb = "restore".into();
        event.request_uri = "/restore".into();
        event.user.username = "system:operator".into();
        event.annotations.set("org", OrgId::installation().as_str());
        event.annotations.set("epoch", epoch.to_string());
        tracing::warn!(epoch, "the database was restored: a new history has begun");
        if let Err(error) = self.0.journal.record(event).await {
            // Tried again at the next start; serving does not wait for it.
            tracing::error!(error = &*error, "a restore is not on record");
            return Ok(());
        }
        documents.epoch_recorded(epoch).await
    }
}

/// An administrative act, or the attempt.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    id: AuditId,
    at: Timestamp,
    org: OrgId,
    verb: String,
    path: String,
    user: User,
    credential: String,
    source: Option<IpAddr>,
}

impl Act {
    pub(crate) fn new(
        caller: &Caller,
        org: Option<&OrgId>,
        method: &http::Method,
        path: &str,
        source: Option<IpAddr>,
        at: Timestamp,
    ) -> Self {
        Self {
            id: AuditId::generate(),
            at,
            org: org.unwrap_or(&caller.user.org).clone(),
            verb: method.as_str().to_ascii_lowercase(),
            path: path.into(),
            user: User { username: caller.user.name.to_string(), uid: caller.user.id.to_string(), ..User::default() },
            credential: caller.credential.id.to_string(),
            source,
        }
    }

    pub(crate) fn event(&self, stage: Stage, now: Timestamp) -> Event {
        let mut event = Event::new(self.id, stage, self.at);
        event.stage_timestamp = now;
        event.request_uri.clone_from(&self.path);
        event.verb.clone_from(&self.verb);
        event.user = self.user.clone();
        event.source_ips.extend(self.source);
        event.annotations.set("org", self.org.as_str());
        event.annotations.set("credential", self.credential.as_str());
        event
    }

    pub(crate) fn done(&self, code: http::StatusCode, now: Timestamp) -> Event {
        let mut event = self.event(Stage::ResponseComplete, now);
        event.response_status = Some(ResponseStatus::from(code));
        event.annotations.set("decision", "allow");
        event
    }

    pub(crate) fn refused(&self, reason: &str, now: Timestamp) -> Event {
        let mut event = self.event(Stage::ResponseComplete, now);
        event.response_status = Some(ResponseStatus::from(http::StatusCode::FORBIDDEN));
        event.annotations.set("decision", "deny");
        event.annotations.set("reason", reason);
        event
    }
}
