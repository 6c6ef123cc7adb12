//! What is signed when, and what several controllers over one store make of it.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use jiff::SignedDuration;
use kit::Kit;
use ztka_controller::store::{DocumentStore as _, FeedScope};
use ztka_core::{DocumentKind, DocumentSet, SignedDocument};

/// Everything published, as a follower believes it.
async fn follow(kit: &Kit) -> DocumentSet {
    let mut set = DocumentSet::default();
    let keys = kit.controller.hierarchy().trust_bundle();
    for entry in kit.store.feed(&FeedScope::Installation, 0, 1000).await.unwrap() {
        let document = SignedDocument::from_wire(&entry.wire).unwrap();
        set.accept(document, &keys, ztka_core::Clock::now(&kit.clock)).unwrap();
    }
    set
}

fn count(set: &DocumentSet, kind: DocumentKind) -> usize {
    set.iter().filter(|document| document.header().series.kind == kind).count()
}

#[tokio::test]
async fn documents_are_signed_on_change_and_again_every_hour_and_live_a_day() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    kit.user(&acme, "alice", None).await;
    assert!(kit.controller.publish_due().await.unwrap() > 0);
    assert_eq!(kit.controller.publish_due().await.unwrap(), 0, "nothing has changed");
    let first = follow(&kit).await;
    // Of the installation, its own organisation, and acme.
    assert_eq!(count(&first, DocumentKind::Trust), 1);
    assert_eq!(count(&first, DocumentKind::Policy), 2);
    assert_eq!(count(&first, DocumentKind::Revocations), 3);
    assert_eq!(count(&first, DocumentKind::Session), 1);
    for document in first.iter() {
        let header = document.header();
        assert_eq!(header.expires.duration_since(header.issued), SignedDuration::from_hours(24));
    }
    kit.clock.advance(SignedDuration::from_mins(59));
    assert_eq!(kit.controller.publish_due().await.unwrap(), 0);
    kit.clock.advance(SignedDuration::from_mins(2));
    // The session has ended with its credential after an hour, and is not signed again.
    assert_eq!(kit.controller.publish_due().await.unwrap(), 6);
    let again = follow(&kit).await;
    assert_eq!(count(&again, DocumentKind::Session), 0);
    for document in again.iter() {
        let header = document.header();
        let before = first.current(&header.series, header.issued).unwrap().header();
        assert_eq!(before.revision, header.revision, "the same revision");
        assert!(before.issued < header.issued, "believed for longer");
    }
}

#[tokio::test]
async fn controllers_over_one_store_are_one() {
    let kit = Kit::new().await;
    let other = kit.another().await;
    let pin = |controller: &ztka_controller::Controller| controller.hierarchy().root_pem();
    assert_eq!(pin(&kit.controller), pin(&other), "the authorities are made once");
    let acme = other.directory().create_org("acme".parse().unwrap()).await.unwrap().id;
    assert!(kit.controller.publish_due().await.unwrap() > 0, "whoever comes first signs");
    assert_eq!(other.publish_due().await.unwrap(), 0, "and the other finds it done");
    // A revocation is in force at both, whoever signed it.
    let alice = kit.user(&acme, "alice", None).await;
    kit.controller.directory().disable(&alice.user.id).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    other.publish_due().await.unwrap();
    let certificate = kit::certificate_of(&alice);
    assert!(kit.controller.trust().is_revoked(&certificate));
    assert!(other.trust().is_revoked(&certificate));
}

#[tokio::test]
async fn an_installation_keeps_its_name() {
    let kit = Kit::new().await;
    let (names, settings) = (ztka_pki::Names::of("other.example"), ztka_controller::Settings::of("other.example", 443));
    let clock = std::sync::Arc::new(kit.clock.clone());
    let refused = ztka_controller::Controller::open(kit.stores.clone(), names, settings, kit::provider(), clock)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("correct the domain"), "{refused}");
}
