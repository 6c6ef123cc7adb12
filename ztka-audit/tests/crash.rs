//! A process that is killed at any moment loses no record that it had been told of.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::HashSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ztka_audit::{Durability, Event, Journal as _, Kind, Spool, SpoolOptions, Stage};
use ztka_core::{AuditId, SystemClock};

const DIR: &str = "ZTKA_TEST_SPOOL";

fn options(dir: &Path) -> SpoolOptions {
    SpoolOptions::new(dir).segment(64 * 1024)
}

/// Run by the tests below in a process of its own: opens records and says so, from two threads, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_appends() {
    let Some(dir) = env::var_os(DIR) else { return };
    let (spool, _) = Spool::open(options(Path::new(&dir)), &SystemClock).unwrap();
    let writers = [0, 1].map(|_| tokio::spawn(append(spool.clone())));
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn append(spool: Spool) {
    static OUT: Mutex<()> = Mutex::new(());
    for turn in 0_u64.. {
        let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, Timestamp::now());
        let durability = if turn % 20 == 0 { Durability::Synced } else { Durability::Written };
        spool.open(&event, durability).await.unwrap();
        let line = format!("acknowledged {}\n", event.audit_id);
        {
            let _one = OUT.lock().unwrap();
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            std::io::stdout().flush().unwrap();
        }
        if turn % 2 == 0 {
            event.stage = Stage::ResponseComplete;
            spool.note(&event);
        }
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Starts a child and kills it: one time in four at some moment of its start, otherwise some time after it has
/// acknowledged some. Says what it had acknowledged.
fn killed(dir: &Path, random: &mut Random) -> Vec<AuditId> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_that_appends", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let wanted = random.below(4) * random.below(40);
    let later = Duration::from_micros(random.below(if wanted == 0 { 60_000 } else { 3_000 }));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The last line may be torn, as its process was; then it says nothing.
    let id = |line: String| line.split_once("acknowledged ").and_then(|(_, id)| AuditId::parse(id));
    let mut acknowledged = Vec::new();
    while (acknowledged.len() as u64) < wanted {
        let line = lines.next().expect("the child ended by itself").unwrap();
        acknowledged.extend(id(line));
    }
    let due = Instant::now() + later;
    while Instant::now() < due {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    acknowledged.extend(lines.map_while(Result::ok).filter_map(id));
    child.wait().unwrap();
    acknowledged
}

fn suite(kills: usize) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("spool");
    let mut random = Random(0x5eed);
    let mut acknowledged = HashSet::new();
    for _ in 0..kills {
        acknowledged.extend(killed(&dir, &mut random));
    }

    let (spool, recovery) = Spool::open(options(&dir), &SystemClock).unwrap();
    assert!(recovery.damage.is_empty(), "{:?}", recovery.damage);
    assert_eq!(recovery.gap, None, "the machine went on");
    drop(spool);
    let records: Vec<_> = ztka_audit::read(&dir).collect::<Result<_, _>>().unwrap();
    let of =
        |kind| -> HashSet<_> { records.iter().filter(|record| record.kind == kind).map(|record| record.id).collect() };
    let (opened, closed) = (of(Kind::Open), of(Kind::Close));
    let lost = acknowledged.difference(&opened).count();
    println!("{kills} kills, {} acknowledged events, {lost} of them lost", acknowledged.len());
    assert_eq!(lost, 0);
    assert_eq!(opened, closed, "what was opened has been closed, as interrupted if need be");
    assert!(acknowledged.len() > 10 * kills, "the children did not come far");
}

#[test]
fn a_hundred_kills_lose_nothing_acknowledged() {
    suite(100);
}

#[test]
#[ignore = "a minute or two; run by cargo xtask test --long"]
fn a_thousand_kills_lose_nothing_acknowledged() {
    suite(1000);
}
