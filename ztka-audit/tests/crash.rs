//! A process that is killed at any moment loses no record that it had been told of.

use std::{
    collections::HashSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use ztka_audit::{Durability, Event, Journal as _, Kind, Spool, SpoolOptions, Stage};
use ztka_core::{AuditId, SystemClock};

const DIR: &str = "ZTKA_TEST_SPOOL";

fn options(dir: &Path) -> SpoolOptions {
    SpoolOptions::new(dir).segment(64 * 1024)
}

/// Run by the test below in a process of its own: opens records and says so, until it is killed.
#[tokio::test]
async fn child_that_appends() {
    let Some(dir) = env::var_os(DIR) else { return };
    let (spool, _) = Spool::open(options(Path::new(&dir)), &SystemClock).unwrap();
    let mut out = std::io::stdout().lock();
    for turn in 0_u64.. {
        let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, Timestamp::now());
        let durability = if turn % 20 == 0 { Durability::Synced } else { Durability::Written };
        spool.open(&event, durability).await.unwrap();
        writeln!(out, "acknowledged {}", event.audit_id).unwrap();
        if turn % 2 == 0 {
            event.stage = Stage::ResponseComplete;
            spool.note(&event);
        }
    }
}

#[test]
fn kill_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("spool");
    let mut acknowledged = HashSet::new();
    for round in 0..6 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_that_appends", "--nocapture"])
            .env(DIR, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut killed = false;
        let wanted = acknowledged.len() + 300 + round * 100;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The last line may be torn, as its process was; then it says nothing.
            let id = line.split_once("acknowledged ").and_then(|(_, id)| AuditId::parse(id));
            acknowledged.extend(id);
            if !killed && acknowledged.len() >= wanted {
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed, "the child ended by itself");
        child.wait().unwrap();
    }

    let (spool, recovery) = Spool::open(options(&dir), &SystemClock).unwrap();
    assert!(recovery.damage.is_empty(), "{:?}", recovery.damage);
    assert!(recovery.interrupted > 0);
    drop(spool);
    let records: Vec<_> = ztka_audit::read(&dir).collect::<Result<_, _>>().unwrap();
    let of =
        |kind| -> HashSet<_> { records.iter().filter(|record| record.kind == kind).map(|record| record.id).collect() };
    let (opened, closed) = (of(Kind::Open), of(Kind::Close));
    assert!(acknowledged.is_subset(&opened), "{} lost", acknowledged.difference(&opened).count());
    assert_eq!(opened, closed, "what was opened has been closed, as interrupted if need be");
}
