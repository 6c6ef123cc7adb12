//! What heads and documents say of the age of a view, who is let in by it, and what is left of that over a restart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy.toml does not reach helpers")]

use std::{fs, path::PathBuf, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use serde_json::{Value, json};
use tempfile::TempDir;
use ztka_core::{
    Clock as _, DocumentHeader, DocumentKind, KeyId, ManualClock, Rejected, Revision, SeriesKey, SignedDocument,
};
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names};

use crate::Documents;

/// An installation with the organisation acme, and one of its members, who lets nobody in by what is older than a minute.
struct Stage {
    provider: Arc<CryptoProvider>,
    clock: ManualClock,
    hierarchy: Hierarchy,
    state: TempDir,
    documents: Documents,
}

impl Stage {
    async fn set() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = ManualClock::at(Timestamp::now());
        let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
        let lives = Lifetimes::default();
        let hierarchy =
            Hierarchy::create(Names::of("example.com"), lives, keys, Arc::new(clock.clone())).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let documents = open(&hierarchy, &state, &provider, &clock);
        let stage = Self { provider, clock, hierarchy, state, documents };
        stage.accept(stage.policy(1).await);
        stage.accept(stage.revocations(None, 1).await);
        stage.accept(stage.revocations(Some("acme"), 1).await);
        stage
    }

    /// The member starts again.
    fn restart(&mut self) {
        self.documents.settle();
        self.documents = open(&self.hierarchy, &self.state, &self.provider, &self.clock);
    }

    fn kept_head(&self) -> PathBuf {
        self.state.path().join("head.acme..json")
    }

    fn header(&self, kind: DocumentKind, org: Option<&str>, version: u64) -> DocumentHeader {
        let issued = self.clock.now();
        DocumentHeader {
            series: SeriesKey { kind, org: org.map(|org| org.parse().unwrap()), subject: String::new() },
            revision: Revision { epoch: 1, version },
            issued,
            expires: issued + SignedDuration::from_hours(24),
        }
    }

    async fn sign(&self, header: DocumentHeader, body: &Value) -> SignedDocument {
        self.hierarchy.sign_document(header, body).await.unwrap()
    }

    async fn policy(&self, version: u64) -> SignedDocument {
        let body = json!({"clusters": [{"id": "c1", "name": "prod"}]});
        self.sign(self.header(DocumentKind::Policy, Some("acme"), version), &body).await
    }

    async fn revocations(&self, org: Option<&str>, version: u64) -> SignedDocument {
        self.sign(self.header(DocumentKind::Revocations, org, version), &json!({})).await
    }

    /// A head of acme at a place in the feed.
    async fn head(&self, feed: u64, newest: Value) -> SignedDocument {
        self.sign(self.header(DocumentKind::Head, Some("acme"), feed), &json!({"newest": newest})).await
    }

    fn accept(&self, document: SignedDocument) {
        assert!(self.documents.accept(document).unwrap());
    }

    /// Why nobody is let in in acme, if so.
    fn refusal(&self) -> Option<String> {
        self.documents.engine().policy(&"acme".parse().unwrap()).err().map(|reason| reason.to_string())
    }

    fn later(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }
}

fn open(hierarchy: &Hierarchy, state: &TempDir, provider: &Arc<CryptoProvider>, clock: &ManualClock) -> Documents {
    let state = Some(state.path().to_owned());
    let documents =
        Documents::open(hierarchy.trust_bundle(), state, provider.clone(), Arc::new(clock.clone())).unwrap();
    documents.set_max_staleness(SignedDuration::from_mins(1));
    documents
}

fn named(kind: &str, org: Option<&str>, version: u64) -> Value {
    json!({"kind": kind, "org": org, "epoch": 1, "version": version})
}

/// What [`Stage::set`] has, with the policy at this version.
fn all(policy: u64) -> Value {
    json!(
        [named("policy", Some("acme"), policy), named("revocations", None, 1), named("revocations", Some("acme"), 1),]
    )
}

