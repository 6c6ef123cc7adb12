//! What the transparency log costs: leaves appended, exports written and verified. `cargo bench -p ztka-audit --bench log`,
//! or `cargo xtask bench audit`. A number as argument is how many events there are.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a bench")]

use std::time::Instant;

use futures_util::FutureExt as _;
use ztka_audit::{
    Batch, Event, EventStore as _, Hash, Kind, LogStore as _, MemoryStore, ObjectRef, Position, Record, Stage,
    log::{SignedHead, TreeHead, edge, export},
};
use ztka_core::{AuditId, BoxError, KeyId, OrgId};

fn org() -> OrgId {
    "acme".parse().unwrap()
}

/// An event as a proxy reports it of a request that was allowed: some nine hundred bytes.
fn event(number: usize) -> Event {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now);
    event.request_uri = format!("/api/v1/namespaces/shop-{}/pods/web-{number}?timeout=32s", number % 100);
    event.verb = "get".into();
    event.user.username = "alice@example.com".into();
    event.user.groups = vec!["dev".into(), "on-call".into()];
    event.user_agent = "kubectl/v1.33.1 (linux/amd64) kubernetes/8adc0f0".into();
    let (namespace, name) = (format!("shop-{}", number % 100), format!("web-{number}"));
    event.object_ref = Some(ObjectRef { resource: "pods".into(), namespace, name, ..ObjectRef::default() });
    for (name, value) in [
        ("org", "acme"),
        ("cluster", "c0j4ys1q9f0000000000"),
        ("credential", "k0j4ys1q9f0000000000"),
        ("request", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ("decision", "allow"),
        ("binding", "shop-developers"),
        ("role", "edit"),
        ("policy", "1.4711"),
        ("reached", "true"),
        ("bytes-sent", "4096"),
        ("duration", "0.004711"),
        ("end", "complete"),
    ] {
        event.annotations.set(name, value);
    }
    event
}

fn believed(signed: &SignedHead) -> Result<TreeHead, BoxError> {
    Ok(signed.claimed()?)
}

fn told(what: &str, events: usize, begun: Instant, bound: &str) {
    let taken = begun.elapsed().as_secs_f64();
    println!(
        "| {what} | {:.0} events/s, {:.2} µs each | {bound} |",
        events as f64 / taken,
        taken * 1e6 / events as f64
    );
}

fn main() {
    let events = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(200_000);
    println!("| what | figure | bound |\n|---|---|---|");
    let store = MemoryStore::default();
    let records = (0..events).map(|number| {
        let event = event(number);
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, previous, id) = (Position::default(), Hash::default(), event.audit_id);
        Record { position, sequence: number as u64, previous, kind: Kind::Close, id, payload }
    });
    let batch = Batch { journal: AuditId::generate(), records: records.collect(), signature: None };
    let bytes: usize = batch.records.iter().map(|record| record.payload.len()).sum();
    let begun = Instant::now();
    store.ingest("spiffe://example.com/proxy/p0j4ys1q9f0000000000", &batch).now_or_never().unwrap().unwrap();
    told("taken in by a store in memory, read and made leaves of", events, begun, "");
    drop(batch);

    let size = events as u64;
    let ids: Vec<_> = edge(size).into_iter().map(|(id, _)| id).collect();
    let root = store.tiles(&org(), &ids).now_or_never().unwrap().unwrap().root(size).unwrap();
    let text = SignedHead::text(&TreeHead { org: org(), epoch: 1, size, root, time: jiff::Timestamp::UNIX_EPOCH });
    let head = SignedHead::new(text, KeyId("k".into()), b"", Vec::new());
    let (mut export, mut file) = (export::Export::new(head, 0..size).unwrap(), Vec::new());
    let begun = Instant::now();
    while let Some(piece) = export.next(&store).now_or_never().unwrap().unwrap() {
        file.extend_from_slice(&piece);
    }
    told("written as an export", events, begun, "");
    for _ in 0..3 {
        let begun = Instant::now();
        let report = export::verify(file.as_slice(), believed, &[]).unwrap();
        assert!(report.is_sound() && report.events == size);
        let what = format!("verified, {} bytes of event each", bytes / events.max(1));
        told(&what, events, begun, "≥ 500,000 events/s");
    }
}
