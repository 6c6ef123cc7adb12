//! TLS handshakes in memory: every role against every purpose.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod support;

use std::sync::Arc;

use jiff::SignedDuration;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use support::{Installation, handshake, id, provider};
use ztka_core::Subject;
use ztka_pki::{
    CaPin, ClientAuth, Credential, CredentialError, CredentialSource, PeerError, Purpose, Revocations, TrustSource, tls,
};

const CLIENTS: [Purpose; 4] = [Purpose::Agents, Purpose::Users, Purpose::Proxies, Purpose::Controllers];
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

async fn server(at: &Installation, auth: ClientAuth) -> Arc<ServerConfig> {
    tls::server(provider(), at.source(Purpose::Servers).await, auth, at.trust.clone(), ALPN).unwrap()
}

fn client(trust: &TrustSource, credentials: Option<CredentialSource>) -> Arc<ClientConfig> {
    tls::client(provider(), trust.clone(), credentials, Purpose::Servers, ALPN).unwrap()
}

#[tokio::test]
async fn a_listener_takes_its_own_purpose_and_no_other() {
    let at = Installation::new().await;
    for expected in CLIENTS {
        for presented in [Purpose::Servers, Purpose::Agents, Purpose::Users, Purpose::Proxies, Purpose::Controllers] {
            for auth in [ClientAuth::Required(expected), ClientAuth::Requested(expected)] {
                let server = server(&at, auth.clone()).await;
                let client = client(&at.trust, Some(at.source(presented).await));
                let (accepted, connected) = handshake(&server, &client, "enroll.example.com").await;
                assert_eq!(accepted.is_ok(), expected == presented, "{presented} at {auth:?}: {accepted:?}");
                assert_eq!(connected.is_ok(), expected == presented, "{presented} at {auth:?}: {connected:?}");
                if let Ok(accepted) = accepted {
                    assert_eq!(accepted.version, ProtocolVersion::TLSv1_3);
                    let chain: Vec<CertificateDer<'static>> = accepted.chain.into_iter().map(Into::into).collect();
                    assert!(expected.fits(&at.trust.verify(expected, &chain).unwrap().id.subject));
                } else {
                    let alert = connected.unwrap_err().to_string();
                    assert!(alert.contains("alert"), "{alert}");
                }
            }
        }
    }
}

#[tokio::test]
async fn without_a_certificate_only_where_it_is_merely_requested() {
    let at = Installation::new().await;
    let client = client(&at.trust, None);
    for (auth, passes) in [
        (ClientAuth::None, true),
        (ClientAuth::Requested(Purpose::Users), true),
        (ClientAuth::Required(Purpose::Agents), false),
        (ClientAuth::RequiredAny(vec![Purpose::Proxies, Purpose::Controllers]), false),
        (ClientAuth::RequiredAny(Vec::new()), false),
    ] {
        let (accepted, _) = handshake(&server(&at, auth.clone()).await, &client, "enroll.example.com").await;
        assert_eq!(accepted.is_ok(), passes, "{auth:?}");
    }
}

#[tokio::test]
async fn one_listener_may_take_two_purposes() {
    let at = Installation::new().await;
    let server = server(&at, ClientAuth::RequiredAny(vec![Purpose::Proxies, Purpose::Controllers])).await;
    for purpose in CLIENTS {
        let client = client(&at.trust, Some(at.source(purpose).await));
        let (accepted, _) = handshake(&server, &client, "enroll.example.com").await;
        assert_eq!(accepted.is_ok(), matches!(purpose, Purpose::Proxies | Purpose::Controllers), "{purpose}");
    }
}

