//! Policies as they come over the wire, spoiled in every way: what was believed before is what is decided by.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test is to panic")]

mod fixture;
mod generated;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use fixture::user;
use generated::{CLUSTERS, policy, question};
use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, sample::Index};
use ztka_authz::{Action, Engine, PolicyDocument, Target};
use ztka_core::{
    Decision, DocumentHeader, DocumentKind, DocumentSet, KeyId, ManualClock, Rejected, Revision, SeriesKey,
    SignatureCheck, SignedDocument,
};

/// Not a signature that anybody should use, but it depends on a secret and on every byte.
struct Controller;

impl Controller {
    fn signature(secret: &str, message: &[u8]) -> Vec<u8> {
        let mut hasher = DefaultHasher::new();
        (secret, message).hash(&mut hasher);
        hasher.finish().to_be_bytes().to_vec()
    }
}

impl SignatureCheck for Controller {
    fn is_signed(&self, key: &KeyId, message: &[u8], signature: &[u8]) -> bool {
        key.0 == "controller" && signature == Self::signature("secret", message)
    }
}

fn now() -> Timestamp {
    "2026-01-05T12:00:00Z".parse().unwrap()
}

fn header(org: &str, version: u64) -> DocumentHeader {
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some(org.parse().unwrap()), subject: String::new() };
    let (issued, expires) = (now(), now() + SignedDuration::from_hours(1));
    DocumentHeader { series, revision: Revision { epoch: 2, version }, issued, expires }
}

fn wire(header: DocumentHeader, body: &PolicyDocument, key: &str, secret: &str) -> Vec<u8> {
    let sign = |message: &[u8]| Ok::<_, serde_json::Error>((KeyId(key.into()), Controller::signature(secret, message)));
    SignedDocument::sign(header, body, sign).unwrap().to_wire()
}

/// What a receiver has: the documents, and the engine that they feed.
struct Receiver {
    documents: DocumentSet,
    engine: Engine,
}

impl Receiver {
    fn receive(&mut self, wire: &[u8]) -> Result<bool, Rejected> {
        let document = SignedDocument::from_wire(wire)?;
        let Some(accepted) = self.documents.accept(document, &Controller, now())? else { return Ok(false) };
        // One that cannot be used is in force as well, and denies everything.
        Ok(self.engine.apply(accepted).unwrap_or(true))
    }

    fn answers(&self, questions: &[(&'static str, Target<'static>)]) -> Vec<bool> {
        let alice = user("alice", &["dev"]);
        let clusters = CLUSTERS.iter().map(|cluster| cluster.parse().unwrap());
        let ask = |cluster| questions.iter().map(move |(verb, target)| (cluster, *verb, *target)).collect::<Vec<_>>();
        let clusters: Vec<ztka_core::ClusterId> = clusters.collect();
        let all = clusters.iter().flat_map(ask);
        all.map(|(cluster, verb, target)| {
            matches!(self.engine.review(&alice, cluster, &Action::new(verb, target)), Decision::Allow(_))
        })
        .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_a_newer_document_of_the_controller_changes_a_decision(
        before in policy(),
        other in policy(),
        spoils in prop::collection::vec((any::<Index>(), 1..=255_u8), 30),
        questions in prop::collection::vec(question(), 20),
    ) {
        let clock = ManualClock::at(now());
        let mut receiver = Receiver { documents: DocumentSet::default(), engine: Engine::new(Arc::new(clock)) };
        prop_assert_eq!(receiver.receive(&wire(header("acme", 5), &before, "controller", "secret")), Ok(true));
        let answers = receiver.answers(&questions);
        let good = wire(header("acme", 6), &other, "controller", "secret");

        for (at, change) in &spoils {
            let cut = &good[..at.index(good.len())];
            prop_assert_eq!(receiver.receive(cut), Err(Rejected::Unreadable));
            let mut changed = good.clone();
            changed[at.index(good.len())] ^= change;
            // Spelt otherwise, it may be the same: then it is no other document.
            if let Ok(read) = SignedDocument::from_wire(&changed) {
                let same = read.to_wire() == good;
                prop_assert!(same || receiver.receive(&changed).is_err());
            }
        }
        let signed = |header, key: &str, secret: &str| wire(header, &other, key, secret);
        let later = |header: DocumentHeader, by: SignedDuration| {
            DocumentHeader { issued: header.issued + by, expires: header.expires + by, ..header }
        };
        let hours = SignedDuration::from_hours;
        let older = Revision { epoch: 1, version: 9 };
        for (document, refused) in [
            (signed(header("acme", 6), "controller", "another secret"), Rejected::Signature),
            (signed(header("acme", 6), "somebody", "secret"), Rejected::Signature),
            (signed(header("acme", 4), "controller", "secret"), Rejected::Rollback),
            (signed(DocumentHeader { revision: older, ..header("acme", 6) }, "controller", "secret"), Rejected::Rollback),
            (signed(later(header("acme", 6), hours(2)), "controller", "secret"), Rejected::Future),
            (signed(later(header("acme", 6), hours(-2)), "controller", "secret"), Rejected::Expired),
        ] {
            prop_assert_eq!(receiver.receive(&document), Err(refused));
        }
        // Another organisation's is in force there, and nowhere else.
        prop_assert_eq!(receiver.receive(&signed(header("other", 7), "controller", "secret")), Ok(true));
        // The same again changes nothing; nor does another of the same revision and time.
        prop_assert_eq!(receiver.receive(&signed(header("acme", 5), "controller", "secret")), Ok(false));
        prop_assert_eq!(receiver.answers(&questions), answers);

        prop_assert_eq!(receiver.receive(&good), Ok(true));
    }
}
