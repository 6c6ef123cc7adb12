//! Who has a root alone finds the key that documents and tree heads were signed with.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use ztka_core::ManualClock;
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names, PeerError, Purpose, SoftwareKey, ValidCsr, signing_key};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

async fn hierarchy() -> Hierarchy {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keys = Arc::new(MemoryKeyStore::new(provider));
    let clock = Arc::new(ManualClock::at(now()));
    Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap()
}

#[tokio::test]
async fn the_chain_of_a_signature_leads_to_the_root() {
    let ours = hierarchy().await;
    let (key, signature, chain) = ours.sign_with_chain(b"head").await.unwrap();
    let root = ours.root();
    let found = signing_key(&chain, std::slice::from_ref(&root), now()).unwrap();
    assert_eq!(*found.id(), key);
    assert!(found.is_signed(b"head", &signature));
    assert!(!found.is_signed(b"tail", &signature));
    // With the root at the end, or with several to choose from.
    let other = hierarchy().await;
    let with_root = [chain.as_slice(), std::slice::from_ref(&root)].concat();
    assert!(signing_key(&with_root, &[other.root(), root.clone()], now()).is_ok());

    let refused = |chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>], at| {
        signing_key(chain, roots, at).map(drop).unwrap_err()
    };
    assert_eq!(refused(&chain, &[other.root()], now()), PeerError::Untrusted);
    assert_eq!(refused(&with_root, &[other.root()], now()), PeerError::Untrusted);
    assert_eq!(refused(&chain, &[], now()), PeerError::Untrusted);
    assert_eq!(refused(&[], std::slice::from_ref(&root), now()), PeerError::Length);
    assert_eq!(refused(&vec![chain[0].clone(); 9], std::slice::from_ref(&root), now()), PeerError::Length);
    let (before, after) = (now() - SignedDuration::from_hours(1), now() + SignedDuration::from_hours(24 * 365 * 11));
    assert_eq!(refused(&chain, std::slice::from_ref(&root), before), PeerError::NotYetValid);
    assert_eq!(refused(&chain, std::slice::from_ref(&root), after), PeerError::Expired);

    // What the same root has certified for something else signs nothing, and neither does the root.
    for purpose in Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Signing) {
        let anchor = ours.trust_bundle().anchors.get(&purpose).unwrap()[0].certificate.certificate().into_owned();
        assert_eq!(refused(&[anchor], std::slice::from_ref(&root), now()), PeerError::Use, "{purpose}");
    }
    assert_eq!(refused(std::slice::from_ref(&root), std::slice::from_ref(&root), now()), PeerError::Use);
    let csr =
        ValidCsr::from_der(&SoftwareKey::generate(&rustls::crypto::ring::default_provider()).unwrap().csr().unwrap());
    let proxy = ours.issue_proxy(&csr.unwrap(), &"p1".parse().unwrap()).await.unwrap();
    assert_eq!(refused(proxy.chain(), std::slice::from_ref(&root), now()), PeerError::Use);
    // A changed certificate is nobody's.
    for at in [60, 150, chain[0].len() - 1] {
        let mut changed = chain[0].to_vec();
        changed[at] ^= 1;
        assert!(signing_key(&[CertificateDer::from(changed)], std::slice::from_ref(&root), now()).is_err(), "{at}");
    }
}
