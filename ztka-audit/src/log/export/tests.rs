//! Exports of a store, as they are and spoilt in every way.

use std::fmt::Write as _;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use ztka_core::{AuditId, BoxError, KeyId, OrgId};

use super::*;
use crate::{
    Batch, Event, EventStore as _, Kind, LogStore as _, MemoryStore, Position, Record, Stage,
    log::{Leaf, SignedHead, TreeHead, edge},
};

fn org() -> OrgId {
    "acme".parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn event(number: usize) -> Event {
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, at(0));
    event.request_uri = format!("/{number}");
    event.annotations.set("org", "acme");
    event
}

fn ingest(store: &MemoryStore, source: &str, event: &Event) {
    let payload = String::from_utf8(event.to_json()).unwrap();
    let (position, previous, id) = (Position::default(), Hash::default(), event.audit_id);
    let record = Record { position, sequence: 0, previous, kind: Kind::Note, id, payload };
    let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    store.ingest(source, &batch).now_or_never().unwrap().unwrap();
}

fn store(events: usize) -> MemoryStore {
    let store = MemoryStore::default();
    (0..events).for_each(|number| ingest(&store, "spiffe://x/proxy/p1", &event(number)));
    store
}

fn head(store: &MemoryStore, size: u64, second: i64) -> SignedHead {
    let ids: Vec<_> = edge(size).into_iter().map(|(id, _)| id).collect();
    let root = store.tiles(&org(), &ids).now_or_never().unwrap().unwrap().root(size).unwrap();
    let text = SignedHead::text(&TreeHead { org: org(), epoch: 1, size, root, time: at(second) });
    let signature = SignedHead::message(&text);
    SignedHead::new(text, KeyId("k".into()), &signature, Vec::new())
}

fn export(store: &MemoryStore, head: SignedHead, range: std::ops::Range<u64>) -> Vec<String> {
    let (mut export, mut text) = (Export::new(head, range).unwrap(), String::new());
    while let Some(piece) = export.next(store).now_or_never().unwrap().unwrap() {
        text.push_str(str::from_utf8(&piece).unwrap());
    }
    text.lines().map(str::to_owned).collect()
}

fn believed(signed: &SignedHead) -> Result<TreeHead, BoxError> {
    Ok(signed.verified(|key, message, signature| key.0 == "k" && message == signature)?)
}

fn check_with(lines: &[String], earlier: &[SignedHead]) -> Result<Report, NotAnExport> {
    let mut text = lines.join("\n");
    text.push('\n');
    verify(text.as_bytes(), believed, earlier)
}

fn check(lines: &[String]) -> Report {
    check_with(lines, &[]).unwrap()
}

fn line_of(lines: &[String], leaf: u64) -> usize {
    lines.iter().position(|line| line.starts_with(&format!("{{\"leaf\":{leaf},"))).unwrap()
}

fn id_of(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    Some(value["entry"]["event"]["auditID"].as_str().unwrap().to_owned())
}

#[test]
fn exports_of_every_size_and_part_verify() {
    for size in [0_u64, 1, 2, 31, 32, 33, 64, 1023, 1024, 1025, 1100, 2048, 2100] {
        let store = store(usize::try_from(size).unwrap());
        let parts = [0..size, 0..size / 2, size / 3..size, size / 2..size / 2 + 1, size.saturating_sub(1)..size, 5..5];
        for part in parts {
            let report = check(&export(&store, head(&store, size, 0), part.clone()));
            let expected = part.start.min(size)..part.end.min(size);
            assert_eq!(
                (report.faults.as_slice(), report.leaves.clone()),
                (&[][..], expected.clone()),
                "{size} {part:?}"
            );
            assert_eq!(report.events, expected.end - expected.start);
        }
    }
}

#[test]
fn a_changed_event_is_found_to_the_leaf() {
    let store = store(100);
    let whole = export(&store, head(&store, 100, 0), 0..100);
    for leaf in [0, 31, 32, 70, 95, 96, 99] {
        let (mut lines, at) = (whole.clone(), line_of(&whole, leaf));
        lines[at] = lines[at].replace("\"requestURI\":\"/", "\"requestURI\":\"/x");
        let audit_id = id_of(&lines[at]);
        let report = check(&lines);
        assert_eq!(report.faults, [Fault::Changed { leaf, audit_id: audit_id.clone() }]);
        assert_eq!(report.events, 99);
        assert!(report.faults[0].to_string().contains(&audit_id.unwrap()), "{}", report.faults[0]);
        // So is a changed salt, or a source that is another's.
        for (from, to) in [("\"salt\":\"", "\"salt\":\"0"), ("/proxy/p1", "/proxy/p2")] {
            let mut lines = whole.clone();
            lines[at] = lines[at].replace(from, to);
            if from.contains("salt") {
                let start = lines[at].find(to).unwrap() + to.len();
                lines[at].remove(start + 31);
            }
            assert!(matches!(check(&lines).faults[..], [Fault::Changed { .. }]), "{}", lines[at]);
        }
    }
}

