//! CRLs, judged by the openssl command, by webpki and by Go's crypto/x509.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
#[path = "support/go.rs"]
mod go;
mod support;

use std::{path::Path, process::Command, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::SignedDuration;
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use support::{Installation, id, key, now, provider};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, ExpirationPolicy, RevocationCheckDepth, RevocationOptionsBuilder,
};
use x509_cert::der::pem::{LineEnding, encode_string};
use ztka_core::{BoxError, Clock, KeyId, ManualClock};
use ztka_pki::{
    CrlContents, CrlReason, Hierarchy, IssuanceRecord, IssueError, Issued, IssuedRecord, Issuer, KeyKind,
    KeyStore as _, Lifetimes, MemoryKeyStore, Names, Purpose, RevokedCertificate, SoftwareKey, ValidCsr,
};

fn contents(number: u64, serials: &[&str]) -> CrlContents {
    let entry = |serial: &&str| RevokedCertificate {
        serial: (*serial).to_owned(),
        since: now() - SignedDuration::from_hours(1),
        reason: CrlReason::CessationOfOperation,
    };
    CrlContents {
        number,
        this_update: now(),
        next_update: now() + SignedDuration::from_hours(24),
        revoked: serials.iter().map(entry).collect(),
    }
}

/// The authority that has issued this chain.
fn issuer(hierarchy: &Hierarchy, purpose: Purpose, org: Option<&str>) -> Issuer {
    let of_org = |issuer: &Issuer| issuer.org.as_ref().map(|org| org.as_str()) == org;
    let common = hierarchy.trust_bundle().anchors[&purpose][0].certificate.certificate().into_owned();
    let common = KeyId(hash_of_spki(&common));
    hierarchy
        .issuers()
        .into_iter()
        .find(|issuer| {
            of_org(issuer) && (if org.is_some() { issuer.above.as_ref() } else { Some(&issuer.key) }) == Some(&common)
        })
        .unwrap()
}

fn hash_of_spki(certificate: &rustls_pki_types::CertificateDer<'_>) -> String {
    let spki = webpki::EndEntityCert::try_from(certificate).unwrap().subject_public_key_info();
    ztka_pki::PublicKey::from_spki(&spki).unwrap().id().0.clone()
}

fn has(command: &str) -> bool {
    let here = Command::new(command).arg("version").output().is_ok_and(|output| output.status.success());
    assert!(here || std::env::var("CI").as_deref() != Ok("true"), "{command} is missing");
    if !here {
        eprintln!("SKIPPED: there is no {command} command here, so it has not looked at our CRLs");
    }
    here
}

fn has_openssl() -> bool {
    has("openssl")
}

/// A chain and a list for Go, which anchors at the purpose as we do.
fn question(hierarchy: &Hierarchy, purpose: Purpose, issued: &Issued, crl: &[u8]) -> Value {
    let anchor = hierarchy.trust_bundle().anchors[&purpose][0].certificate.certificate().into_owned();
    let base64 = |der: &[u8]| BASE64_STANDARD.encode(der);
    let above: Vec<_> = issued.chain()[1..].iter().map(|der| base64(der)).collect();
    let (leaf, at) = (base64(&issued.chain()[0]), now().as_second());
    json!({"anchor": base64(&anchor), "above": above, "leaf": leaf, "server": "", "at": at, "crl": base64(crl)})
}

