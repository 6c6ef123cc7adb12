//! What is kept over a restart, and from where the feed is asked again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy.toml does not reach helpers")]

mod projections;
mod stopping;

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use serde_json::{json, value::RawValue};
use tempfile::TempDir;
use ztka_core::{DocumentHeader, DocumentKind, KeyId, ManualClock, Revision, SeriesKey, Session, SignedDocument};
use ztka_pki::{
    Credential, CredentialStore as _, Hierarchy, Lifetimes, MemoryCredentialStore, MemoryKeyStore, Names, Revocations,
    SoftwareKey, StoredCredential, TrustSource, ValidCsr,
};

use crate::{
    Channel, Documents, Follower, Line,
    follower::{Lines, TooLong},
};

/// An installation, and the state directory of one of its members.
struct Stage {
    provider: Arc<CryptoProvider>,
    clock: ManualClock,
    hierarchy: Hierarchy,
    state: TempDir,
}

impl Stage {
    async fn set() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = ManualClock::at(Timestamp::now());
        let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
        let lives = Lifetimes::default();
        let hierarchy = Hierarchy::create(Names::of("example.com"), lives, keys, Arc::new(clock.clone()));
        let hierarchy = hierarchy.await.unwrap();
        Self { provider, clock, hierarchy, state: tempfile::tempdir().unwrap() }
    }

    /// The member after a start.
    fn documents(&self) -> Documents {
        let (trust, state) = (self.hierarchy.trust_bundle(), Some(self.directory()));
        Documents::open(trust, state, self.provider.clone(), Arc::new(self.clock.clone())).unwrap()
    }

    fn follower(&self, documents: &Documents) -> Follower {
        let tls = rustls::ClientConfig::builder_with_provider(self.provider.clone());
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let channel = Channel::new("127.0.0.1:1", "controller.example.com".try_into().unwrap(), Arc::new(tls));
        Follower::new(channel, documents.clone())
    }

    fn directory(&self) -> PathBuf {
        self.state.path().join("documents")
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn header(&self, kind: DocumentKind, subject: &str, version: u64) -> DocumentHeader {
        let issued = ztka_core::Clock::now(&self.clock);
        DocumentHeader {
            series: SeriesKey { kind, org: Some("acme".parse().unwrap()), subject: subject.into() },
            revision: Revision { epoch: 0, version },
            issued,
            expires: issued + SignedDuration::from_hours(24),
        }
    }

    async fn sign(&self, header: DocumentHeader, body: &(impl serde::Serialize + Sync)) -> SignedDocument {
        self.hierarchy.sign_document(header, body).await.unwrap()
    }

    async fn revocations(&self, version: u64) -> SignedDocument {
        let credentials = BTreeSet::from([format!("k{version}").parse().unwrap()]);
        let body = Revocations { credentials, ..Revocations::default() };
        self.sign(self.header(DocumentKind::Revocations, "", version), &body).await
    }

    async fn session(&self, credential: &str) -> SignedDocument {
        let session = Session {
            user: "u1".parse().unwrap(),
            credential: credential.parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        self.sign(self.header(DocumentKind::Session, credential, 1), &session).await
    }
}

const REVOCATIONS: &str = "revocations.acme..json";

fn line(feed: u64, document: &SignedDocument) -> Vec<u8> {
    let wire = String::from_utf8(document.to_wire()).unwrap();
    serde_json::to_vec(&Line { feed, document: Some(RawValue::from_string(wire).unwrap()), ..Line::default() }).unwrap()
}

fn bookmark(feed: u64) -> Vec<u8> {
    serde_json::to_vec(&Line { feed, bookmark: true, ..Line::default() }).unwrap()
}

/// The same document under a key that nobody trusts.
fn forged(document: &SignedDocument) -> SignedDocument {
    let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId("stranger".into()), vec![0; 64]));
    SignedDocument::sign(document.header().clone(), &json!({}), sign).unwrap()
}

#[tokio::test]
async fn what_was_kept_is_believed_again_and_the_feed_goes_on_behind_it() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    assert_eq!(documents.start(), 0);
    documents.accept(stage.revocations(1).await).unwrap();
    documents.accept(stage.session("k1").await).unwrap();
    documents.keep_feed(7);
    documents.settle();
    let again = stage.documents();
    assert_eq!((again.start(), again.all().len()), (7, 2));
    let handed_on: Vec<_> = again.all_but_sessions().iter().map(|document| document.header().series.kind).collect();
    assert_eq!(handed_on, [DocumentKind::Revocations]);
}

