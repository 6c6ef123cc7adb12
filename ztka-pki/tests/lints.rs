//! A linter's opinion of every certificate that a hierarchy makes, and of its CRLs: zlint, with all of its rules.
//!
//! `tests/linter` is a Go program over the module github.com/zmap/zlint/v3, which `go` fetches by itself, once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::SignedDuration;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use support::{id, key, now, provider};
use ztka_core::{Clock, ManualClock};
use ztka_pki::{
    CrlContents, CrlReason, Hierarchy, KeyKind, KeyStore as _, Lifetimes, MemoryKeyStore, Names, RevokedCertificate,
    ValidCsr,
};

/// Rules that we break on purpose, and why. All are of the CA/Browser Forum, Mozilla or Apple: rules for authorities that
/// browsers trust, which ours never are. Those of RFC 5280 and the like have no exception.
const LINTS: &[(&str, &str)] = &[
    ("e_invalid_ca_certificate_policies", POLICIES),
    ("e_sub_ca_certificate_policies_missing", POLICIES),
    ("e_sub_cert_cert_policy_empty", POLICIES),
    ("e_sub_cert_certificate_policies_missing", POLICIES),
    ("e_missing_crl_distrib_point", ADDRESSES),
    ("e_sub_ca_crl_distribution_points_missing", ADDRESSES),
    ("e_sub_cert_aia_missing", ADDRESSES),
    ("w_sub_ca_aia_missing", ADDRESSES),
    ("w_sub_cert_aia_does_not_contain_issuing_ca_url", ADDRESSES),
    ("e_algorithm_identifier_improper_encoding", ED25519),
    ("e_signature_algorithm_not_supported", ED25519),
    ("e_ca_country_name_missing", "an installation is in no country"),
    ("e_dnsname_not_valid_tld", "zlint takes the common name of a proxy or controller, its id, for a DNS name"),
    ("e_ext_san_uniform_resource_identifier_present", "proxies and controllers are servers with a SPIFFE id"),
    ("e_subject_common_name_not_exactly_from_san", "the common name of a proxy or controller is its id, for people"),
    ("w_subject_common_name_included", "for people: verifiers of ours read the subjectAltName alone"),
    ("w_ext_subject_key_identifier_not_recommended_subscriber", "RFC 5280 §4.2.1.2 recommends it in every certificate"),
    (
        "w_root_ca_basic_constraints_path_len_constraint_field_present",
        "the root is bounded too: two authorities below it",
    ),
    ("n_ca_digital_signature_not_set", "no authority signs OCSP answers, or anything but certificates and CRLs"),
    ("e_cab_crl_has_valid_reason_code", "a disabled user may come back: certificateHold (RFC 5280 §5.3.1)"),
    ("n_mp_allowed_eku", "documents are signed below an intermediate that is for nothing else (RFC 9336)"),
    ("w_ct_sct_policy_count_unsatisfied", "no public log hears of a private installation"),
];

const POLICIES: &str = "no policy is written that such an extension could name";
const ADDRESSES: &str = "where CRLs are is the configuration's matter and may change; verifiers of ours go by the signed \
                         `revocations` document, and handshakes bring the chain along";
const ED25519: &str = "Ed25519 is chosen by whoever makes such a key (RFC 8410)";

fn linter() -> Option<PathBuf> {
    let unattended = std::env::var("CI").as_deref() == Ok("true");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linter");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linter");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".").current_dir(sources);
    match build.output() {
        Ok(output) if output.status.success() => return Some(program),
        Ok(output) => eprintln!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("go: {error}"),
    }
    assert!(!unattended, "the linter cannot be built; see above");
    eprintln!("SKIPPED: the linter cannot be built here (see above), so nobody has looked for what is unusual");
    None
}

