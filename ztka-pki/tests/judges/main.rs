//! Chains with every defect that we can think of, judged by us, by webpki, by openssl and by Go: all agree, or the table
//! says why not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "a test has no API")]
#[path = "../support/go.rs"]
mod go;
mod matrix;

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::SignedDuration;
use matrix::{Above, Case, Keys, Leaf, Use, leaf_life};
use rustls_pki_types::{ServerName, UnixTime};
use x509_cert::der::pem::{LineEnding, encode_string};
use ztka_core::ManualClock;
use ztka_pki::{Anchor, PeerError, PeerVerifier, Purpose, Revocations, TrustBundle, TrustSource};

/// Who is asked beside us.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Judge {
    Webpki,
    OpenSsl,
    Go,
}

const JUDGES: [Judge; 3] = [Judge::Webpki, Judge::OpenSsl, Judge::Go];

/// What others let pass that we refuse, and why that is right. There is nothing that we let pass and others refuse.
const PASSED_BY_OTHERS: [(Defect, &[Judge], &str); 7] = [
    (
        Defect::Leaf(Leaf::NoUse),
        &JUDGES,
        "RFC 5280 has no usages mean all; ours are always said, so that none is no leaf of ours",
    ),
    (Defect::Leaf(Leaf::AnyUse), &[Judge::Go], "Go takes anyExtendedKeyUsage for every use, as RFC 5280 allows"),
    (
        Defect::Leaf(Leaf::Authority),
        &[Judge::OpenSsl, Judge::Go],
        "an authority that shows itself is nobody's identity here",
    ),
    (Defect::Leaf(Leaf::ForeignName), &JUDGES, "of a client only: others know no rule for SPIFFE ids"),
    (Defect::Leaf(Leaf::TwoNames), &JUDGES, "of a client only: one SPIFFE id is one identity (SPIFFE X.509-SVID §2)"),
    (Defect::Above(Above::NoCertSign), &[Judge::Webpki], "webpki does not look at keyUsage"),
    (Defect::Above(Above::AnchorExpired), &[Judge::Webpki], "to webpki, an anchor is a name and a key"),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Defect {
    Leaf(Leaf),
    Above(Above),
}

impl Judge {
    fn lets_pass(self, defect: Defect, shown: Use) -> bool {
        let clients_only = matches!(defect, Defect::Leaf(Leaf::ForeignName | Leaf::TwoNames));
        let listed = PASSED_BY_OTHERS.iter().any(|(passed, by, _)| *passed == defect && by.contains(&self));
        listed && (!clients_only || shown == Use::Client)
    }

    fn expected(self, case: &Case) -> bool {
        let passes = |verdict: Result<(), PeerError>, defect| verdict.is_ok() || self.lets_pass(defect, case.shown);
        passes(case.leaf.verdict(case.shown), Defect::Leaf(case.leaf))
            && passes(case.above.verdict(case.shown), Defect::Above(case.above))
    }
}

fn cases() -> Vec<Case> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rsa2048.csr");
    let keys = Keys::new(&fs::read(data).unwrap());
    let mut cases = Vec::new();
    for shown in [Use::Client, Use::Server] {
        for above in Above::ALL {
            cases.extend(Leaf::ALL.into_iter().map(|leaf| keys.case(shown, leaf, above)));
        }
    }
    cases
}

fn name(case: &Case) -> String {
    format!("{:?}: leaf {:?}, above {:?}, at {}", case.shown, case.leaf, case.above, case.at)
}

