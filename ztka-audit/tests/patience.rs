//! Followers of one spool know nothing of each other: whatever one sink does, it is its own affair.
#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy.toml does not reach the helpers of a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{sync::Notify, time::Instant};
use ztka_audit::{Batch, Durability, Event, Follower, Journal as _, Sink, SinkError, Spool, SpoolOptions, Stage};
use ztka_core::{AuditId, ManualClock, SystemClock};

fn spool(consumers: &[&str]) -> (TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions::new(dir.path().join("spool")).segment(8192);
    let options = consumers.iter().fold(options, |options, name| options.consumer(*name));
    let (spool, _) = Spool::open(options, &SystemClock).unwrap();
    (dir, spool)
}

async fn write(spool: &Spool, count: usize) -> Vec<AuditId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let event = Event::new(AuditId::generate(), Stage::RequestReceived, Timestamp::UNIX_EPOCH);
        spool.open(&event, Durability::Written).await.unwrap();
        ids.push(event.audit_id);
    }
    ids
}

/// Does with the n-th batch what the test says, and remembers what it took.
struct Told<F> {
    tell: F,
    calls: AtomicUsize,
    taken: Mutex<Vec<AuditId>>,
    changed: Notify,
}

impl<F> std::fmt::Debug for Told<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl<F> Told<F> {
    fn new(tell: F) -> Arc<Self> {
        Arc::new(Self { tell, calls: AtomicUsize::new(0), taken: Mutex::default(), changed: Notify::new() })
    }

    fn taken(&self) -> Vec<AuditId> {
        self.taken.lock().unwrap().clone()
    }

