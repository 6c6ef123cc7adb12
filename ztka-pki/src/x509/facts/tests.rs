#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rcgen::{
    BasicConstraints as Basic, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
    ext::pkix::{self, name::GeneralName},
    time::Time,
};

use super::*;

fn certificates() -> Vec<Vec<u8>> {
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["a.example.com".to_owned(), "*.example.com".to_owned()]).unwrap();
    leaf.subject_alt_names.push(SanType::URI("spiffe://example.com/proxy/p1".try_into().unwrap()));
    leaf.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.not_after = rcgen::date_time_ymd(2060, 1, 1); // a GeneralizedTime
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(Basic::Constrained(1));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut idle = authority.clone();
    idle.key_usages = vec![KeyUsagePurpose::CrlSign];
    let all = [leaf, authority, idle, CertificateParams::default()];
    all.into_iter().map(|params| params.self_signed(&key).unwrap().der().to_vec()).collect()
}

/// What another reader finds in it.
fn of_others(der: &[u8]) -> Option<Facts> {
    let read = Certificate::from_der(der).ok()?;
    let read = read.tbs_certificate();
    let at = |time: Time| Timestamp::from_second(time.to_unix_duration().as_secs().try_into().unwrap()).unwrap();
    let usages = read.get_extension::<ExtendedKeyUsage>().ok()?.map(|(_, found)| found.0).unwrap_or_default();
    let basic = read.get_extension::<BasicConstraints>().ok()?.is_some_and(|(_, basic)| basic.ca);
    let signs = read.get_extension::<KeyUsage>().ok()?.is_none_or(|(_, usage)| usage.key_cert_sign());
    let names = read.get_extension::<pkix::SubjectAltName>().ok()?.map(|(_, found)| found.0).unwrap_or_default();
    let mut facts = Facts {
        serial: hex(read.serial_number().as_bytes()).trim_start_matches("00").to_owned(),
        not_before: at(read.validity().not_before),
        not_after: at(read.validity().not_after),
        spki: read.subject_public_key_info().to_der().unwrap(),
        subject: read.subject().to_der().unwrap(),
        issuer: read.issuer().to_der().unwrap(),
        authority: basic && signs,
        uris: Vec::new(),
        dns: Vec::new(),
        foreign: false,
        client: usages.contains(&ID_KP_CLIENT_AUTH),
        server: usages.contains(&ID_KP_SERVER_AUTH),
    };
    for name in names {
        match name {
            GeneralName::UniformResourceIdentifier(uri) => facts.uris.push(uri.as_str().into()),
            GeneralName::DnsName(name) => facts.dns.push(name.as_str().into()),
            _ => facts.foreign = true,
        }
    }
    Some(facts)
}

#[test]
fn the_same_is_read_as_by_others() {
    let all = certificates();
    let read: Vec<_> = all.iter().map(|der| super::read(der).unwrap()).collect();
    assert_eq!(read, all.iter().map(|der| of_others(der).unwrap()).collect::<Vec<_>>());
    assert!(read[0].foreign && read[0].client && read[0].server && read[0].uris.len() == 1 && read[0].dns.len() == 2);
    assert_eq!(read.iter().map(|facts| facts.authority).collect::<Vec<_>>(), [false, true, false, false]);
}

/// Whatever byte is another: what both read is the same, and what is cut short is nothing.
#[test]
fn of_what_is_spoilt_both_read_the_same_or_one_nothing() {
    let mut both = 0;
    for der in certificates() {
        for cut in 0..der.len() {
            assert!(super::read(&der[..cut]).is_none(), "cut at {cut}");
        }
        for place in 0..der.len() {
            for bit in 0..8 {
                let mut bent = der.clone();
                bent[place] ^= 1 << bit;
                let (Some(read), Some(others)) = (Facts::read(&bent.as_slice().into()), of_others(&bent)) else {
                    continue;
                };
                assert_eq!(read, others, "byte {place}, bit {bit}");
                both += 1;
            }
        }
    }
    assert!(both > 1000, "{both}");
}

#[test]
fn a_length_has_one_form() {
    for wrong in
        [&[0x30, 0x81, 0x01, 0][..], &[0x30, 0x82, 0, 0x80], &[0x30, 0x80], &[0x30, 0x83, 0, 0, 1], &[0x3f, 1, 0]]
    {
        let mut padded = wrong.to_vec();
        padded.extend([0; 300]);
        assert!(Input(&padded).next().is_none(), "{wrong:x?}");
    }
    assert_eq!(Input(&[0x30, 0]).next().unwrap().content, b"");
}