#[tokio::test]
async fn a_client_believes_servers_of_the_purpose_it_asked_for_and_by_name() {
    let at = Installation::new().await;
    for (presented, asked, name, passes) in [
        (Purpose::Servers, Purpose::Servers, "c1.kube.example.com", true),
        (Purpose::Servers, Purpose::Servers, "a.b.kube.example.com", false),
        (Purpose::Servers, Purpose::Servers, "other.example.com", false),
        (Purpose::Servers, Purpose::Proxies, "tunnel.example.com", false),
        (Purpose::Proxies, Purpose::Proxies, "tunnel.example.com", true),
        (Purpose::Proxies, Purpose::Proxies, "p1.tunnel.example.com", true),
        (Purpose::Proxies, Purpose::Proxies, "p2.tunnel.example.com", false),
        (Purpose::Proxies, Purpose::Servers, "tunnel.example.com", false),
        (Purpose::Controllers, Purpose::Controllers, "t1.controllers.example.com", true),
        (Purpose::Users, Purpose::Users, "tunnel.example.com", false),
        (Purpose::Agents, Purpose::Servers, "tunnel.example.com", false),
    ] {
        let source = at.source(presented).await;
        let server = tls::server(provider(), source, ClientAuth::None, at.trust.clone(), ALPN).unwrap();
        let client = tls::client(provider(), at.trust.clone(), None, asked, ALPN).unwrap();
        let (accepted, connected) = handshake(&server, &client, name).await;
        assert_eq!(connected.is_ok(), passes, "{presented} for {asked} as {name}: {connected:?} {accepted:?}");
    }
}

