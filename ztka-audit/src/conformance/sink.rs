//! What every sink does: at least once, in order for each cluster, from the cursor on, whatever happens on the way.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use ztka_core::{AuditId, SystemClock};

use super::{Trouble, event};
use crate::{Durability, Event, Follower, Journal as _, Kind, Pace, Sink, SinkStatus, Spool, SpoolOptions, Stage};

/// Nothing takes that long on a machine that has other things to do.
const BOUND: Duration = Duration::from_secs(60);
/// Names that somebody would like to trick a reader with.
const HOSTILE: &str = "a\nb\r\u{1b}[2J\t\u{202e}\u{2028}\u{9b}\"\\]<14>1 - \u{1F9EA} %n";

/// A place, and the sinks that bring to it.
#[async_trait]
pub trait Place: Send + Sync {
    /// A new sink, as a process makes it when it starts.
    async fn sink(&self) -> Arc<dyn Sink>;

    /// The events that have come so far; of each cluster in the order in which they came. What is no event is left out.
    async fn arrived(&self) -> Vec<Event>;

    /// Makes trouble, or ends it (none). False if this place cannot have it.
    async fn trouble(&self, trouble: Option<Trouble>) -> bool;
}

struct Bench<'a> {
    place: &'a dyn Place,
    dir: PathBuf,
    spool: Spool,
    written: u64,
    refused: HashSet<AuditId>,
}

/// `place` and the folder `dir` are empty.
pub async fn sink(place: &dyn Place, dir: &Path) {
    let spool = open(dir);
    let mut bench = Bench { place, dir: dir.to_owned(), spool, written: 0, refused: HashSet::new() };
    bench.in_order().await;
    bench.goes_on_after_a_restart().await;
    bench.survives_poison().await;
    for trouble in [Trouble::Refuses, Trouble::Hangs, Trouble::CutsOff] {
        bench.survives(trouble).await;
    }
}

fn open(dir: &Path) -> Spool {
    Spool::open(SpoolOptions::new(dir).segment(32 * 1024).consumer("sink"), &SystemClock).unwrap().0
}

fn pace() -> Pace {
    let (short, long) = (Duration::from_millis(1), Duration::from_millis(50));
    Pace { linger: short, batch: 8 * 1024, timeout: BOUND, retry: short, longest_retry: long }
}

