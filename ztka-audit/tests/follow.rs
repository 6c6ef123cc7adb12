//! From a spool to files and other places: in order, at least once, and never in vain.
#![expect(clippy::unwrap_used, reason = "clippy.toml does not reach the helpers of a test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;
use ztka_audit::{
    Batch, Chain, Durability, Event, EventQuery, EventStore as _, FileSink, Follower, Journal, MemoryStore, Pace,
    Receipt, ReceiptStore as _, Receipts, Signed, Sink, SinkError, Spool, SpoolOptions, Stage, compare,
};
use ztka_core::{AuditId, SystemClock};

fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    (dir, path)
}

fn spool(dir: &Path, consumers: &[&str]) -> Spool {
    let options = consumers.iter().fold(SpoolOptions::new(dir).segment(8192), |options, name| options.consumer(*name));
    Spool::open(options, &SystemClock).unwrap().0
}

async fn request(journal: &dyn Journal, agent: &str) -> AuditId {
    let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, Timestamp::now());
    event.user_agent = agent.into();
    event.annotations.set("cluster", "c1");
    event.annotations.set("org", "acme");
    journal.open(&event, Durability::Written).await.unwrap();
    event.stage = Stage::ResponseComplete;
    event.annotations.set("reached", "true");
    journal.note(&event);
    event.audit_id
}

/// Waits until `count` records are written, closing notes and all.
async fn written(spool: &Spool, count: u64) {
    let mut end = spool.written();
    spool.hurry();
    while spool.status().records < count {
        end.changed().await.unwrap();
    }
}

/// Remembers what came; fails as often as it is told to.
#[derive(Debug)]
struct Place {
    batches: Mutex<Vec<Batch>>,
    failures: AtomicUsize,
    records: watch::Sender<usize>,
}

impl Place {
    fn failing(times: usize) -> Arc<Self> {
        let (records, _) = watch::channel(0);
        Arc::new(Self { batches: Mutex::default(), failures: times.into(), records })
    }

    fn batches(&self) -> Vec<Batch> {
        self.batches.lock().unwrap().clone()
    }

    fn sequences(&self) -> Vec<u64> {
        self.batches().iter().flat_map(|batch| &batch.records).map(|record| record.sequence).collect()
    }
}

#[async_trait]
impl Sink for Place {
    async fn deliver(&self, batch: &Batch) -> Result<(), SinkError> {
        let left = self.failures.load(SeqCst);
        if left > 0 {
            self.failures.store(left - 1, SeqCst);
            return Err(SinkError::failed("the controller is away"));
        }
        let count = batch.records.len();
        self.batches.lock().unwrap().push(batch.clone());
        self.records.send_modify(|records| *records += count);
        Ok(())
    }
}