#[tokio::test]
async fn the_place_in_the_feed_waits_for_a_document_that_cannot_be_written() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    documents.accept(stage.revocations(1).await).unwrap();
    documents.keep_feed(5);
    documents.settle();

    // Nothing can replace a directory: as with a full disk, the write fails, and the one after it would not.
    fs::remove_file(stage.kept(REVOCATIONS)).unwrap();
    fs::create_dir(stage.kept(REVOCATIONS)).unwrap();
    documents.accept(stage.revocations(2).await).unwrap();
    documents.keep_feed(7);
    documents.settle();
    assert_eq!(fs::read_to_string(stage.kept("feed")).unwrap(), "5");
    // A file that cannot be read does not keep the server from its start; all is asked for again.
    assert_eq!(stage.documents().start(), 0);

    // There is room again.
    fs::remove_dir(stage.kept(REVOCATIONS)).unwrap();
    documents.keep_feed(8);
    documents.settle();
    let again = stage.documents();
    assert_eq!(again.start(), 8);
    assert_eq!(again.all()[0].header().revision.version, 2);
}

#[tokio::test]
async fn a_policy_of_many_bindings_is_kept() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let binding = |number: u32| {
        let subjects = [json!({"user": format!("user-with-a-long-name-{number}")})];
        json!({"name": format!("b{number}"), "subjects": subjects, "role": "view", "clusters": {"all": true}, "scope": "cluster"})
    };
    let policy = json!({"clusters": [], "bindings": (0..5000).map(binding).collect::<Vec<_>>()});
    let policy = stage.sign(stage.header(DocumentKind::Policy, "", 1), &policy).await;
    assert!(policy.to_wire().len() > 512 * 1024);
    documents.accept(policy).unwrap();
    documents.keep_feed(7);
    documents.settle();
    let again = stage.documents();
    assert_eq!(again.start(), 7);
    assert!(again.engine().policy(&"acme".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn what_is_kept_but_not_believed_is_asked_for_again() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    documents.accept(stage.revocations(1).await).unwrap();
    documents.keep_feed(7);
    documents.settle();
    // Our own clock is a day behind at the next start.
    stage.clock.advance(SignedDuration::from_hours(-24));
    let behind = stage.documents();
    assert_eq!((behind.start(), behind.all().len()), (0, 0));
    // And two days ahead: the document would have been signed again, but perhaps it was not.
    stage.clock.advance(SignedDuration::from_hours(72));
    assert_eq!(stage.documents().start(), 0);
    stage.clock.advance(SignedDuration::from_hours(-48));
    assert_eq!(stage.documents().start(), 7);
}

#[tokio::test]
async fn sessions_that_are_over_are_dropped_at_the_start() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    documents.accept(stage.session("k1").await).unwrap();
    stage.clock.advance(SignedDuration::from_hours(20));
    documents.accept(stage.session("k2").await).unwrap();
    documents.keep_feed(7);
    documents.settle();
    stage.clock.advance(SignedDuration::from_hours(10));
    let again = stage.documents();
    assert_eq!((again.start(), again.all().len()), (7, 1));
    again.settle();
    assert!(!stage.kept("session.acme.k1.json").exists());
    assert!(stage.kept("session.acme.k2.json").exists());
}

#[tokio::test(start_paused = true)]
async fn whoever_follows_forgets_sessions_that_are_over_in_memory_and_on_disk() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    documents.accept(stage.session("k1").await).unwrap();
    documents.accept(stage.revocations(1).await).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let follower = stage.follower(&documents).run(async { drop(stopped.await) }, || {});
    let following = tokio::spawn(follower);
    stage.clock.advance(SignedDuration::from_hours(25));
    let forgotten = async {
        while documents.all().len() > 1 {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(3600), forgotten).await.expect("forgotten within the hour");
    documents.settle();
    assert!(!stage.kept("session.acme.k1.json").exists());
    assert!(stage.kept(REVOCATIONS).exists(), "its place is kept against a rollback");
    drop(stop);
    following.await.unwrap();
}

#[tokio::test]
async fn a_document_refused_for_a_passing_reason_is_tried_again_and_the_place_waits_for_it() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let mut follower = stage.follower(&documents);
    let revocations = stage.revocations(1).await;
    let session = stage.session("k1").await;

    // Our clock is behind: nothing is believed yet.
    stage.clock.advance(SignedDuration::from_hours(-1));
    let mut current = 0;
    for line in [line(3, &revocations), line(4, &session), bookmark(4)] {
        follower.take(&line, &mut || current += 1);
    }
    documents.settle();
    assert_eq!((documents.all().len(), current), (0, 1));
    assert_eq!(stage.documents().start(), 0, "a restart begins before them");

    // The clock is set right, and nobody sends them again.
    stage.clock.advance(SignedDuration::from_hours(1));
    follower.take(&bookmark(4), &mut || ());
    documents.settle();
    assert_eq!(documents.all().len(), 2);
    assert_eq!(stage.documents().start(), 4);
}

#[tokio::test]
async fn a_document_that_trust_is_missing_for_holds_the_place_until_a_good_one_comes() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let mut follower = stage.follower(&documents);
    let good = stage.revocations(1).await;
    for line in [line(3, &forged(&good)), line(4, &stage.session("k1").await), bookmark(4)] {
        follower.take(&line, &mut || ());
    }
    documents.settle();
    assert_eq!(documents.all().len(), 1, "one bad document does not keep the others from us");
    assert_eq!(stage.documents().start(), 0);
    for line in [line(5, &good), bookmark(5)] {
        follower.take(&line, &mut || ());
    }
    documents.settle();
    assert_eq!(stage.documents().start(), 5);
}