    async fn takes(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.taken().len() >= count {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl<F> Sink for Told<F>
where
    F: AsyncTell,
{
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        self.tell.tell(self.calls.fetch_add(1, SeqCst), batch).await?;
        self.taken.lock().unwrap().extend(batch.records.iter().map(|record| record.id));
        self.changed.notify_waiters();
        Ok(())
    }
}

#[async_trait]
trait AsyncTell: Send + Sync + 'static {
    async fn tell(&self, call: usize, batch: &Batch) -> Result<(), SinkError>;
}

/// What happens to a batch, by the number of the call.
enum Act {
    Take,
    Fail(Option<Duration>),
    Hang,
    Panic,
    TakeAfter(Duration),
    Refuse,
}

#[async_trait]
impl<F: Fn(usize, &Batch) -> Act + Send + Sync + 'static> AsyncTell for F {
    async fn tell(&self, call: usize, batch: &Batch) -> Result<(), SinkError> {
        let act = self(call, batch);
        match act {
            Act::Take => Ok(()),
            Act::Fail(after) => Err(SinkError::Failed { why: "away".into(), after }),
            Act::Hang => std::future::pending().await,
            Act::Panic => panic!("a bug of an embedder's"),
            Act::TakeAfter(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Act::Refuse => Err(SinkError::refused("poison")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_or_panics_is_called_again() {
    let (_keep, spool) = spool(&["odd"]);
    let ids = write(&spool, 5).await;
    let sink = Told::new(|call, _: &Batch| match call {
        0 => Act::Hang,
        1 => Act::Panic,
        2 => Act::Fail(None),
        _ => Act::Take,
    });
    let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
    let follower = Follower::new(spool.clone(), "odd", sink.clone()).unwrap().clock(Arc::new(clock));
    let monitor = follower.monitor();
    let start = Instant::now();
    let running = tokio::spawn(async move { follower.run().await });
    sink.takes(5).await;
    assert_eq!(sink.taken(), ids);
    assert!(Duration::from_secs(30) <= start.elapsed() && start.elapsed() < Duration::from_secs(60));
    while monitor.status().last_success.is_none() {
        tokio::task::yield_now().await;
    }
    let status = monitor.status();
    assert_eq!((status.failures, status.failing, status.taken, status.refused), (3, false, 5, 0));
    assert_eq!((status.lag, status.last_success), (Some(0), Some(Timestamp::UNIX_EPOCH)));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_place_is_spared_for_as_long_as_it_asks() {
    let (_keep, spool) = spool(&["busy"]);
    write(&spool, 1).await;
    let sink = Told::new(|call, _: &Batch| match call {
        0 => Act::Fail(Some(Duration::from_secs(120))),
        // Nobody is put off for a day.
        1 => Act::Fail(Some(Duration::from_secs(86_400))),
        _ => Act::Take,
    });
    let follower = Follower::new(spool.clone(), "busy", sink.clone()).unwrap();
    let start = Instant::now();
    let running = tokio::spawn(async move { follower.run().await });
    sink.takes(1).await;
    let seconds = start.elapsed().as_secs();
    assert!((420..425).contains(&seconds), "{seconds} s");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn one_that_is_slow_or_dead_holds_up_no_other() {
    let (_keep, spool) = spool(&["dead", "quick", "slow"]);
    let dead = Told::new(|_, _: &Batch| Act::Hang);
    let slow = Told::new(|_, _: &Batch| Act::TakeAfter(Duration::from_secs(20)));
    let quick = Told::new(|_, _: &Batch| Act::Take);
    let mut running = tokio::task::JoinSet::new();
    let mut monitors = Vec::new();
    for (name, sink) in [
        ("dead", dead.clone() as Arc<dyn Sink>),
        ("slow", slow.clone() as Arc<dyn Sink>),
        ("quick", quick.clone() as Arc<dyn Sink>),
    ] {
        let follower = Follower::new(spool.clone(), name, sink).unwrap();
        monitors.push(follower.monitor());
        running.spawn(async move { follower.run().await });
    }
    let ids = write(&spool, 200).await;
    quick.takes(200).await;
    assert_eq!(quick.taken(), ids);
    assert!(slow.taken().len() < 200, "nobody waits for it");
    slow.takes(200).await;
    assert_eq!(slow.taken(), ids);
    let status = monitors[0].status();
    assert_eq!((status.taken, status.lag, dead.taken().len()), (0, Some(200), 0));
    assert!(0 < status.lag_bytes);
}

#[tokio::test(start_paused = true)]
async fn one_poisoned_record_costs_no_other_and_no_time() {
    let (_keep, spool) = spool(&["odd"]);
    let ids = write(&spool, 100).await;
    let poison = ids[37];
    let sink = Told::new(
        move |_, batch: &Batch| {
            if batch.records.iter().any(|record| record.id == poison) { Act::Refuse } else { Act::Take }
        },
    );
    let follower = Follower::new(spool.clone(), "odd", sink.clone()).unwrap();
    let start = Instant::now();
    follower.drain().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let mut others = ids;
    others.remove(37);
    assert_eq!(sink.taken(), others);
    let status = follower.monitor().status();
    assert_eq!((status.refused, status.taken, status.lag, status.failing), (1, 99, Some(0), false));
    assert!(sink.calls.load(SeqCst) < 20);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_refuses_everything_is_not_taken_for_poison() {
    let (_keep, spool) = spool(&["wrong"]);
    let ids = write(&spool, 30).await;
    // Its operator needs some time to see that the URL is wrong.
    let start = Instant::now();
    let sink =
        Told::new(move |_, _: &Batch| if start.elapsed() < Duration::from_secs(100) { Act::Refuse } else { Act::Take });
    let follower = Follower::new(spool.clone(), "wrong", sink.clone()).unwrap();
    follower.drain().await.unwrap();
    let status = follower.monitor().status();
    assert_eq!(status.refused, 20, "sixteen, then one in thirty seconds");
    assert_eq!(sink.taken(), ids[20..]);
    assert!(!status.failing);
}

#[tokio::test(start_paused = true)]
async fn the_spool_is_full_for_the_last_of_them_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions::new(dir.path().join("spool")).quota(256 * 1024).consumer("dead").consumer("quick");
    let (spool, _) = Spool::open(options, &SystemClock).unwrap();
    let quick = Told::new(|_, _: &Batch| Act::Take);
    let follower = Follower::new(spool.clone(), "quick", quick.clone()).unwrap();
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH);
    event.user_agent = "x".repeat(8 * 1024);
    let refused = loop {
        event.audit_id = AuditId::generate();
        if let Err(refused) = spool.open(&event, Durability::Written).await {
            break refused;
        }
        follower.drain().await.unwrap();
    };
    assert!(refused.to_string().contains("\"dead\""), "{refused}");
    assert_eq!(follower.monitor().status().lag, Some(0));
    // Whoever is dead is away from the configuration at the next start, and holds up nothing any more.
    drop(follower);
    drop(spool);
    let options = SpoolOptions::new(dir.path().join("spool")).quota(256 * 1024).consumer("quick");
    let (spool, _) = Spool::open(options, &SystemClock).unwrap();
    // What the last process has left open is closed first.
    let mut written = spool.written();
    spool.hurry();
    while spool.status().open > 0 {
        written.changed().await.unwrap();
    }
    Follower::new(spool.clone(), "quick", quick).unwrap().drain().await.unwrap();
    event.audit_id = AuditId::generate();
    spool.open(&event, Durability::Written).await.unwrap();
}
