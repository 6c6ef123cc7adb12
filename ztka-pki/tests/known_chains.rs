//! A chain that was verified is not verified again by its signatures, and is refused all the same as soon as it would be.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use jiff::SignedDuration;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};
use support::{Installation, id, key};
use ztka_pki::{PeerError, Purpose, Revocations, TrustSource};

/// Counts the signatures that are verified.
#[derive(Debug)]
struct Counting(&'static dyn SignatureVerificationAlgorithm, &'static AtomicUsize);

impl SignatureVerificationAlgorithm for Counting {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }

    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.1.fetch_add(1, Relaxed);
        self.0.verify_signature(key, message, signature)
    }
}

/// The trust of `at`, and how many signatures were verified by it.
fn counted(at: &Installation) -> (TrustSource, impl Fn() -> usize) {
    let count: &'static AtomicUsize = Box::leak(Box::default());
    let known = rustls::crypto::ring::default_provider();
    let algorithms = known.signature_verification_algorithms;
    let counting =
        |algorithm: &&'static dyn SignatureVerificationAlgorithm| -> &'static dyn SignatureVerificationAlgorithm {
            Box::leak(Box::new(Counting(*algorithm, count)))
        };
    let all: Vec<_> = algorithms.all.iter().map(counting).collect();
    let algorithms = WebPkiSupportedAlgorithms { all: all.leak(), mapping: algorithms.mapping };
    let provider = Arc::new(CryptoProvider { signature_verification_algorithms: algorithms, ..known });
    let trust = TrustSource::new(at.hierarchy.trust_bundle(), provider, Arc::new(at.clock.clone())).unwrap();
    (trust, move || count.swap(0, Relaxed))
}

#[tokio::test]
async fn the_signatures_of_a_chain_are_verified_once() {
    let at = Installation::new().await;
    let (trust, verified) = counted(&at);
    let (one, other) = (at.credential(Purpose::Users).await, at.credential(Purpose::Users).await);
    let first = trust.identify(Purpose::Users, one.chain()).unwrap();
    assert_eq!(verified(), 2);
    let again = trust.identify(Purpose::Users, one.chain()).unwrap();
    assert_eq!((verified(), &*again), (0, &*first));
    // A verifier of another purpose knows nothing of it, and what was refused is looked at each time.
    for _ in 0..2 {
        assert_eq!(trust.identify(Purpose::Agents, one.chain()).err(), Some(PeerError::Untrusted));
    }
    verified();
    trust.identify(Purpose::Users, other.chain()).unwrap();
    assert_eq!(verified(), 2);
}

#[tokio::test]
async fn it_counts_no_longer_than_its_certificates_and_the_trust_do() {
    let at = Installation::new().await;
    let (trust, verified) = counted(&at);
    let user = at.credential(Purpose::Users).await;
    let peer = trust.identify(Purpose::Users, user.chain()).unwrap();
    verified();

    // Revocation is asked for apart.
    let revoked = Revocations { users: [id("u1")].into(), ..Revocations::default() };
    trust.set_revocations(Some(id("acme")), revoked);
    assert_eq!(trust.verify(Purpose::Users, user.chain()).err(), Some(PeerError::Revoked));
    assert_eq!(verified(), 0);

    // A clock that was set back is held against the certificate itself.
    at.clock.advance(SignedDuration::from_mins(-6));
    assert_eq!(trust.identify(Purpose::Users, user.chain()).err(), Some(PeerError::NotYetValid));
    at.clock.advance(SignedDuration::from_mins(6));
    trust.identify(Purpose::Users, user.chain()).unwrap();
    verified();

    // To its last second, and not beyond.
    let left = peer.not_after.duration_since(ztka_core::Clock::now(&at.clock));
    at.clock.advance(left);
    trust.identify(Purpose::Users, user.chain()).unwrap();
    assert_eq!(verified(), 0);
    at.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(trust.identify(Purpose::Users, user.chain()).err(), Some(PeerError::Expired));
    at.clock.advance(SignedDuration::from_secs(-1));

    // Other anchors: what is known is known by these no more.
    let next = Installation::new().await;
    trust.set_bundle(next.hierarchy.trust_bundle()).unwrap();
    assert_eq!(trust.identify(Purpose::Users, user.chain()).err(), Some(PeerError::Untrusted));
    trust.set_bundle(at.hierarchy.trust_bundle()).unwrap();
    verified();
    trust.identify(Purpose::Users, user.chain()).unwrap();
    assert_eq!(verified(), 2);
    let mut withdrawn = at.hierarchy.trust_bundle();
    withdrawn.revoked.insert(peer.authorities[0].clone());
    trust.set_bundle(withdrawn).unwrap();
    assert_eq!(trust.identify(Purpose::Users, user.chain()).err(), Some(PeerError::Untrusted));
}

#[tokio::test]
async fn every_byte_of_a_chain_counts() {
    let at = Installation::new().await;
    let (trust, verified) = counted(&at);
    let user = at.credential(Purpose::Users).await;
    trust.identify(Purpose::Users, user.chain()).unwrap();
    for certificate in 0..user.chain().len() {
        let mut chain = user.chain().to_vec();
        let mut bytes = chain[certificate].to_vec();
        // The last one is of the signature.
        *bytes.last_mut().unwrap() ^= 1;
        chain[certificate] = CertificateDer::from(bytes);
        assert!(trust.identify(Purpose::Users, &chain).is_err());
    }
    // Where one certificate ends and the next begins is part of it.
    let joined = [user.chain()[0].as_ref(), user.chain()[1].as_ref()].concat();
    assert!(trust.identify(Purpose::Users, &[CertificateDer::from(joined)]).is_err());
    assert!(trust.identify(Purpose::Users, &user.chain()[..1]).is_err());
    assert!(trust.identify(Purpose::Users, &[]).is_err());
    verified();
    trust.identify(Purpose::Users, user.chain()).unwrap();
    assert_eq!(verified(), 0);
}

#[tokio::test]
async fn as_many_are_known_as_there_is_room_for() {
    let at = Installation::new().await;
    let (trust, verified) = counted(&at);
    let first = at.credential(Purpose::Users).await;
    let key = key();
    let mut last = first.chain().to_vec();
    trust.identify(Purpose::Users, first.chain()).unwrap();
    for _ in 0..1100 {
        last = at.issue(Purpose::Users, "acme", &key).await.chain().to_vec();
        trust.identify(Purpose::Users, &last).unwrap();
    }
    verified();
    trust.identify(Purpose::Users, &last).unwrap();
    assert_eq!(verified(), 0);
    trust.identify(Purpose::Users, first.chain()).unwrap();
    assert_eq!(verified(), 2);
}