#[tokio::test]
async fn another_installation_is_unknown_to_both_sides() {
    let (at, other) = (Installation::new().await, Installation::new().await);
    let server = server(&at, ClientAuth::Required(Purpose::Agents)).await;
    let stranger = client(&at.trust, Some(other.source(Purpose::Agents).await));
    let (accepted, _) = handshake(&server, &stranger, "enroll.example.com").await;
    assert!(accepted.unwrap_err().to_string().contains("UnknownIssuer"));
    let deceived = client(&other.trust, Some(other.source(Purpose::Agents).await));
    let (_, connected) = handshake(&server, &deceived, "enroll.example.com").await;
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_the_injected_clock() {
    let at = Installation::new().await;
    let server_credential = at.credential(Purpose::Servers).await;
    let client_credential = at.source(Purpose::Agents).await;
    at.clock.advance(SignedDuration::from_hours(73));
    let source = CredentialSource::new(server_credential);
    let auth = ClientAuth::Required(Purpose::Agents);
    let server = tls::server(provider(), source, auth, at.trust.clone(), ALPN).unwrap();
    let agent = client(&at.trust, Some(client_credential.clone()));
    let (accepted, connected) = handshake(&server, &agent, "enroll.example.com").await;
    assert!(accepted.unwrap_err().to_string().contains("Expired"));
    assert!(connected.unwrap_err().to_string().contains("CertificateExpired"));
    // Rotation is read at the next handshake, by the configuration that is there already.
    let mut changes = client_credential.changes();
    client_credential.rotate(at.credential(Purpose::Agents).await);
    changes.changed().await;
    let (accepted, connected) = handshake(&server, &agent, "enroll.example.com").await;
    assert!(accepted.is_ok() && connected.is_ok());
}

#[tokio::test]
async fn a_clock_behind_by_less_than_five_minutes_is_forgiven() {
    let at = Installation::new().await;
    let chain = at.credential(Purpose::Agents).await;
    for (minutes, result) in [(-4, Ok(())), (-6, Err(PeerError::NotYetValid))] {
        at.clock.advance(SignedDuration::from_mins(minutes));
        assert_eq!(at.trust.verify(Purpose::Agents, chain.chain()).map(drop), result);
        at.clock.advance(SignedDuration::from_mins(-minutes));
    }
}

#[tokio::test]
async fn revocation_reaches_new_handshakes_and_live_peers() {
    let at = Installation::new().await;
    let credential = at.credential(Purpose::Agents).await;
    let server = server(&at, ClientAuth::Required(Purpose::Agents)).await;
    let agent = client(&at.trust, Some(CredentialSource::new(credential.clone())));
    assert!(handshake(&server, &agent, "enroll.example.com").await.0.is_ok());
    let peer = at.trust.verify(Purpose::Agents, credential.chain()).unwrap();
    let mut changes = at.trust.changes();

    // Another organisation's document says nothing about this one's agents.
    let revoked = Revocations { instances: [id("i1")].into(), ..Revocations::default() };
    at.trust.set_revocations(Some(id("evil")), revoked.clone());
    changes.changed().await;
    assert!(!at.trust.is_revoked(&peer));

    at.trust.set_revocations(Some(id("acme")), revoked);
    changes.changed().await;
    assert!(at.trust.is_revoked(&peer));
    assert_eq!(at.trust.verify(Purpose::Agents, credential.chain()).err(), Some(PeerError::Revoked));
    let (accepted, connected) = handshake(&server, &agent, "enroll.example.com").await;
    assert!(accepted.unwrap_err().to_string().contains("Revoked"));
    assert!(connected.unwrap_err().to_string().contains("CertificateRevoked"));

    at.trust.set_revocations(Some(id("acme")), Revocations::default());
    assert!(handshake(&server, &agent, "enroll.example.com").await.0.is_ok());
    let revoked = Revocations { serials: [peer.serial.clone()].into(), ..Revocations::default() };
    at.trust.set_revocations(None, revoked);
    assert!(at.trust.is_revoked(&peer));
}

#[tokio::test]
async fn anchors_are_replaced_for_configurations_that_are_there_already() {
    let (at, next) = (Installation::new().await, Installation::new().await);
    let server = server(&at, ClientAuth::Required(Purpose::Agents)).await;
    let mut user = client(&at.trust, Some(at.source(Purpose::Agents).await));
    assert!(handshake(&server, &user, "enroll.example.com").await.0.is_ok());
    // Both side by side, as while an authority is rotated; then the new one alone.
    let mut both = at.hierarchy.trust_bundle();
    for (purpose, anchors) in next.hierarchy.trust_bundle().anchors {
        both.anchors.entry(purpose).or_default().extend(anchors);
    }
    at.trust.set_bundle(both).unwrap();
    assert!(handshake(&server, &user, "enroll.example.com").await.0.is_ok());
    user = client(&at.trust, Some(next.source(Purpose::Agents).await));
    assert!(handshake(&server, &user, "enroll.example.com").await.0.is_ok());
    at.trust.set_bundle(next.hierarchy.trust_bundle()).unwrap();
    // The server's own certificate is of the old authority, which no client believes any more.
    assert!(handshake(&server, &user, "enroll.example.com").await.1.is_err());
    // A bundle that is broken changes nothing.
    let mut broken = serde_json::to_value(at.hierarchy.trust_bundle()).unwrap();
    broken["anchors"]["agents"][0]["certificate"] = "AAAA".into();
    assert!(at.trust.set_bundle(serde_json::from_value(broken).unwrap()).is_err());
    assert_eq!(*at.trust.bundle(), next.hierarchy.trust_bundle());
}

#[tokio::test]
async fn a_revoked_user_gets_through_the_handshake_to_be_told_so() {
    let at = Installation::new().await;
    let credential = at.credential(Purpose::Users).await;
    let revoked = Revocations { users: [id("u1")].into(), ..Revocations::default() };
    at.trust.set_revocations(Some(id("acme")), revoked);
    let server = server(&at, ClientAuth::Requested(Purpose::Users)).await;
    let user = client(&at.trust, Some(CredentialSource::new(credential.clone())));
    assert!(handshake(&server, &user, "enroll.example.com").await.0.is_ok());
    let peer = at.trust.identify(Purpose::Users, credential.chain()).unwrap();
    assert!(at.trust.is_revoked(&peer));
    assert_eq!(at.trust.verify(Purpose::Users, credential.chain()).err(), Some(PeerError::Revoked));
}

#[tokio::test]
async fn a_proxy_that_is_revoked_is_no_server_either() {
    let at = Installation::new().await;
    let source = at.source(Purpose::Proxies).await;
    let server = tls::server(provider(), source, ClientAuth::None, at.trust.clone(), ALPN).unwrap();
    let agent = tls::client(provider(), at.trust.clone(), None, Purpose::Proxies, ALPN).unwrap();
    assert!(handshake(&server, &agent, "tunnel.example.com").await.1.is_ok());
    at.trust.set_revocations(None, Revocations { proxies: [id("p1")].into(), ..Revocations::default() });
    let (_, connected) = handshake(&server, &agent, "tunnel.example.com").await;
    assert!(connected.unwrap_err().to_string().contains("Revoked"));
}

#[tokio::test]
async fn an_organisations_intermediate_names_nobody_of_another() {
    let at = Installation::new().await;
    let chain = at.credential(Purpose::Users).await.chain().to_vec();
    let peer = at.trust.verify(Purpose::Users, &chain).unwrap();
    assert!(matches!(&peer.id.subject, Subject::User { org, .. } if org.as_str() == "acme"));
    // Without its organisation's intermediate nothing leads to the anchor.
    assert_eq!(at.trust.verify(Purpose::Users, &chain[..1]).err(), Some(PeerError::Untrusted));
    // With that of another organisation neither.
    let other = at.issue(Purpose::Users, "evil", &support::key()).await;
    let mixed = [chain[0].clone(), other.chain()[1].clone()];
    assert_eq!(at.trust.verify(Purpose::Users, &mixed).err(), Some(PeerError::Untrusted));
}

#[tokio::test]
async fn first_contact_believes_the_pinned_root_and_the_name_only() {
    let (at, other) = (Installation::new().await, Installation::new().await);
    let pin = CaPin::of(&at.hierarchy.root()).unwrap();
    let clock: Arc<dyn ztka_core::Clock> = Arc::new(at.clock.clone());
    let pinned = tls::pinned(provider(), pin, clock.clone(), ALPN).unwrap();
    let ours = server(&at, ClientAuth::None).await;
    assert!(handshake(&ours, &pinned, "enroll.example.com").await.1.is_ok());
    assert!(handshake(&ours, &pinned, "agents.example.com").await.1.is_err());
    assert!(handshake(&server(&other, ClientAuth::None).await, &pinned, "enroll.example.com").await.1.is_err());

    // A man in the middle who has our public root, but no chain up to it.
    let key = support::key();
    let mut chain = other.issue(Purpose::Servers, "acme", &key).await.chain().to_vec();
    chain.pop();
    chain.push(at.hierarchy.root());
    assert_eq!(Credential::new(chain.clone(), &key).err(), Some(CredentialError::Order));
    let secret = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
    let liar = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut liar = liar.unwrap().with_no_client_auth().with_single_cert(chain, secret).unwrap();
    liar.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    let liar = Arc::new(liar);
    assert!(handshake(&liar, &pinned, "enroll.example.com").await.1.is_err());

    // An agent cannot pose as a server, although its chain has the same root.
    let key = support::key();
    let mut chain = at.issue(Purpose::Agents, "acme", &key).await.chain().to_vec();
    chain.push(at.hierarchy.trust_bundle().anchors[&Purpose::Agents][0].certificate.certificate().into_owned());
    chain.push(at.hierarchy.root());
    let source = CredentialSource::new(Credential::new(chain, &key).unwrap());
    let agent = tls::server(provider(), source, ClientAuth::None, at.trust.clone(), ALPN).unwrap();
    assert!(handshake(&agent, &pinned, "enroll.example.com").await.1.is_err());
}

#[tokio::test]
async fn tls_1_2_is_for_users_alone_and_only_by_the_other_configuration() {
    let at = Installation::new().await;
    let old = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS12]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(at.hierarchy.root()).unwrap();
    // The verifier that Go and others have: anchored at the root.
    let old = Arc::new(old.unwrap().with_root_certificates(roots.clone()).with_no_client_auth());
    let strict = server(&at, ClientAuth::Requested(Purpose::Users)).await;
    let time = |config: &Arc<ClientConfig>| {
        let mut config = ClientConfig::clone(config);
        config.time_provider = Arc::new(Fixed);
        Arc::new(config)
    };
    let old = time(&old);
    assert!(handshake(&strict, &old, "c1.kube.example.com").await.1.is_err());
    let source = at.source(Purpose::Servers).await;
    let auth = ClientAuth::Requested(Purpose::Users);
    let lenient = tls::server_for_users(provider(), source, auth, at.trust.clone(), ALPN).unwrap();
    // Twice, by a client that would resume: each handshake is whole.
    for _ in 0..2 {
        let (accepted, connected) = handshake(&lenient, &old, "c1.kube.example.com").await;
        connected.unwrap();
        let accepted = accepted.unwrap();
        assert_eq!((accepted.version, accepted.kind), (ProtocolVersion::TLSv1_2, HandshakeKind::Full));
    }
    let new = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]);
    let new = time(&Arc::new(new.unwrap().with_root_certificates(roots).with_no_client_auth()));
    for _ in 0..2 {
        let (accepted, connected) = handshake(&strict, &new, "c1.kube.example.com").await;
        connected.unwrap();
        let accepted = accepted.unwrap();
        assert_eq!((accepted.version, accepted.kind), (ProtocolVersion::TLSv1_3, HandshakeKind::Full));
    }
}

#[derive(Debug)]
struct Fixed;

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let seconds = support::now().as_second().unsigned_abs();
        Some(rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}