fn ours(case: &Case) -> Result<(), PeerError> {
    let (purpose, spiffe_prefix) = match case.shown {
        Use::Client => (Purpose::Users, Some("spiffe://example.com/org/".to_owned())),
        Use::Server => (Purpose::Servers, None),
    };
    let anchor = Anchor { certificate: case.anchor.clone().into(), spiffe_prefix };
    let bundle = TrustBundle {
        trust_domain: "example.com".into(),
        anchors: BTreeMap::from([(purpose, vec![anchor])]),
        ..TrustBundle::default()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PeerVerifier::new(&bundle, purpose, provider).unwrap();
    match case.server {
        Some(server) => verifier.verify_server(&case.chain, &ServerName::try_from(server).unwrap(), case.at).map(drop),
        None => verifier.verify(&case.chain, case.at).map(drop),
    }
}

fn webpki(case: &Case) -> (bool, String) {
    let anchor = webpki::anchor_from_trusted_cert(&case.anchor).unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(case.at.as_second()).unwrap()));
    let judged = webpki::EndEntityCert::try_from(&case.chain[0]).and_then(|leaf| {
        let usage = match case.shown {
            Use::Client => webpki::KeyUsage::client_auth(),
            Use::Server => webpki::KeyUsage::server_auth(),
        };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &[anchor], &case.chain[1..], at, usage, None, None)?;
        let server = case.server.map(|server| ServerName::try_from(server).unwrap());
        server.map_or(Ok(()), |server| leaf.verify_is_valid_for_subject_name(&server))
    });
    (judged.is_ok(), format!("{:?}", judged.err()))
}

/// Everything at once, strictly (`-x509_strict`), with the anchor of the purpose (`-partial_chain`) and none beside it; and
/// with the leaf on the list of its authority, or not, if lists are asked for (`-crl_check`).
fn openssl(case: &Case, directory: &Path, crl: Option<&[u8]>) -> (bool, String) {
    let pem = |certificates: &[rustls_pki_types::CertificateDer<'_>]| -> String {
        certificates.iter().map(|der| encode_string("CERTIFICATE", LineEnding::LF, der).unwrap()).collect()
    };
    fs::write(directory.join("anchor"), pem(std::slice::from_ref(&case.anchor))).unwrap();
    fs::write(directory.join("above"), pem(&case.chain[1..])).unwrap();
    fs::write(directory.join("leaf"), pem(&case.chain[..1])).unwrap();
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-partial_chain", "-no-CApath", "-no-CAstore", "-CAfile", "anchor"]);
    command.args(["-attime", &case.at.as_second().to_string()]).current_dir(directory);
    if case.chain.len() > 1 {
        command.args(["-untrusted", "above"]);
    }
    if let Some(crl) = crl {
        fs::write(directory.join("crl"), encode_string("X509 CRL", LineEnding::LF, crl).unwrap()).unwrap();
        command.args(["-crl_check", "-CRLfile", "crl"]);
    }
    match case.server {
        Some(server) => command.args(["-purpose", "sslserver", "-verify_hostname", server]),
        None => command.args(["-purpose", "sslclient"]),
    };
    let output = command.arg("leaf").output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
}

/// Go's answers, in the order of the cases; each with one of its lists, if they are asked for.
fn go(cases: &[Case], crl: Option<usize>) -> Vec<(bool, String)> {
    let questions = cases.iter().map(|case| {
        let base64 = |der: &rustls_pki_types::CertificateDer<'_>| BASE64_STANDARD.encode(der);
        let above: Vec<String> = case.chain[1..].iter().map(base64).collect();
        serde_json::json!({
            "anchor": base64(&case.anchor), "above": above, "leaf": base64(&case.chain[0]),
            "server": case.server.unwrap_or_default(), "at": case.at.as_second(),
            "crl": crl.map(|one| BASE64_STANDARD.encode(&case.crls[one])).unwrap_or_default(),
        })
    });
    let told = go::asked(questions);
    told.iter().map(|answer| (answer["accepted"].as_bool().unwrap(), answer["why"].to_string())).collect()
}

/// Whether the command is here; without it, the test says that nobody else has looked, or fails with `CI=true`.
fn has(command: &str) -> bool {
    let here = Command::new(command).arg("version").output().is_ok_and(|output| output.status.success());
    assert!(here || std::env::var("CI").as_deref() != Ok("true"), "{command} is missing");
    if !here {
        eprintln!("SKIPPED: there is no {command} here, so it has not judged our chains");
    }
    here
}