#[tokio::test]
async fn go_reads_the_lists_as_they_are_meant() {
    if !has("go") {
        return;
    }
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for kind in KeyKind::ALL {
        let hierarchy = hierarchy_of(kind).await;
        let (good, bad) = (user_of(&hierarchy, "k1").await, user_of(&hierarchy, "k2").await);
        let issuer = issuer(&hierarchy, Purpose::Users, Some("acme"));
        let crl = hierarchy.sign_crl(&issuer.key, &contents(300, &[bad.serial()])).await.unwrap().unwrap();
        let empty = hierarchy.sign_crl(&issuer.key, &contents(301, &[])).await.unwrap().unwrap();
        let late = CrlContents { this_update: now() - SignedDuration::from_hours(48), ..contents(302, &[]) };
        let late = CrlContents { next_update: now() - SignedDuration::from_secs(1), ..late };
        let late = hierarchy.sign_crl(&issuer.key, &late).await.unwrap().unwrap();
        let proxy = ztka_pki_of_proxies(&hierarchy).await;
        let users = Purpose::Users;
        questions.push(question(&hierarchy, users, &good, &crl));
        questions.push(question(&hierarchy, users, &bad, &crl));
        questions.push(question(&hierarchy, users, &bad, &empty));
        questions.push(question(&hierarchy, users, &good, &late));
        questions.push(question(&hierarchy, Purpose::Proxies, &proxy, &crl));
        let serial = bad.serial().trim_start_matches('0').to_owned();
        expected.extend(
            [(true, ""), (false, "revoked"), (true, ""), (false, "time"), (false, "")]
                .map(|(yes, why)| (kind, serial.clone(), yes, why)),
        );
    }
    let told = go::asked(questions.into_iter());
    assert_eq!(told.len(), expected.len());
    for (answer, (kind, serial, accepted, why)) in told.iter().zip(&expected) {
        assert_eq!(answer["accepted"], *accepted, "{kind}: {answer}");
        assert!(answer["why"].as_str().unwrap().contains(why), "{kind}: {answer}");
        let list = &answer["list"];
        assert!(!list["key_id"].as_str().unwrap().is_empty(), "{kind}: {list}");
        if list["number"] != "300" {
            continue;
        }
        assert_eq!((&list["from"], &list["until"]), (&json!(now().as_second()), &json!(now().as_second() + 86_400)));
        let since = now().as_second() - 3_600;
        assert_eq!(list["entries"], json!([{"serial": serial, "since": since, "reason": 5}]), "{kind}");
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn write_chain(folder: &Path, hierarchy: &Hierarchy, purpose: Purpose, issued: &Issued) {
    let pem = |der: &[u8]| encode_string("CERTIFICATE", LineEnding::LF, der).unwrap();
    let above = &hierarchy.state().purposes[&purpose].certificate;
    std::fs::write(folder.join("leaf"), pem(&issued.chain()[0])).unwrap();
    std::fs::write(folder.join("issuer"), pem(&issued.chain()[1])).unwrap();
    std::fs::write(folder.join("above"), format!("{}{above}", pem(&issued.chain()[1]))).unwrap();
    std::fs::write(folder.join("root"), hierarchy.root_pem()).unwrap();
}

/// What webpki makes of a chain with this list.
fn webpki_accepts(hierarchy: &Hierarchy, purpose: Purpose, issued: &Issued, crl: &[u8]) -> Result<(), webpki::Error> {
    let anchor = hierarchy.trust_bundle().anchors[&purpose][0].certificate.certificate().into_owned();
    let anchor = webpki::anchor_from_trusted_cert(&anchor).unwrap();
    let list: CertRevocationList<'_> = BorrowedCertRevocationList::from_der(crl).unwrap().into();
    let lists = [&list];
    let revocation = RevocationOptionsBuilder::new(&lists)
        .unwrap()
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().as_second().unsigned_abs()));
    let leaf = webpki::EndEntityCert::try_from(&issued.chain()[0]).unwrap();
    let algorithms = provider().signature_verification_algorithms.all;
    let usage = webpki::KeyUsage::client_auth();
    leaf.verify_for_usage(algorithms, &[anchor], &issued.chain()[1..], at, usage, Some(revocation), None).map(drop)
}

async fn hierarchy_of(kind: KeyKind) -> Hierarchy {
    let keys = Arc::new(MemoryKeyStore::new(provider()));
    for name in ["root", "users", "users.acme", "agents", "agents.acme", "proxies", "servers", "controllers", "signing"]
    {
        keys.create(&name.parse().unwrap(), kind).await.unwrap();
    }
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap();
    hierarchy.create_org(&id("acme")).await.unwrap();
    hierarchy
}

