//! Nobody is let in by what is older than it may be, and the refusal says why.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test is to panic")]

mod fixture;

use std::sync::Arc;

use fixture::{gives, refusal, signed, target, user};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use ztka_authz::{Action, Engine};
use ztka_core::{Clock as _, Decision, ManualClock, OrgId};

fn minutes(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

#[test]
fn what_is_known_is_believed_until_it_is_too_old_and_at_once_when_it_is_not() {
    let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
    let engine = Engine::new(Arc::new(clock.clone()));
    let (alice, cluster) = (user("alice", &[]), "c1".parse().unwrap());
    let asks = || engine.review(&alice, &cluster, &Action::new("get", target("core/pods", Some("dev"), Some("a"))));
    let allowed = || matches!(asks(), Decision::Allow(_));
    let acme = alice.org().clone();
    engine.apply(&signed(&gives("view", json!("cluster")), 1, Timestamp::UNIX_EPOCH + minutes(1000))).unwrap();
    engine.set_max_staleness(minutes(10));

    // Whoever embeds the engine alone says nothing of age, and only the policy's own end counts.
    clock.advance(minutes(60));
    assert!(allowed());
    assert_eq!(engine.staleness(), (SignedDuration::ZERO, 0));

    engine.known_as_of(&acme, clock.now(), false);
    clock.advance(minutes(10) - SignedDuration::from_micros(1));
    assert!(allowed());
    clock.advance(SignedDuration::from_micros(1));
    assert_eq!(engine.staleness(), (minutes(10), 1));
    let told = refusal(asks());
    assert!(told.contains("nothing was heard of the controller since 1970-01-01T01:00:00Z"), "{told}");
    assert!(told.contains("max_staleness (10m)") && told.contains("check that a controller runs"), "{told}");
    engine.known_as_of(&acme, clock.now() - minutes(20), true);
    let told = refusal(asks());
    assert!(told.contains("has signed something newer that has not come"), "{told}");

    // What is said of others changes nothing here, also before there is a policy of theirs.
    let other: OrgId = "other".parse().unwrap();
    engine.known_as_of(&other, clock.now(), false);
    assert!(!allowed());
    engine.known_as_of(&acme, clock.now(), true);
    assert!(allowed(), "behind, and not too old: it may be on its way");
    assert_eq!(engine.staleness(), (SignedDuration::ZERO, 0));

    // A policy that is signed again is no news of what is revoked; whoever follows says of when all of it is.
    clock.advance(minutes(30));
    engine.apply(&signed(&gives("view", json!("cluster")), 1, Timestamp::UNIX_EPOCH + minutes(2000))).unwrap();
    assert!(!allowed());
    // A clock that was set back makes nothing old.
    engine.known_as_of(&acme, clock.now(), false);
    clock.advance(minutes(-90));
    assert!(allowed());
}
