//! What our listeners offer and ask for, as a client sees it; `openssl s_client` among them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use rustls::{
    CipherSuite, ClientConfig, NamedGroup, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    sign::CertifiedKey,
};
use support::{Installation, handshake, now, provider};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;
use x509_cert::{Certificate, der::Decode as _, der::Encode as _};
use ztka_pki::{ClientAuth, Purpose, TrustSource, tls};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A client without a certificate that remembers what it was asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Option<Vec<Vec<u8>>>>);

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap() = Some(hints.iter().map(|hint| hint.to_vec()).collect());
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The names in the CertificateRequest of a listener; none if it sends none.
async fn hints(server: &Arc<ServerConfig>, trust: &TrustSource) -> Option<Vec<Vec<u8>>> {
    let asked = Arc::new(Asked::default());
    let plain = tls::client(provider(), trust.clone(), None, Purpose::Servers, ALPN).unwrap();
    let mut client = ClientConfig::clone(&plain);
    client.client_auth_cert_resolver = asked.clone();
    let _ = handshake(server, &Arc::new(client), "enroll.example.com").await;
    asked.0.lock().unwrap().take()
}

/// The subjects of the authorities of a purpose.
fn subjects(at: &Installation, purpose: Purpose) -> Vec<Vec<u8>> {
    let anchors = &at.hierarchy.trust_bundle().anchors[&purpose];
    let read = |der: &[u8]| Certificate::from_der(der).unwrap().tbs_certificate().subject().to_der().unwrap();
    anchors.iter().map(|anchor| read(&anchor.certificate.certificate())).collect()
}

#[tokio::test]
async fn a_certificate_request_names_the_authorities_that_are_trusted_there_and_no_others() {
    let at = Installation::new().await;
    let server = async |auth: ClientAuth| {
        tls::server(provider(), at.source(Purpose::Servers).await, auth, at.trust.clone(), ALPN).unwrap()
    };
    for purpose in [Purpose::Agents, Purpose::Users, Purpose::Proxies, Purpose::Controllers] {
        for auth in [ClientAuth::Requested(purpose), ClientAuth::Required(purpose)] {
            let seen = hints(&server(auth.clone()).await, &at.trust).await;
            assert_eq!(seen, Some(subjects(&at, purpose)), "{auth:?}");
        }
    }
    let both = ClientAuth::RequiredAny(vec![Purpose::Proxies, Purpose::Controllers]);
    let expected = [subjects(&at, Purpose::Proxies), subjects(&at, Purpose::Controllers)].concat();
    assert_eq!(hints(&server(both).await, &at.trust).await, Some(expected));
    assert_eq!(hints(&server(ClientAuth::None).await, &at.trust).await, None, "nothing is asked for");

    // A listener that is there already names what is trusted now, as while an authority is rotated.
    let users = server(ClientAuth::Requested(Purpose::Users)).await;
    let old = hints(&users, &at.trust).await.unwrap();
    let next = Installation::new().await;
    let mut rotating = at.hierarchy.trust_bundle();
    rotating
        .anchors
        .entry(Purpose::Users)
        .or_default()
        .extend(next.hierarchy.trust_bundle().anchors[&Purpose::Users].clone());
    at.trust.set_bundle(rotating).unwrap();
    let expected = [old, subjects(&next, Purpose::Users)].concat();
    assert_eq!(hints(&users, &at.trust).await, Some(expected.clone()));
    at.trust.set_revocations(None, ztka_pki::Revocations::default());
    assert_eq!(hints(&users, &at.trust).await, Some(expected), "the same again");
}