#[tokio::test]
async fn nobody_is_let_in_without_heads_and_at_once_with_the_next() {
    let stage = Stage::set().await;
    for feed in 1..10 {
        stage.later(59);
        assert_eq!(stage.refusal(), None);
        stage.accept(stage.head(feed, all(1)).await);
    }
    stage.later(60);
    assert!(stage.refusal().unwrap().contains("nothing was heard of the controller"));
    stage.accept(stage.head(10, all(1)).await);
    assert_eq!(stage.refusal(), None);

    // A head that took its time, or was held back, is as old as it is.
    let delayed = stage.head(11, all(1)).await;
    stage.later(59);
    stage.accept(delayed);
    stage.later(1);
    assert!(stage.refusal().is_some());
    // Other organisations' heads tell nothing of this one.
    let header = stage.header(DocumentKind::Head, Some("other"), 12);
    stage.accept(stage.sign(header, &json!({"newest": []})).await);
    assert!(stage.refusal().is_some());
}

#[tokio::test]
async fn a_head_counts_when_all_that_it_names_is_here() {
    let stage = Stage::set().await;
    // A policy more, which does not come: it may be on its way, so nobody is refused before time.
    stage.later(30);
    stage.accept(stage.head(2, all(2)).await);
    stage.later(29);
    assert_eq!(stage.refusal(), None);
    for feed in 3..6 {
        stage.later(10);
        stage.accept(stage.head(feed, all(2)).await);
        let refusal = stage.refusal().unwrap();
        assert!(refusal.contains("has signed something newer that has not come"), "{refusal}");
    }
    stage.accept(stage.policy(2).await);
    assert_eq!(stage.refusal(), None, "what was missing has come, and the last head is seconds old");

    // So it is with what concerns everybody; signing the policy again helps nobody who keeps revocations back.
    let revoked = json!([named("policy", Some("acme"), 2), named("revocations", None, 2)]);
    for feed in 6..13 {
        stage.later(10);
        stage.accept(stage.head(feed, revoked.clone()).await);
        stage.accept(stage.policy(2).await);
    }
    assert!(stage.refusal().is_some());
    stage.accept(stage.revocations(None, 2).await);
    assert_eq!(stage.refusal(), None);

    // What is newer here than the head says, or of a kind that comes later in time, is not missed.
    stage.accept(stage.policy(7).await);
    stage.later(50);
    let unknown = json!({"kind": "weather", "epoch": 9, "version": 9});
    stage.accept(stage.head(14, json!([named("policy", Some("acme"), 6), unknown])).await);
    stage.later(59);
    assert_eq!(stage.refusal(), None);
}

#[tokio::test]
async fn a_controller_without_heads_is_believed_by_its_oldest_signature() {
    let stage = Stage::set().await;
    stage.documents.set_max_staleness(SignedDuration::from_hours(2));
    stage.later(3600);
    stage.accept(stage.policy(1).await);
    stage.accept(stage.revocations(Some("acme"), 1).await);
    stage.later(3599);
    assert_eq!(stage.refusal(), None);
    stage.later(1);
    assert!(stage.refusal().is_some(), "what is revoked in the installation was signed two hours ago");
    stage.accept(stage.revocations(None, 1).await);
    assert_eq!(stage.refusal(), None);
}