#[test]
fn removed_moved_and_invented_events_are_found() {
    let store = store(100);
    let whole = export(&store, head(&store, 100, 0), 0..100);
    let at = |leaf| line_of(&whole, leaf);

    let mut lines = whole.clone();
    lines.remove(at(40));
    assert_eq!(check(&lines).faults, [Fault::Removed { first: 40, last: 40 }]);
    assert_eq!(check(&whole[..at(90)]).faults, [Fault::Removed { first: 90, last: 99 }], "the end is cut off");
    let mut lines = whole.clone();
    lines.drain(at(30)..at(70));
    let found = check(&lines).faults;
    assert!(found.contains(&Fault::Removed { first: 30, last: 69 }), "{found:?}");

    // Two lines in each other's place, as they are and with each other's numbers.
    let mut lines = whole.clone();
    lines.swap(at(5), at(6));
    assert_eq!(check(&lines).faults, [Fault::Moved { leaf: 5, place: 6, audit_id: id_of(&whole[at(5)]) }]);
    let mut lines = whole.clone();
    let renumbered = |line: &String, from, to| line.replacen(&format!("\"leaf\":{from}"), &format!("\"leaf\":{to}"), 1);
    lines[at(5)] = renumbered(&whole[at(6)], 6, 5);
    lines[at(6)] = renumbered(&whole[at(5)], 5, 6);
    let moved = |leaf, place| Fault::Moved { leaf, place, audit_id: id_of(&whole[at(leaf)]) };
    assert_eq!(check(&lines).faults, [moved(6, 5), moved(5, 6)]);

    // One that was never logged: with a number that there is, and behind the last.
    for leaf in [50, 100, 7_000_000_000] {
        let mut lines = whole.clone();
        let invented = renumbered(&whole[at(3)], 3, leaf).replace("\"/3\"", "\"/99\"");
        let audit_id = id_of(&invented);
        lines.insert(at(50) + 1, invented);
        assert_eq!(check(&lines).faults, [Fault::Invented { leaf, audit_id }]);
    }

    // Hashes that were made to fit do not lead to the head.
    let mut lines = whole.clone();
    let tile = lines.iter().position(|line| line.contains("\"level\":0,\"index\":1}")).unwrap();
    lines[tile] = lines[tile].replacen("\"hashes\":[\"", "\"hashes\":[\"0", 1);
    let start = lines[tile].find("[\"").unwrap() + 2;
    lines[tile].remove(start + 64);
    assert_eq!(check(&lines).faults, [Fault::Hashes { first: 32, last: 63 }]);
    lines.remove(tile);
    assert_eq!(check(&lines).faults, [Fault::Hashes { first: 32, last: 63 }]);
    // And neither does an edge.
    let mut lines = whole.clone();
    let start = lines[0].find("\"edge\":[[\"").unwrap() + 10;
    let other = if lines[0].as_bytes()[start] == b'0' { "1" } else { "0" };
    lines[0].replace_range(start..=start, other);
    assert_eq!(check(&lines).faults, [Fault::Root]);
}

