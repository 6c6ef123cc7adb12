//! The tests that every [`Journal`], [`EventStore`], [`ReceiptStore`] and [`Sink`](crate::Sink) passes.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are test suites")]

mod log;
mod sink;
mod wire;

pub use self::log::log;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use ztka_core::{AuditId, ClusterId};

pub use self::{
    sink::{Place, sink},
    wire::{Trouble, Wire},
};
use crate::{
    Batch, Durability, Event, EventQuery, EventStore, Finding, Hash, Journal, Kind, ObjectRef, Position, Receipt,
    ReceiptStore, Record, Stage,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn event(id: AuditId, stage: Stage, second: i64) -> Event {
    let mut event = Event::new(id, stage, at(second));
    event.annotations.set("org", "acme");
    event.annotations.set("cluster", "c1");
    event
}

/// `read` returns what is in the journal, when all that was given to it is written.
pub async fn journal<F>(journal: &dyn Journal, read: impl FnOnce() -> F)
where
    F: Future<Output = Vec<(AuditId, Stage)>>,
{
    let ids: Vec<_> = (0..3).map(|_| AuditId::generate()).collect();
    for (id, durability) in ids.iter().zip([Durability::Written, Durability::Synced, Durability::Written]) {
        journal.open(&event(*id, Stage::RequestReceived, 0), durability).await.unwrap();
    }
    for id in &ids {
        journal.note(&event(*id, Stage::ResponseComplete, 1));
    }
    // One whose client leaves while it is opened is in the journal all the same.
    let left = AuditId::generate();
    let _ = journal.open(&event(left, Stage::RequestReceived, 2), Durability::Synced).now_or_never();
    journal.note(&event(left, Stage::ResponseComplete, 3));
    // One that was refused before it had a record stands alone.
    let refused = AuditId::generate();
    journal.note(&event(refused, Stage::ResponseComplete, 4));

    let read = read().await;
    let place = |id, stage| read.iter().position(|found| *found == (id, stage));
    for id in ids.into_iter().chain([left]) {
        let (opened, closed) =
            (place(id, Stage::RequestReceived).unwrap(), place(id, Stage::ResponseComplete).unwrap());
        assert!(opened < closed, "a record is opened before it is closed");
    }
    assert!(place(refused, Stage::ResponseComplete).is_some());
    assert_eq!(read.len(), 9, "nothing twice");
}

/// Sends as a proxy does.
struct Sender {
    journal: AuditId,
    sequence: u64,
    previous: Hash,
}

impl Sender {
    fn new() -> Self {
        Self { journal: AuditId::generate(), sequence: 0, previous: Hash::default() }
    }

    fn batch(&mut self, payloads: impl IntoIterator<Item = (AuditId, String)>) -> Batch {
        let record = |(id, payload)| {
            let (sequence, previous, position) = (self.sequence, self.previous, Position::default());
            let record = Record { position, sequence, previous, kind: Kind::Note, id, payload };
            (self.sequence, self.previous) = (sequence + 1, record.hash());
            record
        };
        let records = payloads.into_iter().map(record).collect();
        Batch { journal: self.journal, records, signature: None }
    }

    fn events(&mut self, events: &[Event]) -> Batch {
        self.batch(events.iter().map(|event| (event.audit_id, String::from_utf8(event.to_json()).unwrap())))
    }
}

/// The store is empty.
pub async fn events(store: &dyn EventStore) {
    let mut sender = Sender::new();
    let id = AuditId::generate();
    let (start, end) = (event(id, Stage::RequestReceived, 0), event(id, Stage::ResponseComplete, 0));
    let first = sender.events(&[start.clone(), end.clone()]);
    let ingested = store.ingest("proxy-1", &first).await.unwrap();
    assert_eq!((ingested.stored, ingested.known, ingested.findings), (2, 0, vec![]));

    // The same again, as after a lost acknowledgement, together with what is new.
    let mut again = first.clone();
    let mut other = event(AuditId::generate(), Stage::ResponseComplete, 5);
    other.annotations.set("cluster", "c2");
    other.user.username = "alice".into();
    again.records.extend(sender.events(std::slice::from_ref(&other)).records);
    let ingested = store.ingest("proxy-1", &again).await.unwrap();
    assert_eq!((ingested.stored, ingested.known, ingested.findings), (1, 2, vec![]));

    // Another proxy cannot take a request's events for itself by sending them first or again.
    let mut liar = end.clone();
    liar.annotations.set("decision", "allow");
    let ingested = store.ingest("proxy-2", &Sender::new().events(&[liar])).await.unwrap();
    assert_eq!((ingested.stored, ingested.known), (1, 0));

    // What is no event is taken, so that its sender goes on; what is missing is reported.
    let unreadable = sender.batch([(AuditId::generate(), "{}".to_owned())]);
    assert_eq!(store.ingest("proxy-1", &unreadable).await.unwrap().stored, 1);
    sender.events(std::slice::from_ref(&other));
    let later = sender.events(&[event(AuditId::generate(), Stage::RequestReceived, 9)]);
    let ingested = store.ingest("proxy-1", &later).await.unwrap();
    assert_eq!(ingested.findings, [Finding::Hole { from: 4, to: 5 }]);

    let all = store.query(&EventQuery::default()).await.unwrap();
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    assert_eq!(all[4].event, start, "as it was sent");

    let count = async |query: EventQuery| store.query(&query).await.unwrap().len();
    let any = EventQuery::default;
    assert_eq!(count(EventQuery { org: Some("acme".parse().unwrap()), ..any() }).await, 5);
    assert_eq!(count(EventQuery { org: Some("other".parse().unwrap()), ..any() }).await, 0);
    assert_eq!(count(EventQuery { cluster: Some("c2".parse().unwrap()), ..any() }).await, 1);
    assert_eq!(count(EventQuery { user: Some("alice".parse().unwrap()), ..any() }).await, 1);
    assert_eq!(count(EventQuery { audit_id: Some(id), ..any() }).await, 3);
    assert_eq!(count(EventQuery { audit_id: Some(id), stage: Some(Stage::RequestReceived), ..any() }).await, 1);
    assert_eq!(count(EventQuery { decision: Some("allow".into()), ..any() }).await, 1);
    assert_eq!(count(EventQuery { since: Some(at(5)), until: Some(at(9)), ..any() }).await, 1);
    assert_eq!(count(EventQuery { before: Some(all[1].number), ..any() }).await, 3);
    assert_eq!(count(EventQuery { after: Some(all[1].number), ..any() }).await, 1);
    let newest = store.query(&EventQuery { limit: 2, ..any() }).await.unwrap();
    assert_eq!(newest, all[..2]);
    let oldest = EventQuery { after: Some(all[4].number), limit: 2, oldest_first: true, ..any() };
    assert_eq!(store.query(&oldest).await.unwrap(), [all[3].clone(), all[2].clone()], "those that come next");

    // What a request may have in it and a column perhaps not is stored all the same, as it was sent.
    let mut odd = event(AuditId::generate(), Stage::ResponseComplete, 20);
    odd.user.username = "nul\0 \u{1F9EA} '; --".into();
    odd.object_ref = Some(ObjectRef { namespace: "\0".into(), resource: "\u{ffff}".into(), ..ObjectRef::default() });
    assert_eq!(store.ingest("proxy-1", &sender.events(std::slice::from_ref(&odd))).await.unwrap().stored, 1);
    assert_eq!(store.query(&EventQuery { limit: 1, ..any() }).await.unwrap()[0].event, odd);
}

/// The store is empty.
pub async fn receipts(store: &dyn ReceiptStore) {
    let (cluster, other): (ClusterId, ClusterId) = ("c1".parse().unwrap(), "c2".parse().unwrap());
    let receipts: Vec<_> =
        (0..4).map(|second| Receipt::of(&event(AuditId::generate(), Stage::ResponseComplete, second))).collect();
    let payload = |receipt: &Receipt| (receipt.audit_id, serde_json::to_string(receipt).unwrap());
    let mut sender = Sender::new();
    let first = sender.batch(receipts[..2].iter().map(payload));
    let second = sender.batch(receipts[2..].iter().map(payload));
    let ingested = store.ingest_receipts("agent-1", &cluster, &first).await.unwrap();
    assert_eq!((ingested.stored, ingested.known, ingested.findings), (2, 0, vec![]));
    let ingested = store.ingest_receipts("agent-1", &cluster, &first).await.unwrap();
    assert_eq!((ingested.stored, ingested.known, ingested.findings), (0, 2, vec![]));

    // A changed record is noticed by the one behind it, and kept: it is what the agent said.
    let mut changed = second.clone();
    changed.records[0].payload = payload(&receipts[0]).1;
    let ingested = store.ingest_receipts("agent-1", &cluster, &changed).await.unwrap();
    assert_eq!((ingested.stored, ingested.findings), (2, vec![Finding::BrokenChain { sequence: 3 }]));

    // Another agent's journal is another chain, and says nothing of this cluster.
    let stranger = Sender::new().batch(receipts.iter().map(payload));
    let ingested = store.ingest_receipts("agent-2", &other, &stranger).await.unwrap();
    assert_eq!((ingested.stored, ingested.findings), (4, vec![]));

    let kept = store.receipts(&cluster, at(0), at(100)).await.unwrap();
    assert_eq!(kept, [&receipts[0], &receipts[1], &receipts[0], &receipts[3]].map(Clone::clone));
    assert_eq!(store.receipts(&cluster, at(1), at(3)).await.unwrap(), [receipts[1].clone()]);
    assert_eq!(store.receipts(&other, at(0), at(3)).await.unwrap().len(), 3);
}
