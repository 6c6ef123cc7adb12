//! Certificates of servers and controllers: renewed in time, tried again with backoff, an alarm when it goes on failing,
//! and what is new is used at once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use jiff::{SignedDuration, Timestamp};
use support::{handshake, key, now, provider};
use tokio::time::Instant;
use ztka_core::Clock;
use ztka_pki::{
    ClientAuth, Credential, CredentialSource, Hierarchy, Lifetimes, MemoryKeyStore, Names, Purpose, TrustSource, tls,
};

/// Goes with tokio's clock, which is paused.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        now() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_renewed_in_time_or_raises_an_alarm_and_shows_the_new_certificate_at_once() {
    let clock: Arc<dyn Clock> = Arc::new(Paused(Instant::now()));
    let keys = Arc::new(MemoryKeyStore::new(provider()));
    let lifetimes = Lifetimes { server: SignedDuration::from_secs(900), ..Lifetimes::default() };
    let hierarchy = Hierarchy::create(Names::of("example.com"), lifetimes, keys, clock.clone()).await.unwrap();
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock.clone()).unwrap();
    let down = AtomicBool::new(false);
    let renew = || async {
        if down.load(Ordering::Relaxed) {
            return Err("the key store is away".into());
        }
        let key = key();
        let issued = hierarchy.issue_server(key.public(), &["api.example.com"]).await?;
        Ok(Credential::new(issued.chain().to_vec(), &key)?)
    };
    let source = CredentialSource::new(renew().await.unwrap());
    let failures = Mutex::new(Vec::new());
    let failed = |_: &ztka_core::BoxError, again: std::time::Duration, status: ztka_pki::RenewalStatus| {
        let age = clock.now().duration_since(status.issued).as_secs_f64();
        failures.lock().unwrap().push((age, again, status.overdue));
    };
    // Shown to whoever connects, by the configuration that is there from the beginning.
    let server = tls::server(provider(), source.clone(), ClientAuth::None, trust.clone(), &[b"h2"]).unwrap();
    let client = tls::client(provider(), trust.clone(), None, Purpose::Servers, &[b"h2"]).unwrap();
    let mut changes = source.changes();
    let story = async {
        for _ in 0..3 {
            let (before, since) = (source.current().serial().to_owned(), clock.now());
            changes.changed().await;
            let after = clock.now().duration_since(since).as_secs_f64();
            assert!((535.0..=631.0).contains(&after), "renewed after {after} of 900 s");
            assert_ne!(source.current().serial(), before);
            handshake(&server, &client, "api.example.com").await.1.unwrap();
        }
        assert!(failures.lock().unwrap().is_empty());
        down.store(true, Ordering::Relaxed);
        let issued = source.current().issued();
        while clock.now().duration_since(issued) < SignedDuration::from_secs(890) {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        down.store(false, Ordering::Relaxed);
        changes.changed().await;
        handshake(&server, &client, "api.example.com").await.1.unwrap();
    };
    tokio::select! {
        () = source.keep_fresh(&*clock, renew, |_| std::future::pending(), failed) => {}
        () = story => {}
    }
    let failures = failures.into_inner().unwrap();
    assert!((5..200).contains(&failures.len()), "{failures:?}");
    for (age, again, overdue) in &failures {
        assert_eq!(*overdue, *age >= 700.0, "after {age} s");
        assert!(again.as_secs_f64() <= (900.0 - age).max(10.0) / 10.0 + 1.0, "{again:?} after {age} s");
    }
    assert!(failures.iter().any(|(.., overdue)| *overdue) && failures.iter().any(|(.., overdue)| !*overdue));
}

#[tokio::test(start_paused = true)]
async fn what_is_superseded_is_renewed_at_once_and_by_an_issuer_that_is_behind_not_without_pause() {
    let clock: Arc<dyn Clock> = Arc::new(Paused(Instant::now()));
    let keys = Arc::new(MemoryKeyStore::new(provider()));
    let hierarchy =
        Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await.unwrap();
    let renewals = AtomicU32::new(0);
    let renew = || async {
        renewals.fetch_add(1, Ordering::Relaxed);
        let key = key();
        let issued = hierarchy.issue_server(key.public(), &["api.example.com"]).await?;
        Ok(Credential::new(issued.chain().to_vec(), &key)?)
    };
    let source = CredentialSource::new(renew().await.unwrap());
    renewals.store(0, Ordering::Relaxed);
    let (moved_on, _) = tokio::sync::watch::channel(false);
    let superseded = |_| {
        let mut moved_on = moved_on.subscribe();
        async move { drop(moved_on.wait_for(|moved_on| *moved_on).await) }
    };
    let story = async {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert_eq!(renewals.load(Ordering::Relaxed), 0);
        moved_on.send_replace(true);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(renewals.load(Ordering::Relaxed), 1);
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        assert!((5..=12).contains(&renewals.load(Ordering::Relaxed)), "{renewals:?}");
        moved_on.send_replace(false);
        let before = renewals.load(Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(renewals.load(Ordering::Relaxed) <= before + 1);
    };
    tokio::select! {
        () = source.keep_fresh(&*clock, renew, superseded, |_, _, _| {}) => {}
        () = story => {}
    }
}