#[test]
fn each_defect_has_the_verdict_of_the_table() {
    let cases = cases();
    assert!(cases.len() >= 200, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let expected = (case.leaf.verdict(case.shown), case.above.verdict(case.shown));
        let judged = ours(case);
        let right = match expected {
            (Ok(()), Ok(())) => judged.is_ok(),
            // One defect is called by its name.
            (Err(error), Ok(())) | (Ok(()), Err(error)) => judged == Err(error),
            (Err(_), Err(_)) => judged.is_err(),
        };
        if !right {
            wrong.push(format!("{}: {judged:?} instead of {expected:?}", name(case)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn others_agree_or_the_table_says_why_not() {
    let cases = cases();
    let mut verdicts: Vec<(Judge, Vec<(bool, String)>)> = vec![(Judge::Webpki, cases.iter().map(webpki).collect())];
    if has("openssl") {
        let directory = tempfile::tempdir().unwrap();
        verdicts.push((Judge::OpenSsl, cases.iter().map(|case| openssl(case, directory.path(), None)).collect()));
    }
    if has("go") {
        verdicts.push((Judge::Go, go(&cases, None)));
    }
    let mut wrong = Vec::new();
    for (judge, verdicts) in &verdicts {
        assert_eq!(verdicts.len(), cases.len(), "{judge:?}");
        for (case, (accepted, why)) in cases.iter().zip(verdicts) {
            if *accepted != judge.expected(case) {
                wrong.push(format!("{judge:?} {}: {accepted} ({why})", name(case)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences that no table explains:\n{}", wrong.len(), wrong.join("\n"));
    let accepted = |judged: &[(bool, String)]| judged.iter().filter(|(accepted, _)| *accepted).count();
    for (judge, verdicts) in &verdicts {
        println!("{judge:?}: {} of {} accepted", accepted(verdicts), cases.len());
    }
}

/// What webpki says with a list of the leaf's authority.
fn webpki_with(case: &Case, crl: &[u8]) -> Result<(), webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(&case.anchor).unwrap();
    let list = webpki::CertRevocationList::from(webpki::BorrowedCertRevocationList::from_der(crl).unwrap());
    let lists = [&list];
    let options = webpki::RevocationOptionsBuilder::new(&lists).unwrap();
    let options = options.with_depth(webpki::RevocationCheckDepth::EndEntity);
    let options = options.with_expiration_policy(webpki::ExpirationPolicy::Enforce).build();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(case.at.as_second()).unwrap()));
    let leaf = webpki::EndEntityCert::try_from(&case.chain[0])?;
    let usage = match case.shown {
        Use::Client => webpki::KeyUsage::client_auth(),
        Use::Server => webpki::KeyUsage::server_auth(),
    };
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    leaf.verify_for_usage(algorithms, &[anchor], &case.chain[1..], at, usage, Some(options), None).map(drop)
}

/// What we say if the leaf's serial number is in the revocations.
fn ours_with(case: &Case, serials: &[String]) -> Result<(), PeerError> {
    let (purpose, prefix) = match case.shown {
        Use::Client => (Purpose::Users, Some("spiffe://example.com/org/".to_owned())),
        Use::Server => return ours(case), // in a handshake: `tests/handshakes.rs`
    };
    let anchor = Anchor { certificate: case.anchor.clone().into(), spiffe_prefix: prefix };
    let bundle = TrustBundle {
        trust_domain: "example.com".into(),
        roots: Vec::new(),
        anchors: BTreeMap::from([(purpose, vec![anchor])]),
        signing_keys: Vec::new(),
        ..TrustBundle::default()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = TrustSource::new(bundle, provider, Arc::new(ManualClock::at(case.at))).unwrap();
    let revoked = Revocations { serials: serials.iter().cloned().collect(), ..Revocations::default() };
    trust.set_revocations(None, revoked);
    trust.verify(purpose, &case.chain).map(drop)
}

#[test]
fn a_revoked_leaf_is_refused_and_a_list_makes_nothing_good() {
    let cases = cases();
    let (directory, with_openssl) = (tempfile::tempdir().unwrap(), has("openssl"));
    let mut wrong = Vec::new();
    if has("go") {
        for (list, revoked) in [(0, false), (1, true)] {
            for (case, (accepted, why)) in cases.iter().zip(go(&cases, Some(list))) {
                if accepted != (Judge::Go.expected(case) && !revoked) {
                    wrong.push(format!("Go, {}, revoked {revoked}: {accepted} ({why})", name(case)));
                }
            }
        }
    }
    for case in &cases {
        // The list is that of the good authority: of one with another key, name or rights, and of a leaf that is signed
        // by somebody else, there is none, and without one nothing passes.
        let [other, own] = &case.crls;
        let serial = webpki::EndEntityCert::try_from(&case.chain[0]).map(|leaf| leaf.serial().to_vec());
        let serial = serial.unwrap_or_default();
        let digits = serial.iter().skip_while(|byte| **byte == 0);
        let hex: String = digits.map(|byte| format!("{byte:02x}")).collect();
        for (crl, revoked) in [(other, false), (own, true)] {
            let serials = if revoked { vec![hex.clone()] } else { vec!["07".to_owned()] };
            let judged = ours_with(case, &serials);
            let good = ours(case).is_ok();
            let expected = good && !(revoked && case.shown == Use::Client);
            if judged.is_ok() != expected
                || (good && revoked && case.shown == Use::Client && judged != Err(PeerError::Revoked))
            {
                wrong.push(format!("ours, {}: {judged:?}", name(case)));
            }
            if with_openssl {
                let without = Judge::OpenSsl.expected(case);
                let (accepted, why) = openssl(case, directory.path(), Some(crl));
                if accepted != (without && !revoked) {
                    wrong.push(format!("openssl, {}, revoked {revoked}: {accepted} ({why})", name(case)));
                }
            }
            // webpki wants a list whose authority may sign it by its keyUsage, which it does not want of certificates.
            let signs = case.above != Above::NoCertSign;
            let (without, with) =
                (webpki(case).0 || case.server.is_some() && webpki_path(case), webpki_with(case, crl));
            if with.is_ok() != (without && signs && !revoked) {
                wrong.push(format!("webpki, {}, revoked {revoked}: {with:?}", name(case)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether webpki takes the path, whatever server it is for.
fn webpki_path(case: &Case) -> bool {
    let anchor = webpki::anchor_from_trusted_cert(&case.anchor).unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(case.at.as_second()).unwrap()));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    webpki::EndEntityCert::try_from(&case.chain[0]).is_ok_and(|leaf| {
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &[anchor], &case.chain[1..], at, usage, None, None).is_ok()
    })
}

#[test]
fn the_first_and_the_last_second_count() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rsa2048.csr");
    let keys = Keys::new(&fs::read(data).unwrap());
    let ((from, until), second) = (leaf_life(), SignedDuration::from_secs(1));
    // OpenSSL has a certificate end with its last second, RFC 5280 §4.1.2.5 after it.
    let table =
        [(from - second, false, false), (from, true, true), (until, true, false), (until + second, false, false)];
    for shown in [Use::Client, Use::Server] {
        let cases: Vec<Case> =
            table.iter().map(|(at, ..)| Case { at: *at, ..keys.case(shown, Leaf::Good, Above::Good) }).collect();
        for (case, (_, valid, by_openssl)) in cases.iter().zip(table) {
            assert_eq!(ours(case).is_ok(), valid, "{}", name(case));
            assert_eq!(webpki(case).0, valid, "{}", name(case));
            if has("openssl") {
                let directory = tempfile::tempdir().unwrap();
                assert_eq!(openssl(case, directory.path(), None).0, by_openssl, "{}", name(case));
            }
        }
        if has("go") {
            let judged: Vec<bool> = go(&cases, None).into_iter().map(|(accepted, _)| accepted).collect();
            assert_eq!(judged, table.map(|(_, valid, _)| valid), "{shown:?}");
        }
    }
}
