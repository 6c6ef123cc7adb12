//! What compares and what does not; chains through batches.

use super::*;
use crate::{Batch, Chain, Hash, Kind, Position, Record, Stage};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn event(id: AuditId, second: i64) -> Event {
    let mut event = Event::new(id, Stage::ResponseComplete, at(second));
    for (name, value) in [("cluster", "c1"), ("credential", "k1"), ("request", "d1"), ("reached", "true")] {
        event.annotations.set(name, value);
    }
    event
}

fn found(events: &[Event], receipts: &[Receipt]) -> Vec<Finding> {
    compare(events, receipts, &(at(0)..at(100)))
}

#[test]
fn each_side_is_missed_by_the_other() {
    let id = AuditId::generate();
    let (event, receipt) = (event(id, 5), Receipt::of(&event(id, 5)));
    let both = (std::slice::from_ref(&event), std::slice::from_ref(&receipt));
    assert_eq!(found(both.0, both.1), []);
    assert_eq!(found(&[], both.1), [Finding::ReceiptWithoutEvent { id }]);
    assert_eq!(found(both.0, &[]), [Finding::EventWithoutReceipt { id }]);
}

#[test]
fn what_never_reached_the_cluster_needs_no_receipt() {
    let mut denied = Event::new(AuditId::generate(), Stage::ResponseComplete, at(5));
    denied.annotations.set("cluster", "c1");
    assert_eq!(found(&[denied], &[]), []);
}

#[test]
fn an_agents_refusal_without_a_record_needs_no_event() {
    let refused = Event::new(AuditId::generate(), Stage::ResponseComplete, at(5));
    assert_eq!(found(&[], &[Receipt::of(&refused)]), []);
}

#[test]
fn only_the_window_is_judged() {
    let early = event(AuditId::generate(), -5);
    assert_eq!(found(std::slice::from_ref(&early), &[]), []);
    assert_eq!(found(&[], &[Receipt::of(&early)]), []);
}

#[test]
fn both_must_tell_of_the_same_request() {
    let id = AuditId::generate();
    for what in ["request", "credential", "cluster"] {
        let mut other = event(id, 5);
        other.annotations.set(what, "other");
        let differs = Finding::Differs { id, what: what.into() };
        assert_eq!(found(&[event(id, 5)], &[Receipt::of(&other)]), [differs]);
    }
}

/// A batch of records in one chain, from `from` on.
fn batch(all: &[Record], from: usize, to: usize) -> Batch {
    Batch { journal: all[0].id, records: all[from..to].to_vec(), signature: None }
}

fn chained(count: u64) -> Vec<Record> {
    let (id, mut previous) = (AuditId::generate(), Hash::default());
    let record = |sequence| {
        let position = Position::default();
        let record =
            Record { position, sequence, previous, kind: Kind::Close, id, payload: format!("{{\"n\":{sequence}}}") };
        previous = record.hash();
        record
    };
    (0..count).map(record).collect()
}

#[test]
fn a_chain_is_followed_from_batch_to_batch() {
    let all = chained(10);
    let mut chain = Chain::start();
    assert_eq!(chain.follow(&batch(&all, 0, 4)), []);
    assert_eq!(chain.follow(&batch(&all, 2, 7)), [], "some of it came again");
    assert_eq!(chain.follow(&batch(&all, 0, 3)), [], "all of it came again");
    assert_eq!(chain.next, 7);
    assert_eq!(chain.follow(&batch(&all, 8, 10)), [Finding::Hole { from: 7, to: 8 }]);
    assert_eq!(chain.next, 10);
}

#[test]
fn a_changed_record_breaks_the_chain() {
    let mut all = chained(6);
    all[2].payload = "{}".into();
    assert_eq!(Chain::start().follow(&batch(&all, 0, 6)), [Finding::BrokenChain { sequence: 3 }]);
    let mut all = chained(6);
    all.remove(2);
    assert_eq!(Chain::start().follow(&batch(&all, 0, 5)), [Finding::Hole { from: 2, to: 3 }]);
}

#[test]
fn history_that_is_told_anew_breaks_the_chain() {
    let (first, second) = (chained(6), chained(8));
    let mut chain = Chain::start();
    chain.follow(&batch(&first, 0, 6));
    assert_eq!(chain.follow(&batch(&second, 6, 8)), [Finding::BrokenChain { sequence: 6 }]);
    let mut chain = Chain::start();
    chain.follow(&batch(&first, 0, 6));
    assert_eq!(chain.follow(&batch(&second, 0, 6)), [Finding::BrokenChain { sequence: 5 }]);
}

#[test]
fn a_signature_covers_every_record() {
    let mut signed = batch(&chained(3), 0, 3).signed(|message| Ok(message.to_vec())).unwrap();
    let verify = |message: &[u8], signature: &[u8]| message == signature;
    let read = Batch::decode(&signed.encode()).unwrap();
    assert_eq!(read, signed);
    assert!(read.is_signed(verify));
    signed.records[2].payload.push(' ');
    assert!(!signed.is_signed(verify));
    assert!(!batch(&chained(1), 0, 1).is_signed(verify));
}

#[test]
fn findings_have_stable_words() {
    let id = AuditId::generate();
    for finding in [
        Finding::ReceiptWithoutEvent { id },
        Finding::EventWithoutReceipt { id },
        Finding::Differs { id, what: "request".into() },
        Finding::Hole { from: 1, to: 2 },
        Finding::BrokenChain { sequence: 1 },
    ] {
        assert_eq!(serde_json::to_value(&finding).unwrap()["kind"], finding.kind());
        assert!(!finding.to_string().is_empty());
    }
}
