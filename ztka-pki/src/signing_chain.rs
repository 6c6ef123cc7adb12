//! The key of the `signing` purpose, for whoever knows a root alone: an auditor, offline, years later.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_cert::{
    Certificate,
    der::{Decode as _, Reader as _, SliceReader, asn1::BitStringRef},
    ext::pkix::ExtendedKeyUsage,
};

use crate::{
    authority::DOCUMENT_SIGNING_OID,
    key::PublicKey,
    peer::PeerError,
    x509::{self, Facts},
};

/// Longest chain: the signing authority, and what is between it and a root.
const LONGEST: usize = 6;

/// The key that `chain` (the signing authority's certificate first, each followed by its issuer's) certifies below one of
/// `roots`, if it was valid at `at` for signing documents (RFC 9336). A root may be left out of the chain or stand at its end.
///
/// Whether it was revoked since is for the reader to know: nothing that is offline says so.
///
/// # Errors
/// [`PeerError`]
pub fn signing_key(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    at: Timestamp,
) -> Result<PublicKey, PeerError> {
    let first = chain.first().ok_or(PeerError::Length)?;
    if chain.len() > LONGEST {
        return Err(PeerError::Length);
    }
    if !signs_documents(first).ok_or(PeerError::Unreadable)? {
        return Err(PeerError::Use);
    }
    let key = valid(first, at)?.spki;
    let mut below = first;
    for issuer in chain.iter().skip(1).chain(roots.iter()) {
        if roots.contains(below) {
            break;
        }
        let facts = valid(issuer, at);
        // Roots are tried one after the other, what is in the chain has to fit.
        match (is_issued(below, issuer).ok_or(PeerError::Unreadable)?, roots.contains(issuer)) {
            (true, _) => {
                facts?;
                below = issuer;
            }
            (false, true) => {}
            (false, false) => return Err(PeerError::Untrusted),
        }
    }
    if !roots.contains(below) {
        return Err(PeerError::Untrusted);
    }
    PublicKey::from_spki(&key).map_err(|_| PeerError::Unreadable)
}

/// The facts of an authority that is valid at this time.
fn valid(certificate: &CertificateDer<'_>, at: Timestamp) -> Result<Facts, PeerError> {
    let facts = Facts::read(certificate).ok_or(PeerError::Unreadable)?;
    match () {
        () if !facts.authority => Err(PeerError::Use),
        () if at < facts.not_before => Err(PeerError::NotYetValid),
        () if facts.not_after <= at => Err(PeerError::Expired),
        () => Ok(facts),
    }
}

fn signs_documents(certificate: &CertificateDer<'_>) -> Option<bool> {
    let read = Certificate::from_der(certificate).ok()?;
    let usages = read.tbs_certificate().get_extension::<ExtendedKeyUsage>().ok()?;
    Some(usages.is_some_and(|(_, ExtendedKeyUsage(usages))| usages.contains(&DOCUMENT_SIGNING_OID)))
}

/// Whether `issuer` has signed `certificate`, and is called what that says.
fn is_issued(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Option<bool> {
    let (below, above) = (Facts::read(certificate)?, Facts::read(issuer)?);
    let mut outer = SliceReader::new(certificate).ok()?;
    let mut content = SliceReader::new(x509::sequence(&mut outer).ok()?).ok()?;
    let signed = content.tlv_bytes().ok()?;
    let algorithm = x509::sequence(&mut content).ok()?;
    let signature = BitStringRef::decode(&mut content).ok()?;
    let signature = signature.as_bytes()?;
    let key = EndEntityCert::try_from(issuer).ok()?;
    let is_signed = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|known| known.signature_alg_id().as_ref() == algorithm)
        .any(|known| key.verify_signature(*known, signed, signature).is_ok());
    Some(is_signed && below.issuer == above.subject)
}
