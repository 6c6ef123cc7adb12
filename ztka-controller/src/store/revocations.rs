//! Certificates by serial number, what is revoked of them, and the lists that say so.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_core::{InstanceId, KeyId, OrgId, ProxyId, Subject};
use ztka_pki::{IssuedRecord, RevokedCertificate};

use super::StoreError;

/// What can be revoked by name, beside a user's credential.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Revocable {
    /// One certificate, by serial number as [`Peer::serial`](ztka_pki::Peer): two lower-case hexadecimal digits for each
    /// byte, without zero bytes in front.
    Serial(String),
    /// An agent.
    Instance(InstanceId),
    /// A proxy.
    Proxy(ProxyId),
    /// A whole organisation: its agents, its users, and the authorities that have issued to them.
    Org(OrgId),
}

impl Revocable {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Serial(_) => "serial",
            Self::Instance(_) => "instance",
            Self::Proxy(_) => "proxy",
            Self::Org(_) => "org",
        }
    }

    /// Its name among those of its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Serial(serial) => serial,
            Self::Instance(id) => id.as_str(),
            Self::Proxy(id) => id.as_str(),
            Self::Org(id) => id.as_str(),
        }
    }

    /// What kind and name stand for.
    pub fn parse(kind: &str, name: &str) -> Option<Self> {
        match kind {
            "serial" => {
                let is_serial =
                    name.len().is_multiple_of(2) && !name.starts_with("00") && (2..=40).contains(&name.len());
                let is_hex = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                (is_serial && is_hex).then(|| Self::Serial(name.into()))
            }
            "instance" => name.parse().ok().map(Self::Instance),
            "proxy" => name.parse().ok().map(Self::Proxy),
            "org" => name.parse().ok().map(Self::Org),
            _ => None,
        }
    }
}

/// Something that is revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// Whose document says so; none is the installation's.
    pub org: Option<OrgId>,
    /// What.
    pub what: Revocable,
    /// Since when.
    pub since: Timestamp,
    /// When the last certificate that it is about has expired, and nothing has to be said any more; none for an
    /// organisation.
    pub ends: Option<Timestamp>,
}

/// A certificate that is out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The organisation of whom it names; none for servers, proxies and controllers.
    pub org: Option<OrgId>,
    /// What was written down when it was made.
    pub record: IssuedRecord,
}

impl Certificate {
    /// The organisation of a subject.
    pub fn org_of(subject: Option<&Subject>) -> Option<&OrgId> {
        match subject? {
            Subject::Agent { org, .. } | Subject::User { org, .. } => Some(org),
            Subject::Proxy(_) | Subject::Controller(_) => None,
        }
    }

    /// What a subject is revoked by as a whole: agent, credential, proxy, controller; empty for a server.
    pub fn owner_of(subject: Option<&Subject>) -> &str {
        match subject {
            Some(Subject::Agent { instance, .. }) => instance.as_str(),
            Some(Subject::User { credential, .. }) => credential.as_str(),
            Some(Subject::Proxy(proxy)) => proxy.as_str(),
            Some(Subject::Controller(controller)) => controller.as_str(),
            None => "",
        }
    }
}

/// A list of revoked certificates as published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredCrl {
    /// The key of the authority that has signed it.
    pub issuer: KeyId,
    /// Its number, one more than that of the list before.
    pub number: u64,
    /// A hash of its entries.
    pub entries: String,
    /// When it was made.
    pub this_update: Timestamp,
    /// When the next one is due.
    pub next_update: Timestamp,
    /// The list.
    pub der: Bytes,
}

/// Keeps which certificates are out, and which of them are not believed.
///
/// Each method is one transaction. A revocation raises the version of the `revocations` document that says it in the same
/// transaction. `conformance::revocations` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait RevocationStore: Send + Sync + std::fmt::Debug + 'static {
    /// Writes down a certificate; once more changes nothing.
    async fn record_certificate(&self, record: &IssuedRecord) -> Result<(), StoreError>;

    /// Writes down the certificate of an authority of an organisation that is about to be deleted: it is revoked with the
    /// organisation, and listed as such when the authority itself is not known any more.
    async fn record_authority(&self, org: &OrgId, record: &IssuedRecord) -> Result<(), StoreError>;

    /// The certificates with this serial number that have not expired at `now`: one, unless chance is against us.
    async fn certificates(&self, serial: &str, now: Timestamp) -> Result<Vec<Certificate>, StoreError>;

    /// Revokes something. What is revoked already stays so since then.
    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreError>;

    /// Takes the revocation of an organisation back. [`StoreError::NotFound`] if it is not revoked.
    async fn restore_org(&self, org: &OrgId) -> Result<(), StoreError>;

    /// What is revoked by name at `now`, of an organisation or (`None`) of the installation; oldest first.
    async fn revocations(&self, org: Option<&OrgId>, now: Timestamp) -> Result<Vec<Revocation>, StoreError>;

    /// The certificates of an authority that are not to be believed at `now`, for whatever reason, and have not expired;
    /// by serial number.
    async fn revoked_certificates(&self, issuer: &KeyId, now: Timestamp)
    -> Result<Vec<RevokedCertificate>, StoreError>;

    /// The newest list of an authority.
    async fn crl(&self, issuer: &KeyId) -> Result<Option<StoredCrl>, StoreError>;

    /// Keeps the next list of an authority; false if another one has its number.
    async fn keep_crl(&self, crl: &StoredCrl) -> Result<bool, StoreError>;

    /// Forgets certificates that have expired at `now`, and revocations that have ended; tells how many certificates.
    async fn forget_expired(&self, now: Timestamp) -> Result<u64, StoreError>;
}