#[test]
fn an_earlier_head_is_continued_or_the_history_is_forked() {
    let one = store(100);
    for size in 0..=100 {
        let earlier = head(&one, size.max(1), 0);
        let report = check_with(&export(&one, head(&one, 100, 9), 0..100), &[earlier]).unwrap();
        assert_eq!((report.earlier, report.found), (1, 0), "{size}");
    }
    // What is new alone is enough to see that it goes on from there.
    for size in [1, 31, 32, 33, 64, 95, 96, 99, 100] {
        let lines = export(&one, head(&one, 100, 9), size..100);
        let report = check_with(&lines, &[head(&one, size, 0)]).unwrap();
        assert_eq!((report.earlier, report.found), (1, 0), "{size}");
    }
    let part = export(&one, head(&one, 100, 9), 64..100);
    assert!(matches!(check_with(&part, &[head(&one, 10, 0)]), Err(NotAnExport::NotCompared { size: 10, .. })));

    // Another history of the same size, a longer and a shorter one.
    let other = store(120);
    for (size, from) in [(100, &other), (50, &other), (99, &other), (33, &other)] {
        let report = check_with(&export(&one, head(&one, 100, 9), 0..100), &[head(from, size, 0)]).unwrap();
        assert!(matches!(&report.faults[..], [Fault::Forked { earlier, .. }] if earlier.size == size), "{size}");
    }
    let cut = check_with(&export(&one, head(&one, 90, 9), 0..90), &[head(&one, 100, 0)]).unwrap();
    assert!(cut.faults[0].to_string().contains("the log was cut"), "{}", cut.faults[0]);
    let newer = check_with(&export(&one, head(&one, 90, 0), 0..90), &[head(&one, 100, 9)]);
    assert!(matches!(newer, Err(NotAnExport::Newer(_))));
}

#[test]
fn what_is_gone_is_covered_by_an_event_that_says_so() {
    let store = store(70);
    for (verb, source, leaves) in [
        ("expire", "spiffe://x/controller/c1", "0-9"),
        ("shred", "spiffe://x/controller/c1", "12-12"),
        ("shred", "spiffe://x/proxy/controller", "20-30"),
        ("delete", "spiffe://x/controller/c1", "20-30"),
        ("shred", "spiffe://x/controller/c1", "30-20"),
    ] {
        let mut covering = event(0);
        covering.verb = verb.into();
        covering.annotations.set("leaves", leaves);
        ingest(&store, source, &covering);
    }
    let whole = export(&store, head(&store, 75, 0), 0..75);
    let without = |leaves: &[u64]| {
        let mut lines = whole.clone();
        for leaf in leaves {
            let (at, mut gone) = (line_of(&whole, *leaf), String::new());
            write::leaf_line(&mut gone, &Leaf { index: *leaf, content: None });
            lines[at] = gone.trim_end().to_owned();
        }
        check(&lines)
    };
    let report = without(&[0, 1, 2, 9, 12]);
    assert_eq!((report.faults.as_slice(), report.covered, report.events), (&[][..], 5, 70));
    assert_eq!(
        without(&[9, 10, 11, 12, 13]).faults,
        [Fault::Uncovered { first: 10, last: 11 }, Fault::Uncovered { first: 13, last: 13 }]
    );
    assert_eq!(without(&[25]).faults, [Fault::Uncovered { first: 25, last: 25 }]);
}

#[test]
fn what_is_no_export_is_refused_in_words() {
    let store = store(40);
    let whole = export(&store, head(&store, 40, 0), 0..40);
    for header in [
        String::new(),
        "{}".into(),
        whole[0].replace("/v1", "/v2"),
        whole[0].replace("\"to\":40", "\"to\":41"),
        whole[0].replace("\"from\":0", "\"from\":41"),
        whole[0].replacen("\"org\":\"acme\"", "\"org\":\"evil\"", 1),
        whole[0].replacen("\"edge\":[[", "\"edge\":[[],[", 1),
    ] {
        let lines = [vec![header.clone()], whole[1..].to_vec()].concat();
        assert!(matches!(check_with(&lines, &[]), Err(NotAnExport::Header)), "{header}");
    }
    let forged = [vec![whole[0].replace("\"key\":\"k\"", "\"key\":\"l\"")], whole[1..].to_vec()].concat();
    let error = check_with(&forged, &[]).unwrap_err();
    assert!(matches!(error, NotAnExport::Head { of: "the export", .. }), "{error}");
    let mut long = String::new();
    write!(long, "{{\"leaf\":1,{}", " ".repeat(LONGEST)).unwrap();
    for bad in ["", "x", "{\"leaf\":00,\"gone\":true}", "{\"leaf\":-1,\"gone\":true}", "{\"leaf\":1}", &long] {
        let lines = [whole[..2].to_vec(), vec![bad.to_owned()]].concat();
        assert!(matches!(check_with(&lines, &[]), Err(NotAnExport::Line { line: 3 })), "{bad:.40}");
    }
    let cut = whole.join("\n");
    assert!(matches!(verify(cut.as_bytes(), believed, &[]), Err(NotAnExport::Line { .. })), "without a line end");
}
