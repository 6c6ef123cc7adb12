//! What we read of a certificate ourselves: serial, validity, key and names.

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_cert::{
    Certificate,
    der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
    der::{
        self, Class, Decode as _, ErrorKind, Reader, SliceReader, Tag, Tagged as _,
        asn1::{AnyRef, Ia5StringRef, ObjectIdentifier, OctetStringRef},
        oid::AssociatedOid as _,
        pem::{LineEnding, encode_string},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName},
    serial_number::SerialNumber,
    time::Time,
};

use crate::key::hex;

/// Facts of one certificate; whether to believe them is for the caller to find out.
#[derive(Clone, Debug, Eq, PartialEq)]
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
        Certificate::from_der(certificate).ok()?;
        Self::of_verified(certificate)
    }

    /// The same of a certificate that an authority of ours has signed, as is known by now: what we need none of is not
    /// looked into. In every handshake, so without more copies than have to be.
    pub(crate) fn of_verified(certificate: &CertificateDer<'_>) -> Option<Self> {
        facts(certificate).ok()
    }
}

/// Certificate, and in it TBSCertificate (RFC 5280 §4.1).
fn facts(certificate: &[u8]) -> der::Result<Facts> {
    let mut outer = SliceReader::new(certificate)?;
    let mut content = SliceReader::new(sequence(&mut outer)?)?;
    outer.finish()?;
    let mut body = SliceReader::new(sequence(&mut content)?)?;
    if is_context(&body, 0)? {
        AnyRef::decode(&mut body)?; // version
    }
    let serial = serial(SerialNumber::<x509_cert::certificate::Rfc5280>::decode(&mut body)?.as_bytes());
    sequence(&mut body)?; // signature
    let issuer = body.tlv_bytes()?.to_vec();
    let mut validity = SliceReader::new(sequence(&mut body)?)?;
    let (not_before, not_after) = (at(&mut validity)?, at(&mut validity)?);
    validity.finish()?;
    let (subject, spki) = (body.tlv_bytes()?.to_vec(), body.tlv_bytes()?.to_vec());
    for unique_id in [1, 2] {
        if is_context(&body, unique_id)? {
            AnyRef::decode(&mut body)?;
        }
    }
    let mut said = Said::default();
    if is_context(&body, 3)? {
        let mut explicit = SliceReader::new(AnyRef::decode(&mut body)?.value())?;
        let mut extensions = SliceReader::new(sequence(&mut explicit)?)?;
        explicit.finish()?;
        while !extensions.is_finished() {
            said.extension(sequence(&mut extensions)?)?;
        }
    }
    body.finish()?;
    let Said { basic, usage, usages, names } = said;
    let (client, server) = usages.unwrap_or_default();
    let Names { uris, dns, foreign } = names.unwrap_or_default();
    let authority = basic.is_some_and(|basic| basic.ca) && usage.is_none_or(|usage| usage.key_cert_sign());
    Ok(Facts { serial, not_before, not_after, spki, subject, issuer, authority, uris, dns, foreign, client, server })
}

fn is_context(reader: &SliceReader<'_>, number: u32) -> der::Result<bool> {
    if reader.is_finished() {
        return Ok(false);
    }
    let tag = Tag::peek(reader)?;
    Ok(tag.class() == Class::ContextSpecific && tag.number().value() == number)
}

fn at(reader: &mut SliceReader<'_>) -> der::Result<Timestamp> {
    let seconds = Time::decode(reader)?.to_unix_duration().as_secs();
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.ok_or_else(|| ErrorKind::DateTime.into())
}

#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns: Vec<String>,
    foreign: bool,
}

/// What the extensions say that we go by; each may be there once (RFC 5280 §4.2).
#[derive(Default)]
struct Said {
    basic: Option<BasicConstraints>,
    usage: Option<KeyUsage>,
    /// For clients, for servers.
    usages: Option<(bool, bool)>,
    names: Option<Names>,
}

impl Said {
    fn extension(&mut self, extension: &[u8]) -> der::Result<()> {
        let mut reader = SliceReader::new(extension)?;
        let id = ObjectIdentifier::decode(&mut reader)?;
        Option::<bool>::decode(&mut reader)?;
        let value = <&OctetStringRef>::decode(&mut reader)?.as_bytes();
        reader.finish()?;
        match id {
            BasicConstraints::OID => once(&mut self.basic, BasicConstraints::from_der(value)?),
            KeyUsage::OID => once(&mut self.usage, KeyUsage::from_der(value)?),
            ExtendedKeyUsage::OID => once(&mut self.usages, usages(value)?),
            SubjectAltName::OID => once(&mut self.names, names(value)?),
            _ => Ok(()),
        }
    }
}

fn once<T>(place: &mut Option<T>, said: T) -> der::Result<()> {
    match place.replace(said) {
        None => Ok(()),
        Some(_) => Err(ErrorKind::Failed.into()),
    }
}

fn usages(value: &[u8]) -> der::Result<(bool, bool)> {
    let (mut client, mut server) = (false, false);
    let mut reader = inside(value)?;
    while !reader.is_finished() {
        let usage = ObjectIdentifier::decode(&mut reader)?;
        client |= usage == ID_KP_CLIENT_AUTH;
        server |= usage == ID_KP_SERVER_AUTH;
    }
    Ok((client, server))
}

fn names(value: &[u8]) -> der::Result<Names> {
    let mut names = Names::default();
    let mut reader = inside(value)?;
    while !reader.is_finished() {
        let name = AnyRef::decode(&mut reader)?;
        let text = |name: &AnyRef<'_>| Ok::<_, der::Error>(Ia5StringRef::new(name.value())?.as_str().to_owned());
        match (name.tag().class(), name.tag().number().value()) {
            (Class::ContextSpecific, 6) => names.uris.push(text(&name)?),
            (Class::ContextSpecific, 2) => names.dns.push(text(&name)?),
            _ => names.foreign = true,
        }
    }
    Ok(names)
}

/// A reader of the one SEQUENCE that `der` is.
fn inside(der: &[u8]) -> der::Result<SliceReader<'_>> {
    let mut reader = SliceReader::new(der)?;
    let content = sequence(&mut reader)?;
    reader.finish()?;
    SliceReader::new(content)
}

/// Reads a SEQUENCE and gives its content.
pub(crate) fn sequence<'a, R: Reader<'a>>(reader: &mut R) -> der::Result<&'a [u8]> {
    let value = AnyRef::decode(reader)?;
    value.tag().assert_eq(Tag::Sequence)?;
    Ok(value.value())
}

/// Without the zeros in front that DER needs for a high first bit.
fn serial(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    hex(bytes.get(zeros..).unwrap_or_default())
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