#[tokio::test]
async fn one_event_is_one_line_of_a_file_that_may_be_renamed_away() {
    let (keep, dir) = dir();
    let spool = spool(&dir, &["file"]);
    let path = keep.path().join("audit.log");
    // A crash has cut the last line short.
    fs::write(&path, r#"{"kind":"Ev"#).unwrap();
    let follower = Follower::new(spool.clone(), "file", FileSink::new(&path)).unwrap();
    let hostile = "a\nb\u{1b}[2J\u{2028}\u{9b}";
    for _ in 0..50 {
        request(&spool, hostile).await;
    }
    written(&spool, 100).await;
    follower.drain().await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (101, r#"{"kind":"Ev"#));
    for line in &lines[1..] {
        assert!(!line.chars().any(char::is_control));
        assert_eq!(Event::from_json(line.as_bytes()).unwrap().user_agent, hostile);
    }

    fs::rename(&path, keep.path().join("audit.log.1")).unwrap();
    request(&spool, "kubectl").await;
    written(&spool, 102).await;
    follower.drain().await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2, "nothing twice");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_says_so_and_loses_nothing() {
    let (keep, dir) = dir();
    let spool = spool(&dir, &["file"]);
    let sink = keep.path().join("missing").join("audit.log");
    let follower = Follower::new(spool.clone(), "file", FileSink::new(&sink)).unwrap();
    request(&spool, "").await;
    written(&spool, 2).await;
    let error = follower.drain().await.unwrap_err().to_string();
    assert!(error.contains("check that the directory is there"), "{error}");
    fs::create_dir(keep.path().join("missing")).unwrap();
    follower.drain().await.unwrap();
    assert_eq!(fs::read_to_string(&sink).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn a_place_that_is_away_gets_everything_later_in_order() {
    let (_keep, dir) = dir();
    let spool = spool(&dir, &["controller"]);
    let place = Place::failing(4);
    let pace = Pace {
        linger: std::time::Duration::from_millis(1),
        batch: 4096,
        timeout: std::time::Duration::from_secs(60),
        retry: std::time::Duration::from_millis(1),
        longest_retry: std::time::Duration::from_millis(4),
    };
    let follower = Follower::new(spool.clone(), "controller", place.clone()).unwrap().pace(pace);
    let running = tokio::spawn(async move { follower.run().await });
    for _ in 0..100 {
        request(&spool, "").await;
    }
    let mut records = place.records.subscribe();
    records.wait_for(|records| *records == 200).await.unwrap();
    running.abort();
    assert!(running.await.is_err());
    assert_eq!(place.sequences(), (0..200).collect::<Vec<_>>());
    let mut chain = Chain::start();
    for batch in &place.batches() {
        assert_eq!(chain.follow(batch), []);
        assert!(batch.records.iter().map(|record| record.payload.len()).sum::<usize>() < 4096 + 1024);
    }
}

#[tokio::test]
async fn a_follower_goes_on_where_the_last_one_stopped() {
    let (_keep, dir) = dir();
    for start in 0..3_u64 {
        let spool = spool(&dir, &["controller"]);
        let place = Place::failing(0);
        let follower = Follower::new(spool.clone(), "controller", place.clone()).unwrap();
        for _ in 0..40 {
            request(&spool, "").await;
        }
        written(&spool, (start + 1) * 80).await;
        follower.drain().await.unwrap();
        assert_eq!(place.sequences(), (start * 80..(start + 1) * 80).collect::<Vec<_>>());
    }
    let unknown = Follower::new(spool(&dir, &[]), "controller", Place::failing(0)).unwrap_err();
    assert!(unknown.to_string().contains("when the spool is opened"));
}

#[tokio::test]
async fn events_and_receipts_meet_at_the_controller() {
    let ((_keep, events), (_keep_too, receipts)) = (dir(), dir());
    let spool = spool(&events, &["controller"]);
    let (receipts, _) = Receipts::open(SpoolOptions::new(&receipts).consumer("controller"), &SystemClock).unwrap();
    let (mut event, place, signed_place) = (None, Place::failing(0), Place::failing(0));
    for _ in 0..3 {
        let id = request(&spool, "kubectl").await;
        event = Some(id);
        let mut same = Event::new(id, Stage::RequestReceived, Timestamp::now());
        same.annotations.set("cluster", "c1");
        receipts.open(&same, Durability::Synced).await.unwrap();
        same.stage = Stage::ResponseComplete;
        same.annotations.set("decision", "deny");
        same.annotations.set("reason", "the proxy lied");
        receipts.note(&same);
    }
    let unreported = request(&receipts, "").await;
    let unreceipted = request(&spool, "").await;
    written(&spool, 8).await;
    written(receipts.spool(), 8).await;
    Follower::new(spool, "controller", place.clone()).unwrap().drain().await.unwrap();
    let sign = Arc::new(|message: &[u8]| Ok(message.iter().rev().copied().collect()));
    let shipper = Signed::new(signed_place.clone(), sign);
    Follower::new(receipts.spool().clone(), "controller", shipper).unwrap().drain().await.unwrap();

    let (store, cluster) = (MemoryStore::default(), "c1".parse().unwrap());
    for _ in 0..2 {
        // The second time all of it is known.
        for batch in place.batches() {
            assert_eq!(store.ingest("proxy", &batch).await.unwrap().findings, []);
        }
        for batch in signed_place.batches() {
            assert!(batch.is_signed(|message, signature| message.iter().rev().eq(signature)));
            assert_eq!(store.ingest_receipts("agent", &cluster, &batch).await.unwrap().findings, []);
        }
    }
    let query = EventQuery { cluster: Some(cluster.clone()), ..EventQuery::default() };
    let stored = store.query(&query).await.unwrap();
    assert_eq!(stored.len(), 8);
    assert!(stored.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    let newest = EventQuery { audit_id: event, stage: Some(Stage::ResponseComplete), ..EventQuery::default() };
    assert_eq!(store.query(&newest).await.unwrap().len(), 1);
    let other = EventQuery { org: Some("other".parse().unwrap()), ..EventQuery::default() };
    assert_eq!(store.query(&other).await.unwrap(), []);

    let kept = store.receipts(&cluster, Timestamp::MIN, Timestamp::MAX).await.unwrap();
    assert_eq!(kept.len(), 8);
    let denied: Vec<&Receipt> = kept.iter().filter(|receipt| receipt.decision == "deny").collect();
    assert_eq!((denied.len(), denied[0].reason.as_str()), (3, "the proxy lied"));
    let events: Vec<_> = stored.into_iter().map(|stored| stored.event).collect();
    let found = compare(&events, &kept, &(Timestamp::MIN..Timestamp::MAX));
    let mut found: Vec<_> = found.iter().map(|finding| (finding.kind(), finding.audit_id())).collect();
    found.sort();
    assert_eq!(found, [("event-without-receipt", Some(unreceipted)), ("receipt-without-event", Some(unreported))]);
}
