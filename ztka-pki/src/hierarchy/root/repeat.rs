//! The name of a root that somebody else has made, as our encoder says it.

use rcgen::{DistinguishedName, DnType, DnValue};
use rustls_pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    attr::AttributeTypeAndValue,
    der::{Decode as _, Tag, Tagged as _},
    ext::pkix::SubjectKeyIdentifier,
};

use crate::authority::IssueError;

pub(super) const NAME: &str =
    "the new root has a name that cannot be repeated here; have it certified by the old root with another tool";

/// Subject and subjectKeyIdentifier of a CA certificate.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Result<(DistinguishedName, Option<Vec<u8>>), IssueError> {
    let unreadable = |_| IssueError::State("the new root cannot be read");
    let read = Certificate::from_der(certificate).map_err(unreadable)?;
    let read = read.tbs_certificate();
    let mut subject = DistinguishedName::new();
    for part in read.subject().iter() {
        let (kind, value) = attribute(part).ok_or(IssueError::State(NAME))?;
        subject.push(kind, value);
    }
    let identifier = read.get_extension::<SubjectKeyIdentifier>().map_err(unreadable)?;
    Ok((subject, identifier.map(|(_, identifier)| identifier.0.as_bytes().to_vec())))
}

fn attribute(part: &AttributeTypeAndValue) -> Option<(DnType, DnValue)> {
    let arcs: Vec<u64> = part.oid.arcs().map(u64::from).collect();
    let text = str::from_utf8(part.value.value()).ok()?;
    let value = match part.value.tag() {
        Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
        Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
        Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
        _ => return None,
    };
    Some((DnType::from_oid(&arcs), value))
}