async fn user_of(hierarchy: &Hierarchy, credential: &str) -> Issued {
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let life = SignedDuration::from_hours(24 * 30);
    hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &id(credential), life).await.unwrap()
}

#[tokio::test]
async fn openssl_and_webpki_go_by_the_lists_of_every_kind_of_key() {
    let with_openssl = has_openssl();
    for kind in KeyKind::ALL {
        let hierarchy = hierarchy_of(kind).await;
        let (good, bad) = (user_of(&hierarchy, "k1").await, user_of(&hierarchy, "k2").await);
        let issuer = issuer(&hierarchy, Purpose::Users, Some("acme"));
        let crl = hierarchy.sign_crl(&issuer.key, &contents(300, &[bad.serial()])).await.unwrap().unwrap();
        assert_eq!(webpki_accepts(&hierarchy, Purpose::Users, &good, &crl), Ok(()), "{kind}");
        let refused = webpki_accepts(&hierarchy, Purpose::Users, &bad, &crl);
        assert_eq!(refused, Err(webpki::Error::CertRevoked), "{kind}");
        // Of another authority it is no proof of anything.
        let other = ztka_pki_of_proxies(&hierarchy).await;
        assert!(webpki_accepts(&hierarchy, Purpose::Proxies, &other, &crl).is_err(), "{kind}");
        if !with_openssl {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("crl.der"), &crl).unwrap();
        for (issued, passes) in [(&good, true), (&bad, false)] {
            write_chain(folder, &hierarchy, Purpose::Users, issued);
            let read = ["crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "issuer", "-text", "-out", "crl.pem"];
            let (_, text) = openssl(folder, &read);
            assert!(text.contains("verify OK"), "{kind}: {text}");
            let at = now().as_second().to_string();
            let verify = ["verify", "-x509_strict", "-attime", &at, "-CAfile", "root", "-untrusted", "above"];
            let check = ["-purpose", "sslclient", "-crl_check", "-CRLfile", "crl.pem", "leaf"];
            let (passed, text) = openssl(folder, &[&verify[..], &check[..]].concat());
            assert_eq!(passed, passes, "{kind}: {text}");
            assert!(passes || text.contains("certificate revoked"), "{kind}: {text}");
        }
        let text = std::fs::read_to_string(folder.join("crl.pem")).unwrap();
        for part in [
            "Version 2 (0x1)",
            "X509v3 Authority Key Identifier",
            "X509v3 CRL Number: \n                300",
            "Last Update: Jan  1 00:00:00 2030 GMT",
            "Next Update: Jan  2 00:00:00 2030 GMT",
            "Revocation Date: Dec 31 23:00:00 2029 GMT",
            "Cessation Of Operation",
        ] {
            assert!(text.contains(part), "{kind}: {part:?} is not in\n{text}");
        }
        let (_, key_id) = openssl(folder, &["x509", "-in", "issuer", "-noout", "-ext", "subjectKeyIdentifier"]);
        let key_id = key_id.lines().nth(1).unwrap().trim();
        assert!(text.contains(key_id), "{kind}: the authority's key {key_id} is not in\n{text}");
    }
}

async fn ztka_pki_of_proxies(hierarchy: &Hierarchy) -> Issued {
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    hierarchy.issue_proxy(&csr, &id("p1")).await.unwrap()
}

#[tokio::test]
async fn an_empty_list_is_valid_and_an_organisations_authority_is_revoked_by_the_one_above() {
    let at = Installation::new().await;
    let issued = at.issue(Purpose::Agents, "acme", &key()).await;
    let own = issuer(&at.hierarchy, Purpose::Agents, Some("acme"));
    let common = issuer(&at.hierarchy, Purpose::Agents, None);
    assert_eq!(own.above.as_ref(), Some(&common.key));
    let leaves = at.hierarchy.sign_crl(&own.key, &contents(1, &[])).await.unwrap().unwrap();
    assert_eq!(webpki_accepts(&at.hierarchy, Purpose::Agents, &issued, &leaves), Ok(()));
    let above = at.hierarchy.sign_crl(&common.key, &contents(1, &[&own.serial])).await.unwrap().unwrap();
    if !has_openssl() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_chain(folder, &at.hierarchy, Purpose::Agents, &issued);
    let time = now().as_second().to_string();
    let empty = at.hierarchy.sign_crl(&common.key, &contents(2, &[])).await.unwrap().unwrap();
    for (list, certificate, passes) in [(&leaves, "leaf", true), (&above, "issuer", false), (&empty, "issuer", true)] {
        std::fs::write(folder.join("crl"), encode_string("X509 CRL", LineEnding::LF, list).unwrap()).unwrap();
        let verify = ["verify", "-attime", &time, "-CAfile", "root", "-untrusted", "above"];
        let (passed, text) = openssl(folder, &[&verify[..], &["-crl_check", "-CRLfile", "crl", certificate]].concat());
        assert_eq!(passed, passes, "{certificate}: {text}");
        assert!(passes || text.contains("certificate revoked"), "{text}");
    }
}

#[tokio::test]
async fn what_makes_no_list_is_refused() {
    let at = Installation::new().await;
    let key = issuer(&at.hierarchy, Purpose::Users, Some("acme")).key;
    for serial in ["", "xy", "-1", "é"] {
        let made = at.hierarchy.sign_crl(&key, &contents(1, &[serial])).await;
        assert!(matches!(made, Err(IssueError::State(_))), "{serial:?}: {made:?}");
    }
    let late = CrlContents { next_update: now(), ..contents(1, &[]) };
    assert!(matches!(at.hierarchy.sign_crl(&key, &late).await, Err(IssueError::State(_))));
    assert!(at.hierarchy.sign_crl(&KeyId("00".into()), &contents(1, &[])).await.unwrap().is_none(), "another's");
}

#[derive(Debug, Default)]
struct Recorded(std::sync::Mutex<Vec<IssuedRecord>>, std::sync::atomic::AtomicBool);

#[async_trait]
impl IssuanceRecord for Recorded {
    async fn issued(&self, record: &IssuedRecord) -> Result<(), BoxError> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err("the disk is full".into());
        }
        self.0.lock().unwrap().push(record.clone());
        Ok(())
    }
}