#[tokio::test]
async fn a_head_is_believed_by_the_rules_of_every_document() {
    let stage = Stage::set().await;
    let refused = |document: SignedDocument| stage.documents.accept(document).unwrap_err();
    let first = stage.head(5, all(1)).await;
    stage.later(10);
    let second = stage.head(5, all(1)).await;
    stage.accept(second.clone());
    assert_eq!(stage.documents.accept(second), Ok(false), "it comes by the feed and by each tunnel");
    assert_eq!(refused(first), Rejected::Rollback);
    assert_eq!(refused(stage.head(4, all(1)).await), Rejected::Rollback);
    let before_restore = DocumentHeader {
        revision: Revision { epoch: 0, version: 99 },
        ..stage.header(DocumentKind::Head, Some("acme"), 0)
    };
    assert_eq!(refused(stage.sign(before_restore, &json!({"newest": all(1)})).await), Rejected::Rollback);

    stage.later(49);
    let header = || stage.header(DocumentKind::Head, Some("acme"), 6);
    let body = json!({"newest": all(1)});
    let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId("stranger".into()), vec![0; 64]));
    assert_eq!(refused(SignedDocument::sign(header(), &body, sign).unwrap()), Rejected::Signature);
    let wire = String::from_utf8(stage.head(6, all(1)).await.to_wire()).unwrap();
    let (start, end) = wire.split_at(wire.len() / 3);
    assert!(SignedDocument::from_wire(start.as_bytes()).is_err(), "truncated");
    let other = if end.starts_with('A') { "B" } else { "A" };
    if let Ok(changed) = SignedDocument::from_wire(format!("{start}{other}{}", end.get(1..).unwrap()).as_bytes()) {
        assert_eq!(refused(changed), Rejected::Signature);
    }
    let ahead = DocumentHeader { issued: stage.clock.now() + SignedDuration::from_mins(6), ..header() };
    assert_eq!(refused(stage.sign(ahead, &body).await), Rejected::Future);
    let over = DocumentHeader { expires: stage.clock.now(), ..header() };
    assert_eq!(refused(stage.sign(over, &body).await), Rejected::Expired);
    for newest in [json!(1), json!([named("policy", Some("other"), 1)]), json!([{"kind": "policy"}])] {
        assert_eq!(refused(stage.head(6, newest).await), Rejected::Unreadable);
    }
    let of_nobody = stage.header(DocumentKind::Head, None, 6);
    assert_eq!(refused(stage.sign(of_nobody, &body).await), Rejected::Unreadable);

    stage.later(11);
    assert!(stage.refusal().is_some(), "nothing of all that was believed");
    let is_head = |held: &ztka_core::Verified<SignedDocument>| held.header().series.kind == DocumentKind::Head;
    assert!(!stage.documents.all().iter().any(is_head), "nor is it kept among the others");
    // Whose clock is ahead by what clocks may be gains no more than that.
    let ahead = DocumentHeader { issued: stage.clock.now() + SignedDuration::from_mins(4), ..header() };
    stage.accept(stage.sign(ahead, &body).await);
    stage.later(5 * 60);
    assert!(stage.refusal().is_some());
}

#[tokio::test]
async fn a_restart_makes_nothing_younger_and_with_a_short_limit_nothing_older() {
    let mut stage = Stage::set().await;
    stage.later(3000);
    stage.accept(stage.head(2, all(1)).await);
    stage.later(50);
    stage.restart();
    assert_eq!(stage.refusal(), None, "the head was kept");
    stage.later(10);
    assert!(stage.refusal().is_some(), "as old as it was before");

    // Half of it was written when the power went: documents tell the time, and nothing is asked for again.
    stage.accept(stage.head(3, all(1)).await);
    stage.documents.keep_feed(3);
    stage.documents.settle();
    let whole = fs::read(stage.kept_head()).unwrap();
    fs::write(stage.kept_head(), whole.get(..whole.len() / 2).unwrap()).unwrap();
    stage.restart();
    assert!(stage.refusal().is_some());
    assert_eq!(stage.documents.start(), 3);
    stage.accept(stage.head(4, all(1)).await);
    assert_eq!(stage.refusal(), None);

    // With a day there is nothing to gain, and nothing is written.
    stage.documents.settle();
    fs::remove_file(stage.kept_head()).unwrap();
    stage.documents.set_max_staleness(SignedDuration::from_hours(24));
    stage.accept(stage.head(5, all(1)).await);
    stage.documents.settle();
    assert!(!stage.kept_head().exists());
    stage.restart();
    stage.documents.set_max_staleness(SignedDuration::from_hours(24));
    assert_eq!(stage.refusal(), None);
}

#[tokio::test]
async fn heads_are_handed_on_and_wake_nobody_else() {
    let stage = Stage::set().await;
    let (mut heads, mut changes) = (stage.documents.heads(), stage.documents.changes());
    changes.mark_unchanged();
    let head = stage.head(2, all(1)).await;
    stage.accept(head.clone());
    assert_eq!(heads.try_recv().unwrap().to_wire(), head.to_wire());
    assert!(!changes.has_changed().unwrap(), "what is open is not looked at again for it");
    assert!(stage.documents.accept(stage.head(1, all(1)).await).is_err());
    assert!(heads.try_recv().is_err());
}