impl Bench<'_> {
    async fn in_order(&mut self) {
        self.write(30, "kubectl").await;
        self.write(3, HOSTILE).await;
        let status = self.drained().await;
        assert_eq!((status.lag, status.lag_bytes, status.failing), (Some(0), 0, false));
        assert!(status.last_success.is_some());
        self.all_is_there().await;
    }

    async fn goes_on_after_a_restart(&mut self) {
        self.write(40, "kubectl").await;
        let follower = Follower::new(self.spool.clone(), "sink", self.place.sink().await).unwrap().pace(pace());
        let monitor = follower.monitor();
        let running = tokio::spawn(async move { follower.run().await });
        let some = || async { monitor.status().taken > 0 };
        until("the first batch is taken", some).await;
        running.abort();
        assert!(running.await.is_err(), "it never ends by itself");
        let before = self.spool.cursor("sink").unwrap();
        assert_ne!(before, crate::Position::default());
        drop(monitor);
        // The spool is closed with its last clone, and opened as by the next process.
        self.spool = {
            let closed = std::mem::replace(&mut self.spool, open(&self.dir.join("meanwhile")));
            drop(closed);
            let again = || async { Spool::open(SpoolOptions::new(&self.dir).consumer("sink"), &SystemClock).is_ok() };
            until("the spool is closed", again).await;
            open(&self.dir)
        };
        // What was being written when it was aborted may have been.
        assert!(self.spool.cursor("sink") >= Some(before), "the cursor survives");
        let status = self.drained().await;
        assert!(status.taken < self.written, "not from the beginning");
        self.all_is_there().await;
    }

    async fn survives_poison(&mut self) {
        self.write(5, "kubectl").await;
        for poison in [&b"no event at all \x1b[2J\n"[..], br#"{"kind":"Event"}}],"#, b""] {
            let id = AuditId::generate();
            self.spool.append(Kind::Close, id, poison.to_vec());
            self.refused.insert(id);
            self.written += 1;
            self.write(2, "kubectl").await;
        }
        let status = self.drained().await;
        assert!(status.refused <= 3, "{status:?}");
        assert_eq!((status.lag, status.failing), (Some(0), false));
        self.all_is_there().await;

        // As large as the spool takes it: it is taken or refused, and what comes behind it is not held up.
        let large = self.request("c1", &"x".repeat(200 * 1024)).await;
        self.write(5, "kubectl").await;
        let status = self.drained().await;
        if status.refused > 0 {
            assert_eq!(status.refused, 2, "the two events of one request");
            self.refused.insert(large);
        }
        self.all_is_there().await;
    }

    async fn survives(&mut self, trouble: Trouble) {
        if !self.place.trouble(Some(trouble)).await {
            return;
        }
        self.write(20, "kubectl").await;
        let sink = self.place.sink().await;
        let follower = |timeout| {
            let pace = Pace { timeout, batch: 64 * 1024, ..pace() };
            Follower::new(self.spool.clone(), "sink", sink.clone()).unwrap().pace(pace)
        };
        let hasty = follower(if trouble == Trouble::Hangs { Duration::from_millis(500) } else { BOUND });
        let ended = timeout(BOUND, hasty.drain()).await;
        assert!(ended.is_ok(), "{trouble:?}: no end");
        assert!(
            ended.is_ok_and(|ended| ended.is_err()),
            "{trouble:?}: the sink says that it has taken what it has not"
        );
        let status = hasty.monitor().status();
        assert!(status.failing && status.failures > 0 && status.refused == 0, "{trouble:?}: {status:?}");
        assert!(status.lag.is_some_and(|lag| lag > 0) && status.lag_bytes > 0, "{trouble:?}: {status:?}");
        assert!(self.place.trouble(None).await);
        // The same sink gets over it.
        let patient = follower(BOUND);
        let again = || async { patient.drain().await.is_ok() };
        until("the sink has got over the trouble", again).await;
        assert!(!patient.monitor().status().failing);
        self.all_is_there().await;
    }

    async fn write(&mut self, requests: usize, agent: &str) {
        for number in 0..requests {
            self.request(["c1", "c2", "c3"][number % 3], agent).await;
        }
        self.spool.hurry();
        let mut end = self.spool.written();
        let all = async {
            while self.spool.status().records < self.written {
                end.changed().await.unwrap();
            }
        };
        timeout(BOUND, all).await.unwrap();
    }

    async fn request(&mut self, cluster: &str, agent: &str) -> AuditId {
        let id = AuditId::generate();
        let mut event = event(id, Stage::RequestReceived, 0);
        event.annotations.set("cluster", cluster);
        event.user_agent = agent.to_owned();
        self.spool.open(&event, Durability::Written).await.unwrap();
        event.stage = Stage::ResponseComplete;
        self.spool.note(&event);
        self.written += 2;
        id
    }

    /// Delivers everything, by a sink of its own, and tells how that went.
    async fn drained(&self) -> SinkStatus {
        let follower = Follower::new(self.spool.clone(), "sink", self.place.sink().await).unwrap().pace(pace());
        timeout(BOUND, follower.drain()).await.unwrap().unwrap();
        follower.monitor().status()
    }

    /// What the spool has, each event as it was, in its order for each cluster; repetitions do not count.
    async fn all_is_there(&self) {
        let records = crate::read(&self.dir).map(|record| record.unwrap());
        let sent = records.filter(|record| !self.refused.contains(&record.id));
        let sent = by_cluster(sent.map(|record| Event::from_json(record.payload.as_bytes()).unwrap()));
        let start = Instant::now();
        loop {
            let arrived = by_cluster(self.place.arrived().await.into_iter());
            if arrived == sent {
                return;
            }
            if BOUND < start.elapsed() {
                for (cluster, sent) in &sent {
                    let arrived = arrived.get(cluster).map(Vec::as_slice).unwrap_or_default();
                    let at = sent.iter().zip(arrived).position(|(sent, arrived)| sent != arrived);
                    let at = at.unwrap_or_else(|| sent.len().min(arrived.len()));
                    let (sent_count, count) = (sent.len(), arrived.len());
                    assert_eq!(arrived.get(at), sent.get(at), "event {at} of {cluster} ({count} of {sent_count})");
                }
                assert_eq!(arrived, sent);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn by_cluster(events: impl Iterator<Item = Event>) -> BTreeMap<String, Vec<Event>> {
    let (mut found, mut known) = (BTreeMap::<String, Vec<Event>>::new(), HashSet::new());
    for event in events {
        if known.insert((event.audit_id, event.stage)) {
            found.entry(event.fact("cluster").unwrap_or_default().to_owned()).or_default().push(event);
        }
    }
    found
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let all = async {
        while !condition().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(BOUND, all).await.is_ok(), "{what}: not within {BOUND:?}");
}