#[tokio::test]
async fn the_provider_that_is_passed_in_says_which_groups_and_suites_there_are() {
    let at = Installation::new().await;
    let narrow = Arc::new(CryptoProvider {
        kx_groups: vec![ring::kx_group::SECP384R1],
        cipher_suites: vec![ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256],
        ..ring::default_provider()
    });
    let client = tls::client(provider(), at.trust.clone(), None, Purpose::Servers, ALPN).unwrap();
    for (provider, group, suite) in [
        (provider(), NamedGroup::X25519, CipherSuite::TLS13_AES_256_GCM_SHA384),
        (narrow, NamedGroup::secp384r1, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ] {
        let source = at.source(Purpose::Servers).await;
        let server = tls::server(provider, source, ClientAuth::None, at.trust.clone(), ALPN).unwrap();
        let (accepted, _) = handshake(&server, &client, "enroll.example.com").await;
        let accepted = accepted.unwrap();
        assert_eq!((accepted.group, accepted.suite), (Some(group), Some(suite)));
    }
}

#[tokio::test]
async fn nothing_is_offered_that_a_later_connection_could_begin_with() {
    let at = Installation::new().await;
    for make in [tls::server, tls::server_for_users] {
        let source = at.source(Purpose::Servers).await;
        let server = make(provider(), source, ClientAuth::Requested(Purpose::Users), at.trust.clone(), ALPN).unwrap();
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
    }
    let client = tls::client(provider(), at.trust.clone(), None, Purpose::Servers, ALPN).unwrap();
    assert!(!client.enable_early_data);
}

fn has_openssl() -> bool {
    let here = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    assert!(here || std::env::var("CI").as_deref() != Ok("true"), "openssl is missing");
    if !here {
        eprintln!("SKIPPED: there is no openssl command here, so nobody else has looked at our listeners");
    }
    here
}

/// What `openssl s_client` says of a listener with this configuration.
async fn s_client(server: Arc<ServerConfig>, folder: &std::path::Path, words: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(server);
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tls.read_to_end(&mut Vec::new()).await;
                }
            });
        }
    });
    let at = now().as_second().to_string();
    let fixed = ["s_client", "-connect", &address, "-CAfile", "root", "-attime", &at, "-verify_hostname"];
    let fixed = fixed.iter().copied().chain(["enroll.example.com", "-verify_return_error"]);
    let mut command = tokio::process::Command::new("openssl");
    command.args(fixed).args(words.split(' ')).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    serving.abort();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_finds_tls_1_3_the_users_authority_and_no_ticket() {
    if !has_openssl() {
        return;
    }
    let (at, folder) = (Installation::new().await, tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("root"), at.hierarchy.root_pem()).unwrap();
    std::fs::write(folder.path().join("early"), "GET / HTTP/1.1\r\n\r\n").unwrap();
    let auth = ClientAuth::Requested(Purpose::Users);
    let (source, trust) = (at.source(Purpose::Servers).await, at.trust.clone());
    let strict = tls::server(provider(), source.clone(), auth.clone(), trust.clone(), ALPN).unwrap();
    let lenient = tls::server_for_users(provider(), source, auth, trust, ALPN).unwrap();
    let ask = async |server: &Arc<ServerConfig>, words: &str| s_client(server.clone(), folder.path(), words).await;

    let text = ask(&strict, "-tls1_3 -sess_out session").await;
    assert!(text.contains("New, TLSv1.3, Cipher is TLS_") && text.contains("Verify return code: 0 (ok)"), "{text}");
    let names = text.split("Acceptable client certificate CA names\n").nth(1).unwrap();
    let names: Vec<_> = names.lines().take_while(|line| line.contains("CN")).collect();
    assert!(names.len() == 1 && names[0].contains("users "), "{names:?}\n{text}");
    assert!(!text.contains("New Session Ticket"), "{text}");
    assert!(!folder.path().join("session").exists(), "there is something to resume");
    for old in ["-tls1_2", "-tls1_1", "-tls1"] {
        let text = ask(&strict, old).await;
        assert!(!text.contains("Verify return code: 0 (ok)") || text.contains("Cipher is (NONE)"), "{old}: {text}");
    }

    // The users' port where TLS 1.2 is let in: AEAD and forward secrecy only, and nothing resumed.
    for (suite, passes) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", true),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", true),
        ("ECDHE-ECDSA-AES128-SHA", false),
        ("ECDHE-ECDSA-AES128-SHA256", false),
        ("ECDHE-ECDSA-AES256-SHA384", false),
        ("AES128-GCM-SHA256", false),
        ("AES128-SHA", false),
    ] {
        let text = ask(&lenient, &format!("-tls1_2 -cipher {suite}@SECLEVEL=0")).await;
        assert_eq!(text.contains(&format!("Cipher is {suite}")), passes, "{suite}: {text}");
    }
    let text = ask(&lenient, "-tls1_2 -reconnect").await;
    assert!(text.matches("New, TLSv1.2").count() > 1 && !text.contains("Reused, "), "{text}");
    assert!(!text.contains("TLS session ticket:"), "{text}");
    assert!(ask(&lenient, "-tls1_3").await.contains("New, TLSv1.3"));
    for old in ["-tls1_1", "-tls1"] {
        assert!(ask(&lenient, old).await.contains("Cipher is (NONE)"), "{old}");
    }
}
