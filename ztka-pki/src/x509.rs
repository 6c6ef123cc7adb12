//! What we read of a certificate ourselves: serial, validity, key and names.

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_cert::{
    Certificate,
    der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
    der::{
        Decode as _, Encode as _, Reader, Tag, Tagged as _,
        asn1::AnyRef,
        pem::{LineEnding, encode_string},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
};

use crate::key::hex;

/// Facts of one certificate; whether to believe them is for the caller to find out.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) spki: Vec<u8>,
    /// Distinguished names in DER.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// It may sign certificates: basicConstraints and keyUsage say so.
    pub(crate) authority: bool,
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    /// Names of other forms are there, which we never issue.
    pub(crate) foreign: bool,
    /// It says that it is for TLS clients.
    pub(crate) client: bool,
    /// It says that it is for TLS servers.
    pub(crate) server: bool,
}

impl Facts {
    /// Reads a certificate; `None` if it is not one.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let certificate = certificate.tbs_certificate();
        let at = |time: x509_cert::time::Time| {
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
            Timestamp::from_second(seconds).ok()
        };
        let validity = certificate.validity();
        let usages = certificate.get_extension::<ExtendedKeyUsage>().ok()?;
        let usages = usages.map(|(_, ExtendedKeyUsage(usages))| usages).unwrap_or_default();
        let basic = certificate.get_extension::<BasicConstraints>().ok()?;
        let usage = certificate.get_extension::<KeyUsage>().ok()?;
        let mut facts = Self {
            serial: serial(certificate.serial_number().as_bytes()),
            not_before: at(validity.not_before)?,
            not_after: at(validity.not_after)?,
            spki: certificate.subject_public_key_info().to_der().ok()?,
            subject: certificate.subject().to_der().ok()?,
            issuer: certificate.issuer().to_der().ok()?,
            authority: basic.is_some_and(|(_, basic)| basic.ca) && usage.is_none_or(|(_, usage)| usage.key_cert_sign()),
            uris: Vec::new(),
            dns: Vec::new(),
            foreign: false,
            client: usages.contains(&ID_KP_CLIENT_AUTH),
            server: usages.contains(&ID_KP_SERVER_AUTH),
        };
        let names = certificate.get_extension::<SubjectAltName>().ok()?;
        for name in names.map(|(_, SubjectAltName(names))| names).unwrap_or_default() {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => facts.uris.push(uri.as_str().into()),
                GeneralName::DnsName(name) => facts.dns.push(name.as_str().into()),
                _ => facts.foreign = true,
            }
        }
        Some(facts)
    }
}

/// Reads a SEQUENCE and gives its content.
pub(crate) fn sequence<'a, R: Reader<'a>>(reader: &mut R) -> x509_cert::der::Result<&'a [u8]> {
    let value = AnyRef::decode(reader)?;
    value.tag().assert_eq(Tag::Sequence)?;
    Ok(value.value())
}

/// Without the zeros in front that DER needs for a high first bit.
fn serial(bytes: &[u8]) -> String {
    let digits = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
    hex(&digits)
}

/// Certificates as PEM, one block after the other.
pub(crate) fn to_pem<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    // A fixed label and bytes always encode.
    chain.into_iter().map(|der| encode_string("CERTIFICATE", LineEnding::LF, der).unwrap_or_default()).collect()
}

/// The certificates of a PEM text, in order; `None` if it is not well-formed or has none.
pub(crate) fn from_pem(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty())
}
