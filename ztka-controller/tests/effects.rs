//! Effects outside the database happen once, wherever a controller is killed between them and saying so.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kit::{Kit, provider};
use ztka_controller::{
    Controller, Settings,
    store::{DataKey, Deletion, Job, JobKind, JobStatus, JobStore, MasterKey, Step, StoreError, Stores},
};
use ztka_core::OrgId;
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, Names, Signer};

/// Counts the keys that are destroyed.
#[derive(Debug)]
struct Counting {
    keys: Arc<dyn KeyStore>,
    destroyed: AtomicUsize,
    asked: AtomicUsize,
}

#[async_trait]
impl KeyStore for Counting {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        self.keys.create(name, kind).await
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        self.keys.open(name).await
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.keys.destroy(name).await?;
        self.destroyed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The jobs of a controller that is killed each time before it can say that something has happened, for some time.
#[derive(Debug)]
struct Killed {
    jobs: Arc<dyn JobStore>,
    times: AtomicUsize,
    hung: AtomicUsize,
}

#[async_trait]
impl JobStore for Killed {
    async fn add_job(&self, kind: JobKind, subject: &str, due: Timestamp) -> Result<(), StoreError> {
        self.jobs.add_job(kind, subject, due).await
    }

    async fn take_job(&self, holder: &str, now: Timestamp, lease: SignedDuration) -> Result<Option<Job>, StoreError> {
        self.jobs.take_job(holder, now, lease).await
    }

    async fn step(&self, job: &mut Job, now: Timestamp, lease: SignedDuration) -> Result<Step, StoreError> {
        self.jobs.step(job, now, lease).await
    }

    async fn finish(&self, job: &Job) -> Result<Step, StoreError> {
        let before = self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1));
        if before.is_ok() {
            // The task goes no further.
            self.hung.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.jobs.finish(job).await
    }

    async fn put_off(&self, job: &Job, due: Timestamp, failed: &str) -> Result<Step, StoreError> {
        self.jobs.put_off(job, due, failed).await
    }

    async fn jobs(&self) -> Result<Vec<JobStatus>, StoreError> {
        self.jobs.jobs().await
    }

    async fn deletions(&self) -> Result<Vec<Deletion>, StoreError> {
        self.jobs.deletions().await
    }

    async fn rotate_data_key(&self, org: Option<&OrgId>, now: Timestamp) -> Result<(), StoreError> {
        self.jobs.rotate_data_key(org, now).await
    }

    async fn data_keys(&self, org: Option<&OrgId>) -> Result<Vec<DataKey>, StoreError> {
        self.jobs.data_keys(org).await
    }

    async fn master_keys(&self) -> Result<Vec<MasterKey>, StoreError> {
        self.jobs.master_keys().await
    }

    async fn rewrap(&self, now: Timestamp) -> Result<(), StoreError> {
        self.jobs.rewrap(now).await
    }

    fn forget_unused_keys(&self) {
        self.jobs.forget_unused_keys();
    }
}

#[tokio::test]
async fn a_key_is_destroyed_once_whoever_is_killed_before_saying_so() {
    let kit = Kit::new().await;
    let counting = Arc::new(Counting {
        keys: kit.stores.keys.clone(),
        destroyed: AtomicUsize::new(0),
        asked: AtomicUsize::new(0),
    });
    let jobs =
        Arc::new(Killed { jobs: kit.stores.jobs.clone(), times: AtomicUsize::new(2), hung: AtomicUsize::new(0) });
    let stores = Stores { keys: counting.clone(), jobs: jobs.clone(), ..kit.stores.clone() };
    let names: [KeyName; 3] = ["agents.gone", "users.gone", "7.users.gone"].map(|name| name.parse().unwrap());
    for name in &names {
        counting.create(name, KeyKind::default()).await.unwrap();
        stores.jobs.add_job(JobKind::DestroyKey, name.as_str(), kit.controller_now()).await.unwrap();
    }
    let mut killed = 0;
    loop {
        let (clock, settings) = (Arc::new(kit.clock.clone()), Settings::of("example.com", 443));
        let names = Names::of("example.com");
        let controller = Controller::open(stores.clone(), names, settings, provider(), clock).await.unwrap();
        // A controller that hangs is one that was killed: its future is dropped.
        tokio::select! {
            done = controller.work_off() => {
                done.unwrap();
                break;
            }
            () = hangs(&jobs, killed) => killed += 1,
        }
        // Its lease is over.
        kit.clock.advance(SignedDuration::from_secs(31));
    }
    assert_eq!(killed, 2);
    assert_eq!(counting.destroyed.load(Ordering::SeqCst), names.len(), "each once");
    assert_eq!(counting.asked.load(Ordering::SeqCst), names.len() + killed, "and found gone by whoever came after");
    assert!(jobs.jobs().await.unwrap().iter().all(|job| job.kind != JobKind::DestroyKey));
    for name in &names {
        assert!(matches!(counting.open(name).await, Err(KeyError::Absent(_))));
    }
}

/// Until one controller more hangs than were killed before.
async fn hangs(jobs: &Killed, killed: usize) {
    while jobs.hung.load(Ordering::SeqCst) <= killed {
        tokio::task::yield_now().await;
    }
}
