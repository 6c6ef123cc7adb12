//! One certificate authority: a certificate, and the key that signs under it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyIdMethod, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_cert::der::{
    Encode as _,
    asn1::{Ia5String, ObjectIdentifier},
    pem::{LineEnding, encode_string},
};
use x509_cert::ext::pkix::{self, name::GeneralName};

use crate::{
    certify::{self, CertifyError},
    key::{KeyError, PublicKey, Signer},
    x509::{self, Facts},
};

/// Certificates begin this long before they are made, for verifiers whose clocks are late.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// id-kp-documentSigning (RFC 9336).
const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];
pub(crate) const DOCUMENT_SIGNING_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.36");
/// The same as the content of its DER.
pub(crate) const DOCUMENT_SIGNING_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 36];
/// id-ce-nameConstraints (RFC 5280 §4.2.1.10).
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The key that would sign cannot be used.
    #[error("the issuer's key cannot be used")]
    Key(#[source] KeyError),
    /// The issuer's own certificate is over, or not valid yet.
    #[error("the issuer's certificate is not valid now; check the clock, or rotate the certificate authority")]
    IssuerExpired,
    /// The life asked for is not positive.
    #[error("the life of a certificate has to be longer than zero")]
    Lifetime,
    /// A name that this authority does not issue for.
    #[error("{0:?} is not a DNS name at or under the domain of this installation; check the configuration")]
    Name(String),
    /// The organisation's intermediates are not there.
    #[error("organisation {0} has no certificate authority here; create or open it first")]
    UnknownOrg(ztka_core::OrgId),
    /// What was loaded does not belong together.
    #[error("{0}")]
    State(&'static str),
    /// The encoder or the key store failed in a way that configuration does not explain.
    #[error("the certificate could not be made")]
    Failed(#[source] ztka_core::BoxError),
}

impl From<CertifyError> for IssueError {
    fn from(error: CertifyError) -> Self {
        match error {
            CertifyError::Key(key) => Self::Key(key),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<KeyError> for IssueError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

/// A certificate with those that lead up to the verifier's anchor, the leaf first.
#[derive(Clone, Debug)]
pub struct Issued {
    chain: Vec<CertificateDer<'static>>,
    serial: String,
    not_after: Timestamp,
}

impl Issued {
    /// The chain in DER, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn append(&mut self, certificate: CertificateDer<'static>) {
        self.chain.push(certificate);
    }

    /// The chain in PEM, the leaf first.
    pub fn pem(&self) -> String {
        x509::to_pem(&self.chain)
    }

    /// Serial number in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// What a certificate is to say; every word of it is the issuer's.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) common_name: String,
    /// Instead of both.
    pub(crate) subject: Option<DistinguishedName>,
    /// The subjectKeyIdentifier, if it is not to be made from the key.
    pub(crate) key_identifier: Option<Vec<u8>>,
    pub(crate) organization: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) client: bool,
    pub(crate) server: bool,
    pub(crate) documents: bool,
    /// Path length of an authority; none for an end entity.
    pub(crate) authority: Option<u8>,
    pub(crate) permitted_dns: Option<String>,
}

impl Profile {
    /// A request for a certificate that says so, in PEM, by the key that it is for.
    pub(crate) async fn request(self, signer: &dyn Signer) -> Result<String, IssueError> {
        let permitted = self.permitted_dns.clone();
        let mut params = self.params(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)?;
        // Whoever signs chooses number and issuer.
        (params.serial_number, params.use_authority_key_identifier_extension) = (None, false);
        params.name_constraints = None;
        if let Some(name) = permitted {
            let mut constraints = CustomExtension::from_oid_content(&NAME_CONSTRAINTS, permitted_dns(&name)?);
            constraints.set_criticality(true);
            params.custom_extensions.push(constraints);
        }
        let request = certify::authority_request(&params, signer).await?;
        encode_string("CERTIFICATE REQUEST", LineEnding::LF, &request)
            .map_err(|_| IssueError::State("the certificate signing request cannot be encoded"))
    }

    fn params(self, not_before: Timestamp, not_after: Timestamp) -> Result<CertificateParams, IssueError> {
        let mut params = CertificateParams::default();
        params.not_before = offset(not_before)?;
        params.not_after = offset(not_after)?;
        params.serial_number = Some(serial()?);
        let mut name = DistinguishedName::new();
        if let Some(organization) = self.organization {
            name.push(DnType::OrganizationName, organization);
        }
        name.push(DnType::CommonName, self.common_name);
        params.distinguished_name = self.subject.unwrap_or(name);
        if let Some(identifier) = self.key_identifier {
            params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
        }
        if let Some(uri) = self.uri {
            let uri = uri.try_into().map_err(|error: rcgen::Error| IssueError::Failed(error.into()))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        for dns in self.dns {
            let name = dns.clone().try_into().map_err(|_| IssueError::Name(dns))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let usages = [
            (self.server, ExtendedKeyUsagePurpose::ServerAuth),
            (self.client, ExtendedKeyUsagePurpose::ClientAuth),
            (self.documents, ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.into())),
        ];
        params.extended_key_usages = usages.into_iter().filter_map(|(on, usage)| on.then_some(usage)).collect();
        params.use_authority_key_identifier_extension = true;
        match self.authority {
            Some(length) => {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
                if self.documents {
                    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
                }
            }
            None => {
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            }
        }
        params.name_constraints = self.permitted_dns.map(|name| NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name)],
            excluded_subtrees: Vec::new(),
        });
        Ok(params)
    }
}

/// The content of the extension: one permitted subtree.
fn permitted_dns(name: &str) -> Result<Vec<u8>, IssueError> {
    let failed = |error: x509_cert::der::Error| IssueError::Failed(error.into());
    let base = GeneralName::DnsName(Ia5String::new(name).map_err(failed)?);
    let subtree = pkix::constraints::name::GeneralSubtree { base, minimum: 0, maximum: None };
    let constraints = pkix::NameConstraints { permitted_subtrees: Some(vec![subtree]), excluded_subtrees: None };
    constraints.to_der().map_err(failed)
}

fn offset(at: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|error| IssueError::Failed(error.into()))
}

