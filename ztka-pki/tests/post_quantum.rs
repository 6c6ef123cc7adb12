//! The key exchange of both providers, and between them.
#![allow(clippy::unwrap_used, reason = "tests")]
mod support;

use std::sync::Arc;

use rustls::{NamedGroup, crypto::CryptoProvider};
use support::{Installation, handshake, provider};
use ztka_pki::{ClientAuth, Purpose, TrustSource, tls};

/// The group that a handshake of these two agrees on, certificates of both sides included.
async fn negotiated(server: &Arc<CryptoProvider>, client: &Arc<CryptoProvider>) -> Option<NamedGroup> {
    let at = Installation::new().await;
    let clock = at.trust.clock().clone();
    let trust = |provider: &Arc<CryptoProvider>| {
        TrustSource::new(at.hierarchy.trust_bundle(), provider.clone(), clock.clone()).unwrap()
    };
    let auth = ClientAuth::Required(Purpose::Agents);
    let servers = at.source(Purpose::Servers).await;
    let server = tls::server(server.clone(), servers, auth, trust(server), &[b"h2"]).unwrap();
    let agents = at.source(Purpose::Agents).await;
    let client = tls::client(client.clone(), trust(client), Some(agents), Purpose::Servers, &[b"h2"]).unwrap();
    let (accepted, connected) = handshake(&server, &client, "enroll.example.com").await;
    connected.unwrap();
    accepted.unwrap().group
}

#[tokio::test]
async fn both_sides_with_the_feature_exchange_keys_that_a_quantum_computer_does_not_find() {
    let aws_lc = tls::aws_lc();
    assert_eq!(negotiated(&aws_lc, &aws_lc).await, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn who_has_it_not_is_met_on_a_curve() {
    let (aws_lc, ring) = (tls::aws_lc(), provider());
    for (server, client) in [(&aws_lc, &ring), (&ring, &aws_lc), (&ring, &ring)] {
        assert_eq!(negotiated(server, client).await, Some(NamedGroup::X25519));
    }
}
