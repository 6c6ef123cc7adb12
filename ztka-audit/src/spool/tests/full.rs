//! What is dropped at the quota, or by age, is counted; everything else stays.

use std::time::SystemTime;

use super::*;
use crate::Level;

fn high(spool: &Spool) -> AuditId {
    let mut event = event(Stage::ResponseComplete);
    event.level = Level::Request;
    spool.note(&event);
    event.audit_id
}

#[tokio::test]
async fn at_the_quota_the_oldest_metadata_goes_and_is_counted() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).quota(64 * 1024).consumer("dead").when_full(WhenFull::DropMetadata);
    let (spool, _) = open(options.clone());
    let long = record(&spool, Durability::Written).await.unwrap();
    let mut kept = Vec::new();
    for turn in 0..400 {
        complete(&spool).await;
        if turn % 40 == 0 {
            kept.push(high(&spool));
        }
    }
    // What is open may be closed above the quota.
    assert!(spool.status().bytes <= 2 * 64 * 1024, "{}", spool.status().bytes);
    spool.note(&long);
    drop(spool);

    let (records, holes): (Vec<_>, Vec<_>) = Reader::new(&dir).partition(Result::is_ok);
    assert!(holes.is_empty(), "{holes:?}");
    let records: Vec<_> = records.into_iter().flatten().collect();
    let events: Vec<_> = records.iter().map(|record| Event::from_json(record.payload.as_bytes()).unwrap()).collect();
    assert!(kept.iter().all(|id| events.iter().any(|event| event.audit_id == *id)), "a higher level was dropped");
    assert_eq!(events.iter().filter(|event| event.audit_id == long.audit_id).count(), 2, "what was open was dropped");
    let gaps: Vec<_> = events.iter().filter(|event| event.fact("gap") == Some("dropped")).collect();
    let number = |event: &Event, name| event.fact(name).unwrap().parse::<usize>().unwrap();
    assert!(gaps.len() > 1);
    for gap in &gaps {
        assert!(number(gap, "gap-to") >= number(gap, "gap-from") + number(gap, "gap-records") - 1);
    }
    // Every record that was acknowledged is there, or counted as dropped.
    let dropped: usize = gaps.iter().map(|gap| number(gap, "gap-records")).sum();
    let ours = events.iter().filter(|event| event.fact("gap").is_none());
    let mut distinct: Vec<_> = ours.map(|event| (event.audit_id, event.stage)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len() + dropped, 2 + 800 + kept.len());
    let (_spool, recovery) = open(options);
    assert_eq!(recovery.interrupted, 0, "what had ended was opened again");
}

#[tokio::test]
async fn higher_levels_are_refused_rather_than_dropped() {
    let (_keep, dir) = dir();
    let options = SpoolOptions::new(&dir).quota(64 * 1024).consumer("dead").when_full(WhenFull::DropMetadata);
    let (spool, _) = open(options);
    let mut first = None;
    let refused = loop {
        let mut event = event(Stage::RequestReceived);
        event.level = Level::RequestResponse;
        first.get_or_insert(event.audit_id);
        match Journal::open(&spool, &event, Durability::Written).await {
            Ok(()) => {
                event.stage = Stage::ResponseComplete;
                spool.note(&event);
            }
            Err(refused) => break refused.to_string(),
        }
    };
    assert!(refused.contains("quota"), "{refused}");
    drop(spool);
    assert_eq!(whole(&dir).first().map(|record| record.id), first);
}

#[tokio::test]
async fn what_is_old_goes_once_it_was_taken() {
    let (_keep, dir) = dir();
    let day = Duration::from_secs(86_400);
    let options = SpoolOptions::new(&dir).segment(4096).consumer("controller").keep(day);
    let (spool, _) = open(options);
    for _ in 0..20 {
        complete(&spool).await;
    }
    spool.written().wait_for(|_| spool.status().records == 40).await.unwrap();
    let (now, tomorrow) = (SystemTime::now(), SystemTime::now() + 2 * day);
    let segments = || segment::list(&dir).unwrap();
    let before = segments();
    spool.handle.shared.log().expire(tomorrow).unwrap();
    assert_eq!(segments()[..before.len()], before, "what nobody has taken went");
    spool.set_cursor("controller", spool.status().end).unwrap();
    spool.handle.shared.log().expire(now).unwrap();
    assert_eq!(segments()[..before.len()], before, "what is young went");
    spool.handle.shared.log().expire(tomorrow).unwrap();
    assert_eq!(segments().len(), 1);
    complete(&spool).await;
    drop(spool);
    assert_eq!(whole(&dir).len(), 2);
}