/// 128 random bits.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| IssueError::State("the system gives no randomness for a serial number"))?;
    Ok(SerialNumber::from_slice(&bytes))
}

/// When a certificate made at `now` begins and ends: never after its issuer.
fn validity(
    now: Timestamp,
    life: SignedDuration,
    issuer: Option<&Facts>,
) -> Result<(Timestamp, Timestamp), IssueError> {
    if life <= SignedDuration::ZERO {
        return Err(IssueError::Lifetime);
    }
    let not_before = now.checked_sub(SKEW).unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH);
    // The last second that the format can say (RFC 5280 §4.1.2.5) is 9999-12-31T23:59:59Z.
    let last = Timestamp::from_second(253_402_207_200).unwrap_or(Timestamp::MAX);
    let not_after = now.checked_add(life).unwrap_or(last).min(last);
    match issuer {
        Some(issuer) if now < issuer.not_before || issuer.not_after <= now => Err(IssueError::IssuerExpired),
        Some(issuer) => Ok((not_before, not_after.min(issuer.not_after))),
        None => Ok((not_before, not_after)),
    }
}

/// A certificate authority whose key can be used here.
#[derive(Clone, Debug)]
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    facts: Arc<Facts>,
    signer: Arc<dyn Signer>,
}

impl CertificateAuthority {
    /// The authority of `certificate`, with the key that belongs to it.
    ///
    /// # Errors
    /// [`IssueError::State`] if the key is another's, or the certificate cannot be read.
    pub fn new(certificate: CertificateDer<'static>, signer: Arc<dyn Signer>) -> Result<Self, IssueError> {
        let facts = Facts::read(&certificate).ok_or(IssueError::State("a CA certificate cannot be read"))?;
        if !facts.authority {
            return Err(IssueError::State("a CA certificate is none: it may not sign certificates"));
        }
        if facts.spki != signer.public_key().der() {
            return Err(IssueError::State("the key kept for a CA certificate is not that certificate's"));
        }
        Ok(Self { certificate, facts: Arc::new(facts), signer })
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate in PEM.
    pub fn pem(&self) -> String {
        x509::to_pem([&self.certificate])
    }

    /// End of its own validity; nothing it issues is valid longer.
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its public key.
    pub fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    pub(crate) fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    pub(crate) async fn self_signed(
        profile: Profile,
        signer: Arc<dyn Signer>,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Self, IssueError> {
        let (not_before, not_after) = validity(now, life, None)?;
        let params = profile.params(not_before, not_after)?;
        let certificate = certify::certificate(&params, signer.public_key(), None, &*signer).await?;
        Self::new(certificate, signer)
    }

    pub(crate) async fn issue_authority(
        &self,
        profile: Profile,
        signer: Arc<dyn Signer>,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Self, IssueError> {
        let certificate = self.certify(profile, signer.public_key(), now, life).await?;
        Self::new(certificate, signer)
    }

    /// Issues an end-entity certificate, followed by this authority's in the chain.
    pub(crate) async fn issue(
        &self,
        profile: Profile,
        key: &PublicKey,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<Issued, IssueError> {
        let leaf = self.certify(profile, key, now, life).await?;
        let facts = Facts::read(&leaf).ok_or(IssueError::State("the issued certificate cannot be read back"))?;
        let chain = vec![leaf, self.certificate.clone()];
        Ok(Issued { chain, serial: facts.serial, not_after: facts.not_after })
    }

    pub(crate) async fn certify(
        &self,
        profile: Profile,
        key: &PublicKey,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let (not_before, not_after) = validity(now, life, Some(&self.facts))?;
        let params = profile.params(not_before, not_after)?;
        Ok(certify::certificate(&params, key, Some(&self.certificate), &*self.signer).await?)
    }
}