#[tokio::test]
async fn what_this_version_cannot_read_is_left_for_a_later_one() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let mut follower = stage.follower(&documents);
    let unknown = br#"{"feed":3,"document":{"signed":"e30=","key":"k","signature":""}}"#.to_vec();
    for line in [unknown, line(4, &stage.revocations(1).await), bookmark(4)] {
        follower.take(&line, &mut || ());
    }
    documents.settle();
    assert_eq!((documents.all().len(), stage.documents().start()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_starts_later_finds_whom_to_trust_beside_the_shared_credential() {
    let stage = Stage::set().await;
    stage.hierarchy.create_org(&"acme".parse().unwrap()).await.unwrap();
    let key = SoftwareKey::generate(&stage.provider).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let (org, cluster, instance) = ("acme".parse().unwrap(), "c1".parse().unwrap(), "i1".parse().unwrap());
    let issued = stage.hierarchy.issue_agent(&csr, &org, &cluster, &instance).await.unwrap();
    let credential = Credential::new(issued.chain().to_vec(), &key).unwrap();
    let first = stage.hierarchy.trust_bundle();
    let store = Arc::new(MemoryCredentialStore::default());
    store.save(&StoredCredential::of(&credential, &key, first.clone())).await.unwrap();
    let trust = TrustSource::new(first.clone(), stage.provider.clone(), Arc::new(stage.clock.clone())).unwrap();
    tokio::spawn(crate::share::share_trust(store.clone(), trust.clone()));
    let kept = async || store.load().await.unwrap().unwrap();

    // An authority more: as when one is about to be replaced.
    let other = Stage::set().await.hierarchy.trust_bundle();
    let mut second = first.clone();
    second.roots.extend(other.roots);
    // Waits until the task has its turn: the clock is paused, and goes on when nothing else can.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    trust.set_revocations(None, Revocations::default());
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(kept().await.trust, first);
    trust.set_bundle(second.clone()).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let after = kept().await;
    assert_eq!((after.trust, after.chain), (second, kept().await.chain));
    assert_eq!(*after.key, *key.to_pem());
}

#[tokio::test]
async fn a_line_that_nobody_could_hold_keeps_no_other_from_us() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let mut follower = stage.follower(&documents);
    let good = line(4, &stage.revocations(1).await);
    // An organisation's policy of 40 MiB, in the middle of the feed of all.
    let mut feed = [b"{\"feed\":3,\"document\":\"", vec![b'x'; 40 << 20].as_slice(), b"\"}\n"].concat();
    let rubbish = b"{\"feed\":5,\"document\":7,";
    for line in [&good[..], &rubbish[..], &bookmark(6)] {
        feed.extend_from_slice(line);
        feed.push(b'\n');
    }
    let mut lines = Lines::new(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(feed))));
    let mut seen = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        seen.push(line.as_ref().map_or(0, bytes::Bytes::len));
        match line {
            Ok(line) => follower.take(&line, &mut || ()),
            Err(TooLong) => follower.leave_out("too long"),
        }
    }
    documents.settle();
    assert_eq!(seen, [0, good.len(), rubbish.len(), bookmark(6).len()]);
    assert_eq!(documents.all().len(), 1);
    assert_eq!(stage.documents().start(), 0, "a later version asks for them again");
}

#[tokio::test]
async fn proxies_are_told_of_and_what_cannot_be_read_is_left_out() {
    let stage = Stage::set().await;
    let mut follower = stage.follower(&stage.documents());
    let mut proxies = follower.proxies();
    let line =
        json!({"feed": 7, "proxies": [{"id": "p1", "zone": "a"}, {"id": "No Id"}, {"id": "p2", "address": "h:1"}]});
    follower.take(line.to_string().as_bytes(), &mut || ());
    let known: Vec<_> = proxies.borrow_and_update().iter().map(|proxy| proxy.id.to_string()).collect();
    assert_eq!(known, ["p1", "p2"]);
    follower.take(&bookmark(8), &mut || ());
    assert!(!proxies.has_changed().unwrap(), "a line without proxies says nothing of them");
    follower.take(br#"{"feed":8,"proxies":[]}"#, &mut || ());
    assert!(proxies.borrow_and_update().is_empty());
}

#[tokio::test(start_paused = true)]
async fn proxies_age_out_when_the_controller_is_not_heard_any_more() {
    let stage = Stage::set().await;
    let mut follower = stage.follower(&stage.documents());
    let mut proxies = follower.proxies();
    follower.take(br#"{"feed":1,"proxies":[{"id":"p1"}]}"#, &mut || ());
    proxies.mark_unchanged();
    let begun = tokio::time::Instant::now();
    let gone = async {
        proxies.changed().await.unwrap();
        assert!(proxies.borrow().is_empty());
    };
    follower.run(gone, || ()).await;
    let passed = begun.elapsed().as_secs();
    assert!((600..660).contains(&passed), "{passed}");
}
