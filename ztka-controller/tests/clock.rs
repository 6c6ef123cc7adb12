//! A clock that is set back: what changes still comes out, under versions that only grow.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use jiff::SignedDuration;
use kit::Kit;
use ztka_controller::store::{FeedScope, ResourceStore as _};
use ztka_core::{OrgId, Revision, SeriesKey, SignedDocument};

/// The newest policy of an organisation that was published.
async fn policy(kit: &Kit, org: &OrgId) -> SignedDocument {
    let feed = kit.stores.documents.feed(&FeedScope::Installation, 0, 100).await.unwrap();
    let documents = feed.iter().map(|entry| SignedDocument::from_wire(&entry.wire).unwrap());
    documents.filter(|document| document.header().series == SeriesKey::policy(org.clone())).last().unwrap()
}

#[tokio::test]
async fn a_clock_that_goes_back_keeps_no_change_back() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    kit.controller.publish_due().await.unwrap();
    let before = policy(&kit, &acme).await;
    let head = kit.stores.documents.feed_head().await.unwrap();

    kit.clock.advance(-SignedDuration::from_hours(2));
    let role = ztka_authz::Role { name: "one".into(), rules: Vec::new(), read_only: false };
    kit.store.create_role(&acme, &"one".parse().unwrap(), &role).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    let after = policy(&kit, &acme).await;
    let Revision { epoch, version } = before.header().revision;
    assert_eq!(after.header().revision, Revision { epoch, version: version + 1 });
    assert!(after.header().issued < before.header().issued, "it says when it was signed");
    assert!(kit.stores.documents.feed_head().await.unwrap() > head);

    // And is signed again in time when the clock is right again.
    kit.clock.advance(SignedDuration::from_hours(4));
    kit.controller.publish_due().await.unwrap();
    assert!(policy(&kit, &acme).await.header().issued > before.header().issued);
}