#[tokio::test]
async fn what_is_issued_is_on_record_and_what_cannot_be_recorded_is_not_issued() {
    let (clock, record) = (ManualClock::at(now()), Arc::new(Recorded::default()));
    let (keys, clock): (_, Arc<dyn Clock>) = (Arc::new(MemoryKeyStore::new(provider())), Arc::new(clock));
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap();
    let hierarchy = hierarchy.with_record(record.clone());
    hierarchy.create_org(&id("acme")).await.unwrap();
    let key = SoftwareKey::generate(&provider()).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let agent = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
    let server = hierarchy.issue_server(csr.key(), &["api.example.com"]).await.unwrap();
    let kept = record.0.lock().unwrap().clone();
    let [of_agent, of_server] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&of_agent.serial, &of_server.serial), (&agent.serial().to_owned(), &server.serial().to_owned()));
    assert_eq!((of_agent.issued, of_agent.not_after), (now(), agent.not_after()));
    assert_eq!(of_agent.subject.as_ref().unwrap().to_string(), "org/acme/cluster/c1/agent/i1");
    assert_eq!(of_server.subject, None);
    assert_eq!(of_agent.issuer, issuer(&hierarchy, Purpose::Agents, Some("acme")).key);
    assert_eq!(of_server.issuer, issuer(&hierarchy, Purpose::Servers, None).key);
    record.1.store(true, std::sync::atomic::Ordering::Relaxed);
    let refused = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i2")).await;
    assert!(matches!(refused, Err(IssueError::Failed(_))), "{refused:?}");
    assert!(hierarchy.issue_server(csr.key(), &["api.example.com"]).await.is_err());
}
