//! What a [`JobStore`] has to do.

use jiff::{SignedDuration, Timestamp};

use crate::store::{JobKind, JobStore, Step};

const LEASE: SignedDuration = SignedDuration::from_secs(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// The store may have jobs of its own, which are done first.
pub async fn jobs(store: &dyn JobStore) {
    while let Some(mut job) = store.take_job("first", at(0), LEASE).await.unwrap() {
        while store.step(&mut job, at(0), LEASE).await.unwrap() == Step::More {}
    }
    let there = |kind, subject: &'static str| async move {
        let jobs = store.jobs().await.unwrap();
        jobs.into_iter().find(|job| job.kind == kind && job.subject == subject)
    };

    // Once for each kind and subject; not before it is due.
    store.add_job(JobKind::DestroyKey, "a", at(10)).await.unwrap();
    store.add_job(JobKind::DestroyKey, "a", at(5)).await.unwrap();
    assert_eq!(there(JobKind::DestroyKey, "a").await.unwrap().due, at(10));
    assert_eq!(store.take_job("one", at(9), LEASE).await.unwrap(), None);

    // Whoever has it keeps the others away until the lease is over.
    let one = store.take_job("one", at(10), LEASE).await.unwrap().unwrap();
    assert_eq!((one.kind, one.subject.as_str()), (JobKind::DestroyKey, "a"));
    assert_eq!(store.take_job("two", at(39), LEASE).await.unwrap(), None);
    let two = store.take_job("two", at(41), LEASE).await.unwrap().unwrap();
    assert_ne!(one.fence, two.fence);

    // Who comes too late changes nothing.
    assert_eq!(store.finish(&one).await.unwrap(), Step::Lost);
    assert_eq!(store.put_off(&one, at(500), "late").await.unwrap(), Step::Lost);
    assert_eq!(there(JobKind::DestroyKey, "a").await.unwrap().failed, None);

    // Put off, it says why, and goes on later; then it is done.
    store.put_off(&two, at(100), "the token is away").await.unwrap();
    assert_eq!(there(JobKind::DestroyKey, "a").await.unwrap().failed.as_deref(), Some("the token is away"));
    assert_eq!(store.take_job("two", at(99), LEASE).await.unwrap(), None);
    let three = store.take_job("two", at(100), LEASE).await.unwrap().unwrap();
    assert_eq!(store.finish(&three).await.unwrap(), Step::Done);
    assert_eq!(there(JobKind::DestroyKey, "a").await, None);
    assert_eq!(store.finish(&three).await.unwrap(), Step::Lost, "once");

    // One that comes again: a step of whoever has lost it is undone.
    let later = at(100_000);
    let mut lost = store.take_job("one", later, LEASE).await.unwrap().unwrap();
    assert_eq!(lost.kind, JobKind::Purge);
    let much_later = at(200_000);
    let mut held = store.take_job("two", much_later, LEASE).await.unwrap().unwrap();
    assert_eq!(store.step(&mut lost, much_later, LEASE).await.unwrap(), Step::Lost);
    while store.step(&mut held, much_later, LEASE).await.unwrap() == Step::More {}
    assert!(there(JobKind::Purge, "").await.unwrap().due > much_later);
}
