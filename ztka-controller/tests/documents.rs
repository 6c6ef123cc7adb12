//! What is signed when, and what several controllers over one store make of it.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kit::Kit;
use ztka_authz::{PolicyDocument, Role, Rule};
use ztka_controller::store::{Content, DocumentStore, FeedEntry, FeedScope, Published, Snapshot, StoreError, Stores};
use ztka_core::{ClusterId, DocumentKind, DocumentSet, OrgId, SeriesKey, SignedDocument};
use ztka_pki::{KeyError, KeyKind, KeyName, KeyStore, PublicKey, Signer};

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

/// Keys in a token that may be away.
#[derive(Debug)]
struct Token {
    keys: Arc<dyn KeyStore>,
    away: Arc<AtomicBool>,
}

#[derive(Debug)]
struct InToken(Arc<dyn Signer>, Arc<AtomicBool>);

#[async_trait]
impl Signer for InToken {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match self.1.load(SeqCst) {
            true => Err(KeyError::Unavailable("the token is not there".into())),
            false => self.0.sign(message).await,
        }
    }
}

#[async_trait]
impl KeyStore for Token {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(InToken(self.keys.create(name, kind).await?, self.away.clone())))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(InToken(self.keys.open(name).await?, self.away.clone())))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.keys.destroy(name).await
    }
}

#[tokio::test]
async fn who_cannot_sign_still_goes_by_what_others_have_signed() {
    let mut kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let alice = kit.user(&acme, "alice", None).await;
    kit.controller.publish_due().await.unwrap();
    let away = Arc::new(AtomicBool::new(false));
    let token = Token { keys: kit.stores.keys.clone(), away: away.clone() };
    let stores = Stores { keys: Arc::new(token), ..kit.stores.clone() };
    let before = std::mem::replace(&mut kit.stores, stores);
    let other = kit.another().await;
    kit.stores = before;

    away.store(true, SeqCst);
    kit.controller.directory().disable(&alice.user.id).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    kit.org("later").await;
    other.publish_due().await.expect_err("it has a document to sign, and cannot");
    assert!(other.trust().is_revoked(&kit::certificate_of(&alice)), "the revocation is signed, and in force");
}

/// A store with a policy that cannot be read, or has something else in its place.
#[derive(Debug)]
struct Damaged {
    store: Arc<dyn DocumentStore>,
    org: OrgId,
    instead: Option<PolicyDocument>,
}

#[async_trait]
impl DocumentStore for Damaged {
    async fn due(&self, before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError> {
        let mut due = self.store.due(before, now, limit).await?;
        // It comes before all others.
        due.sort_by_key(|series| series.org.as_ref() != Some(&self.org));
        Ok(due)
    }

    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError> {
        let stored = self.store.snapshot(series, now).await?;
        if series.kind != DocumentKind::Policy || series.org.as_ref() != Some(&self.org) {
            return Ok(stored);
        }
        match &self.instead {
            Some(policy) => Ok(stored.map(|stored| Snapshot { content: Content::Policy(policy.clone()), ..stored })),
            None => Err(StoreError::unavailable("column body holds something that this version cannot read")),
        }
    }

    async fn publish(&self, document: &Published) -> Result<bool, StoreError> {
        self.store.publish(document).await
    }

    async fn projections(&self, org: &OrgId, before: Timestamp) -> Result<Vec<ClusterId>, StoreError> {
        self.store.projections(org, before).await
    }

    async fn publish_all(&self, documents: &[Published]) -> Result<usize, StoreError> {
        self.store.publish_all(documents).await
    }

    async fn feed(&self, scope: &FeedScope, from: u64, limit: u32) -> Result<Vec<FeedEntry>, StoreError> {
        self.store.feed(scope, from, limit).await
    }

    async fn feed_head(&self) -> Result<u64, StoreError> {
        self.store.feed_head().await
    }

    async fn touch_trust(&self) -> Result<(), StoreError> {
        self.store.touch_trust().await
    }

    async fn unrecorded_epoch(&self) -> Result<Option<u64>, StoreError> {
        self.store.unrecorded_epoch().await
    }

    async fn epoch_recorded(&self, epoch: u64) -> Result<(), StoreError> {
        self.store.epoch_recorded(epoch).await
    }
}

#[tokio::test]
async fn what_is_damaged_of_one_organisation_keeps_no_other_ones_documents_back() {
    let mut kit = Kit::new().await;
    let (acme, other) = (kit.org("acme").await.id, kit.org("other").await.id);
    let damaged = Damaged { store: kit.stores.documents.clone(), org: acme.clone(), instead: None };
    kit.stores.documents = Arc::new(damaged);
    let controller = kit.another().await;
    controller.publish_due().await.expect_err("somebody has to hear of it");
    let published = follow(&kit).await;
    let has = |kind, org: &OrgId| {
        published.iter().any(|document| {
            let series = &document.header().series;
            series.kind == kind && series.org.as_ref() == Some(org)
        })
    };
    assert!(has(DocumentKind::Policy, &other) && has(DocumentKind::Revocations, &other));
    assert!(has(DocumentKind::Revocations, &acme) && !has(DocumentKind::Policy, &acme));
}

#[tokio::test]
async fn what_followers_would_not_take_is_not_published() {
    let mut kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    // From before there was a limit.
    let rule = Rule {
        verbs: vec!["get".into()],
        api_groups: vec![String::new()],
        resources: vec!["pods".into()],
        resource_names: vec!["x".repeat(13 << 20)],
        ..Rule::default()
    };
    let role = Role { name: "large".into(), rules: vec![rule], ..Role::default() };
    let instead = Some(PolicyDocument { roles: vec![role], ..PolicyDocument::default() });
    kit.stores.documents = Arc::new(Damaged { store: kit.stores.documents.clone(), org: acme.clone(), instead });
    let controller = kit.another().await;
    assert_eq!(controller.publish_due().await.unwrap(), 0, "all but that one were published at the start");
    let published = follow(&kit).await;
    let of_acme = published.iter().map(|document| &document.header().series);
    let kinds: Vec<_> = of_acme.filter(|series| series.org.as_ref() == Some(&acme)).map(|series| series.kind).collect();
    assert_eq!(kinds, [DocumentKind::Revocations]);
}
