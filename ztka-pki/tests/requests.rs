//! Certificate signing requests: which are refused, and what is ignored in those that are not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::path::Path;

use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use support::{Installation, id};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName},
};
use ztka_pki::{CsrError, ValidCsr, WeakKey};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.csr"))).unwrap()
}

fn der(name: &str) -> Vec<u8> {
    CertificateSigningRequestDer::from_pem_slice(&read(name)).unwrap().to_vec()
}

#[test]
fn the_table_of_keys_and_digests() {
    let table = [
        ("p256", None),
        ("p384", None),
        ("ed25519", None),
        ("rsa2048", None),
        ("rsa2048-sha512", None),
        ("rsa1024", Some(CsrError::Key(WeakKey::Size))),
        ("rsa2048-e3", Some(CsrError::Key(WeakKey::Exponent))),
        ("p521", Some(CsrError::Key(WeakKey::Kind))),
        ("secp256k1", Some(CsrError::Key(WeakKey::Kind))),
        ("ed448", Some(CsrError::Key(WeakKey::Kind))),
        ("p256-sha1", Some(CsrError::Algorithm)),
        ("rsa2048-sha1", Some(CsrError::Algorithm)),
        ("rsa2048-md5", Some(CsrError::Algorithm)),
        ("rsa2048-pss", Some(CsrError::Algorithm)),
        ("p224", Some(CsrError::Key(WeakKey::Kind))),
        ("p256-usages", None),
        ("p256-greedy", Some(CsrError::Authority)),
        ("p256-ca", Some(CsrError::Authority)),
        ("p256-cert-sign", Some(CsrError::Authority)),
        ("p256-names", Some(CsrError::Names)),
    ];
    for (name, refused) in table {
        assert_eq!(ValidCsr::from_pem(&read(name)).err(), refused, "{name}");
    }
}

#[test]
fn whoever_does_not_hold_the_key_is_refused() {
    // The last bytes are the signature's.
    let mut bent = der("p256");
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(ValidCsr::from_der(&bent).err(), Some(CsrError::Signature));
    // Another's key in a request that is signed well otherwise: key and signature are of the same kinds and lengths.
    let (mine, theirs) = (support::key(), support::key());
    let mut stolen = mine.csr().unwrap();
    let at = stolen.windows(mine.public().der().len()).position(|window| window == mine.public().der()).unwrap();
    stolen[at..at + theirs.public().der().len()].copy_from_slice(theirs.public().der());
    assert_eq!(ValidCsr::from_der(&stolen).err(), Some(CsrError::Signature));
}

#[test]
fn every_truncation_and_every_appended_byte_is_refused() {
    let whole = der("p256-greedy");
    for length in 0..whole.len() {
        assert_eq!(ValidCsr::from_der(&whole[..length]).err(), Some(CsrError::Truncated), "{length}");
    }
    assert_eq!(ValidCsr::from_der(&[&whole[..], &[0]].concat()).err(), Some(CsrError::Unreadable));
    assert_eq!(ValidCsr::from_der(&vec![0x30; 1 << 20]).err(), Some(CsrError::TooLarge));
    assert_eq!(ValidCsr::from_pem(&vec![b'\n'; 1 << 20]).err(), Some(CsrError::TooLarge));
    let crlf = String::from_utf8(read("p256")).unwrap().replace('\n', "\r\n");
    assert_eq!(ValidCsr::from_pem(crlf.as_bytes()).unwrap().key(), ValidCsr::from_pem(&read("p256")).unwrap().key());
    for text in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert_eq!(ValidCsr::from_pem(text.as_bytes()).err(), Some(CsrError::Unreadable));
    }
    let two = [read("p256"), read("p384")].concat();
    assert_eq!(ValidCsr::from_pem(&two).err(), Some(CsrError::Unreadable));
}

#[test]
fn no_changed_byte_is_believed() {
    let whole = der("p256-greedy");
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            // Never a panic, and never valid.
            assert!(ValidCsr::from_der(&changed).is_err(), "byte {at}");
        }
    }
}

#[tokio::test]
async fn what_a_request_asks_for_is_ignored() {
    let at = Installation::new().await;
    for name in ["p256-usages", "rsa2048", "ed25519", "p384"] {
        let csr = ValidCsr::from_pem(&read(name)).unwrap();
        let issued = at.hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
        let certificate = Certificate::from_der(&issued.chain()[0]).unwrap();
        let certificate = certificate.tbs_certificate();
        assert_eq!(certificate.subject().to_string(), "CN=i1");
        assert_eq!(certificate.subject_public_key_info().to_der().unwrap(), csr.key().der());
        let (_, names) = certificate.get_extension::<SubjectAltName>().unwrap().unwrap();
        let expected = "spiffe://example.com/org/acme/cluster/c1/agent/i1";
        assert!(format!("{names:?}").contains(expected) && names.0.len() == 1, "{names:?}");
        let (_, basic) = certificate.get_extension::<BasicConstraints>().unwrap().unwrap();
        assert!(!basic.ca && basic.path_len_constraint.is_none());
        let (_, usage) = certificate.get_extension::<KeyUsage>().unwrap().unwrap();
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let (_, usages) = certificate.get_extension::<ExtendedKeyUsage>().unwrap().unwrap();
        assert_eq!(usages.0.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1.3.6.1.5.5.7.3.2"]);
    }
}
