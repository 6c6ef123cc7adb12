//! A second opinion on every chain, by the openssl command.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{path::PathBuf, process::Command, sync::Arc};

use support::{Installation, id, key, now, provider};
use ztka_core::{Clock, ManualClock, SignatureCheck as _};
use ztka_pki::{
    Hierarchy, KeyKind, KeyStore as _, Lifetimes, MemoryKeyStore, Names, Purpose, SoftwareKey, TrustSource, ValidCsr,
};

struct OpenSsl {
    directory: tempfile::TempDir,
}

impl OpenSsl {
    fn new() -> Option<Self> {
        match Command::new("openssl").arg("version").output() {
            Ok(output) if output.status.success() => Some(Self { directory: tempfile::tempdir().unwrap() }),
            _ => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "openssl is missing");
                eprintln!("SKIPPED: there is no openssl command here, so nobody else has looked at our certificates");
                None
            }
        }
    }

    fn file(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl").args(arguments).current_dir(self.directory.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Verifies strictly, from the root.
    fn verify(&self, purpose: &str, more: &[&str]) -> (bool, String) {
        let at = now().as_second().to_string();
        let fixed =
            ["verify", "-x509_strict", "-attime", &at, "-CAfile", "root", "-untrusted", "above", "-purpose", purpose];
        self.run(&[&fixed[..], more, &["leaf"]].concat())
    }
}

#[tokio::test]
async fn each_purpose_is_valid_for_what_it_is_and_not_for_what_it_is_not() {
    let Some(openssl) = OpenSsl::new() else { return };
    let at = Installation::new().await;
    openssl.file("root", &at.hierarchy.root_pem());
    let table = [
        (Purpose::Servers, false, true),
        (Purpose::Agents, true, false),
        (Purpose::Users, true, false),
        (Purpose::Proxies, true, true),
        (Purpose::Controllers, true, true),
    ];
    for (purpose, client, server) in table {
        let issued = at.issue(purpose, "acme", &key()).await;
        let pem = issued.pem();
        let leaf = &pem[..pem.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len()];
        openssl.file("leaf", leaf);
        let intermediate = at.hierarchy.state().purposes[&purpose].certificate.clone();
        openssl.file("above", &format!("{}{intermediate}", &pem[leaf.len()..]));
        for (usage, expected) in [("sslclient", client), ("sslserver", server)] {
            let (passed, text) = openssl.verify(usage, &[]);
            assert_eq!(passed, expected, "{purpose} as {usage}: {text}");
        }
        let (_, text) = openssl.run(&["x509", "-in", "leaf", "-noout", "-text"]);
        assert!(text.contains("CA:FALSE") && text.contains("Digital Signature"), "{text}");
        assert!(text.contains("Public-Key: (256 bit)") && text.contains("ecdsa-with-SHA256"), "{text}");
        assert!(!text.contains("CA:TRUE") && !text.contains("Certificate Sign"), "{text}");
        assert_eq!(text.contains("URI:spiffe://example.com/"), purpose != Purpose::Servers, "{text}");
    }
}

#[tokio::test]
async fn server_names_and_their_constraint() {
    let Some(openssl) = OpenSsl::new() else { return };
    let at = Installation::new().await;
    openssl.file("root", &at.hierarchy.root_pem());
    let pem = at.issue(Purpose::Servers, "", &key()).await.pem();
    let leaf = &pem[..pem.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len()];
    openssl.file("leaf", leaf);
    openssl.file("above", &pem[leaf.len()..]);
    for (name, expected) in [("c1.kube.example.com", true), ("enroll.example.com", true), ("api.example.com", false)] {
        let (passed, text) = openssl.verify("sslserver", &["-verify_hostname", name]);
        assert_eq!(passed, expected, "{name}: {text}");
    }
    openssl.file("servers", &at.hierarchy.state().purposes[&Purpose::Servers].certificate);
    let (_, text) = openssl.run(&["x509", "-in", "servers", "-noout", "-text"]);
    assert!(text.contains("X509v3 Name Constraints: critical") && text.contains("DNS:example.com"), "{text}");
    assert!(text.contains("CA:TRUE, pathlen:1"), "{text}");
}

#[tokio::test]
async fn requests_keys_and_document_signatures_are_what_others_read_too() {
    let Some(openssl) = OpenSsl::new() else { return };
    let key = key();
    openssl.file("csr", &key.csr_pem().unwrap());
    let (passed, text) = openssl.run(&["req", "-in", "csr", "-noout", "-verify", "-text"]);
    assert!(passed && text.contains("verify OK"), "{text}");
    openssl.file("key", &key.to_pem());
    let (passed, text) = openssl.run(&["pkey", "-in", "key", "-check", "-noout"]);
    assert!(passed, "{text}");

    let at = Installation::new().await;
    let (_, signature) = at.hierarchy.sign(b"message").await.unwrap();
    openssl.file("signing", &at.hierarchy.state().purposes[&Purpose::Signing].certificate);
    std::fs::write(openssl.directory.path().join("signature"), signature).unwrap();
    openssl.file("message", "message");
    let (_, public) = openssl.run(&["x509", "-in", "signing", "-noout", "-pubkey"]);
    openssl.file("public", &public);
    let (passed, text) = openssl.run(&["dgst", "-sha256", "-verify", "public", "-signature", "signature", "message"]);
    assert!(passed, "{text}");
}

#[tokio::test]
async fn authorities_of_every_kind_of_key_are_verified_by_others_too() {
    let Some(openssl) = OpenSsl::new() else { return };
    for kind in KeyKind::ALL {
        let keys = Arc::new(MemoryKeyStore::new(provider()));
        for name in ["root", "agents", "agents.acme", "signing"] {
            keys.create(&name.parse().unwrap(), kind).await.unwrap();
        }
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
        let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await;
        let hierarchy = hierarchy.unwrap();
        hierarchy.create_org(&id("acme")).await.unwrap();
        let csr = ValidCsr::from_der(&SoftwareKey::generate_of(kind, &provider()).unwrap().csr().unwrap()).unwrap();
        let issued = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
        let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock).unwrap();
        trust.verify(Purpose::Agents, issued.chain()).unwrap();
        let pem = issued.pem();
        let leaf = &pem[..pem.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len()];
        openssl.file("root", &hierarchy.root_pem());
        openssl.file("leaf", leaf);
        let intermediate = hierarchy.state().purposes[&Purpose::Agents].certificate.clone();
        openssl.file("above", &format!("{}{intermediate}", &pem[leaf.len()..]));
        let (passed, text) = openssl.verify("sslclient", &[]);
        assert!(passed, "{kind}: {text}");
        let (key, signature) = hierarchy.sign(b"message").await.unwrap();
        assert!(hierarchy.trust_bundle().is_signed(&key, b"message", &signature), "{kind}");
    }
}