/// What is asked about, by a name for people.
async fn everything() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for kind in KeyKind::ALL {
        let keys = Arc::new(MemoryKeyStore::new(provider()));
        let names = ["root", "servers", "agents", "users", "proxies", "controllers", "signing"];
        for name in names.into_iter().chain(["agents.acme", "users.acme"]) {
            keys.create(&name.parse().unwrap(), kind).await.unwrap();
        }
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
        let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap();
        let org = hierarchy.create_org(&id("acme")).await.unwrap();
        let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
        let state = hierarchy.state();
        let stored = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut certificates = vec![("root".to_owned(), stored(&state.root.certificate))];
        for (purpose, authority) in &state.purposes {
            certificates.push((format!("intermediate of {purpose}"), stored(&authority.certificate)));
        }
        certificates.push(("acme's intermediate of agents".into(), stored(&org.agents.certificate)));
        certificates.push(("acme's intermediate of users".into(), stored(&org.users.certificate)));
        let month = SignedDuration::from_hours(24 * 30);
        let issued = [
            ("agent", hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await),
            ("user", hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &id("k1"), month).await),
            ("proxy", hierarchy.issue_proxy(&csr, &id("p1")).await),
            ("controller", hierarchy.issue_controller(&csr, &id("t1")).await),
            ("users' port", hierarchy.issue_server(csr.key(), &["kube.example.com", "*.kube.example.com"]).await),
            ("controller's names", hierarchy.issue_server(csr.key(), &["enroll.example.com", "api.example.com"]).await),
        ];
        for (name, issued) in issued {
            certificates.push((name.into(), issued.unwrap().chain()[0].clone()));
        }
        for (name, certificate) in certificates {
            all.push((format!("{kind} {name}"), json!({ "certificate": BASE64_STANDARD.encode(certificate) })));
        }
        let reasons = [
            CrlReason::Unspecified,
            CrlReason::CertificateHold,
            CrlReason::CessationOfOperation,
            CrlReason::PrivilegeWithdrawn,
        ];
        let entry = |(number, reason): (usize, CrlReason)| RevokedCertificate {
            serial: format!("a{number}"),
            since: now() - SignedDuration::from_hours(1),
            reason,
        };
        let revoked: Vec<_> = reasons.into_iter().enumerate().map(entry).collect();
        for issuer in hierarchy.issuers() {
            for revoked in [Vec::new(), revoked.clone()] {
                let (this_update, next_update) = (now(), now() + SignedDuration::from_hours(24));
                let name = format!("{kind} CRL of {} entries", revoked.len());
                let contents = CrlContents { number: 7, this_update, next_update, revoked };
                let crl = hierarchy.sign_crl(&issuer.key, &contents).await.unwrap().unwrap();
                all.push((name, json!({ "crl": BASE64_STANDARD.encode(crl) })));
            }
        }
    }
    all
}

#[tokio::test]
async fn a_linter_finds_nothing_that_is_not_on_purpose() {
    let Some(program) = linter() else { return };
    let all = everything().await;
    let mut judge = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let questions: String = all.iter().map(|(_, question)| format!("{question}\n")).collect();
    let mut input = judge.stdin.take().unwrap();
    let asking = std::thread::spawn(move || input.write_all(questions.as_bytes()).unwrap());
    let output = judge.wait_with_output().unwrap();
    asking.join().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), all.len());
    let (mut unexplained, mut explained) = (BTreeSet::new(), BTreeSet::new());
    for ((name, question), answer) in all.iter().zip(&answers) {
        // So few lints are about CRLs.
        let least = if question["crl"].is_null() { 20 } else { 3 };
        assert!(answer["ran"].as_u64().unwrap() >= least, "{name}: {answer}");
        for finding in answer["findings"].as_array().unwrap() {
            let (lint, source) = (finding["lint"].as_str().unwrap(), finding["source"].as_str().unwrap());
            let of_browsers = matches!(source, "CABF_BR" | "Mozilla" | "Apple");
            let excluded = LINTS.iter().find(|(excluded, _)| of_browsers && *excluded == lint).map(|(name, _)| *name);
            match excluded {
                Some(reason) => drop(explained.insert(reason)),
                None => drop(
                    unexplained
                        .insert(format!("{source} {lint} ({}): {name} {}", finding["status"], finding["details"])),
                ),
            }
        }
    }
    let listed: Vec<_> = unexplained.iter().map(String::as_str).collect();
    assert!(unexplained.is_empty(), "{} findings that no table explains:\n{}", listed.len(), listed.join("\n"));
    let needless = LINTS.iter().map(|(name, _)| *name).filter(|name| !explained.contains(name));
    assert_eq!(needless.collect::<Vec<_>>(), [""; 0], "exclusions that exclude nothing");
}
