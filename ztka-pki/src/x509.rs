//! What we read of a certificate ourselves: serial, validity, key and names.

mod facts;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_cert::{
    Certificate,
    der::{
        self, Decode as _, Reader, Tag, Tagged as _,
        asn1::AnyRef,
        pem::{LineEnding, encode_string},
    },
};

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
        facts::read(certificate)
    }
}

/// Reads a SEQUENCE and gives its content.
pub(crate) fn sequence<'a, R: Reader<'a>>(reader: &mut R) -> der::Result<&'a [u8]> {
    let value = AnyRef::decode(reader)?;
    value.tag().assert_eq(Tag::Sequence)?;
    Ok(value.value())
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
