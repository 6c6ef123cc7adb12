//! Certificate revocation lists (RFC 5280 §5), for third parties: one for each certificate authority, signed by its key.

use jiff::Timestamp;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_cert::{Certificate, der::Decode as _, ext::pkix::SubjectKeyIdentifier};

use crate::{
    authority::{CertificateAuthority, IssueError},
    certify,
};

/// Why a certificate is on a list (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CrlReason {
    /// Nothing is said.
    Unspecified,
    /// What it was issued to is gone.
    CessationOfOperation,
    /// Its holder may do nothing for now: the entry goes when the holder may again.
    CertificateHold,
    /// An authority that may not issue any more.
    PrivilegeWithdrawn,
}

/// A certificate that is not believed any more.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RevokedCertificate {
    /// Its serial number in hexadecimal, as [`Issued::serial`](crate::Issued::serial).
    pub serial: String,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: CrlReason,
}

/// What a list says.
#[derive(Clone, Debug)]
pub struct CrlContents {
    /// Grows with every list of one authority (RFC 5280 §5.2.3).
    pub number: u64,
    /// When it is made.
    pub this_update: Timestamp,
    /// When the next one is made at the latest; whoever has a list from before does not go by it afterwards.
    pub next_update: Timestamp,
    /// The certificates; those that have expired need not be there.
    pub revoked: Vec<RevokedCertificate>,
}

impl CertificateAuthority {
    /// Signs a list of certificates of this authority: version 2, with authorityKeyIdentifier and number.
    ///
    /// # Errors
    /// [`IssueError::State`] for what is no serial number, or an end before the beginning; [`IssueError::Key`].
    pub async fn sign_crl(&self, contents: &CrlContents) -> Result<CertificateRevocationListDer<'static>, IssueError> {
        if contents.next_update <= contents.this_update {
            return Err(IssueError::State("a CRL has to be good for some time"));
        }
        let revoked = contents.revoked.iter().map(entry).collect::<Result<_, IssueError>>()?;
        let params = CertificateRevocationListParams {
            this_update: offset(contents.this_update)?,
            next_update: offset(contents.next_update)?,
            crl_number: SerialNumber::from(contents.number),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::PreSpecified(subject_key_id(self.certificate())?),
        };
        Ok(certify::crl(&params, self.certificate(), self.signer()).await?)
    }
}

fn entry(revoked: &RevokedCertificate) -> Result<RevokedCertParams, IssueError> {
    let reason = match revoked.reason {
        // RFC 5280 §5.3.1: then the extension is left out.
        CrlReason::Unspecified => None,
        CrlReason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        CrlReason::CertificateHold => Some(RevocationReason::CertificateHold),
        CrlReason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
    };
    Ok(RevokedCertParams {
        serial_number: serial(&revoked.serial).ok_or(IssueError::State("a serial number is not hexadecimal"))?,
        revocation_time: offset(revoked.since)?,
        reason_code: reason,
        invalidity_date: None,
    })
}

fn serial(digits: &str) -> Option<SerialNumber> {
    let padded = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let byte = |at: usize| u8::from_str_radix(padded.get(at..at + 2)?, 16).ok();
    let bytes = (0..padded.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    (!bytes.is_empty()).then(|| SerialNumber::from_slice(&bytes))
}

/// As it stands in the authority's own certificate, which somebody else may have made.
fn subject_key_id(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, IssueError> {
    let read = Certificate::from_der(certificate).ok();
    let found = read.and_then(|read| read.tbs_certificate().get_extension::<SubjectKeyIdentifier>().ok().flatten());
    let (_, SubjectKeyIdentifier(id)) =
        found.ok_or(IssueError::State("a CA certificate has no subjectKeyIdentifier; make it again with one"))?;
    Ok(id.as_bytes().to_vec())
}

/// In whole seconds: that is all that the format has.
fn offset(at: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|error| IssueError::Failed(error.into()))
}
