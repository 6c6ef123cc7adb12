//! What is issued is written down first, and may be listed as revoked later.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use rustls_pki_types::CertificateRevocationListDer;
use ztka_core::{BoxError, KeyId, OrgId, Subject};

use super::Hierarchy;
use crate::{
    authority::{CertificateAuthority, IssueError, Issued},
    crl::CrlContents,
    x509::Facts,
};

/// A certificate that was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedRecord {
    /// The key of the authority that has signed it.
    pub issuer: KeyId,
    /// Its serial number, as [`Issued::serial`].
    pub serial: String,
    /// Whom it names; none for a server, which has DNS names.
    pub subject: Option<Subject>,
    /// When it was made.
    pub issued: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
}

/// Keeps a record of every certificate that a hierarchy issues to end entities.
#[async_trait]
pub trait IssuanceRecord: Send + Sync + fmt::Debug {
    /// Durable when it returns; before that, nobody has the certificate.
    ///
    /// # Errors
    /// It cannot be kept; then the certificate is not given to anybody.
    async fn issued(&self, record: &IssuedRecord) -> Result<(), BoxError>;
}

/// An authority of the hierarchy, as far as revocation is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Issuer {
    /// Its key.
    pub key: KeyId,
    /// Serial number of its own certificate.
    pub serial: String,
    /// The key of the authority above it.
    pub above: Option<KeyId>,
    /// Whose it is, below the authorities of all.
    pub org: Option<OrgId>,
    /// When its certificate expires.
    pub not_after: Timestamp,
}

impl Hierarchy {
    /// Writes down what is issued from now on.
    #[must_use]
    pub fn with_record(mut self, record: Arc<dyn IssuanceRecord>) -> Self {
        self.record = Some(record);
        self
    }

    pub(super) async fn recorded(&self, issued: Issued, subject: Option<&Subject>) -> Result<Issued, IssueError> {
        let Some(record) = &self.record else { return Ok(issued) };
        let unreadable = IssueError::State("the issuer's certificate cannot be read");
        let issuer = issued.chain().get(1).and_then(|issuer| Facts::read(issuer)).ok_or(unreadable)?;
        let made = IssuedRecord {
            issuer: crate::key::key_id(&issuer.spki),
            serial: issued.serial().into(),
            subject: subject.cloned(),
            issued: self.clock.now(),
            not_after: issued.not_after(),
        };
        record.issued(&made).await.map_err(IssueError::Failed)?;
        Ok(issued)
    }

    /// The authorities that can sign here: one for each purpose, those of the organisations that are open, and while one
    /// is replaced, both. Without
    /// the root, whose key may be elsewhere: what it has issued is believed for as long as the trust document has it.
    pub fn issuers(&self) -> Vec<Issuer> {
        let authorities = self.authorities();
        // By name, and not each held against each: there may be thousands of organisations.
        let mut named: HashMap<&[u8], Vec<&CertificateAuthority>> = HashMap::new();
        for (authority, _) in &authorities {
            named.entry(&authority.facts().subject).or_default().push(authority);
        }
        let issuer = |(authority, org): &(CertificateAuthority, Option<OrgId>)| {
            let facts = authority.facts();
            let mut above = named.get(facts.issuer.as_slice()).into_iter().flatten();
            let above = above.find(|above| above.facts().spki != facts.spki);
            Issuer {
                key: authority.public_key().id().clone(),
                serial: facts.serial.clone(),
                above: above.map(|above| above.public_key().id().clone()),
                org: org.clone(),
                not_after: facts.not_after,
            }
        };
        authorities.iter().map(issuer).collect()
    }

    fn authorities(&self) -> Vec<(CertificateAuthority, Option<OrgId>)> {
        let orgs = self.orgs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let of_orgs = orgs
            .iter()
            .flat_map(|(id, org)| [&org.agents, &org.users].map(|kept| (kept.authority.clone(), Some(id.clone()))));
        let held = self.held();
        let of_all = held.purposes.values().map(|kept| (kept.authority.clone(), None));
        of_all.chain(held.standby.iter().cloned()).chain(of_orgs).collect()
    }

    /// Signs a list of revoked certificates of the authority with this key. `None` if there is no such authority here.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn sign_crl(
        &self,
        issuer: &KeyId,
        contents: &CrlContents,
    ) -> Result<Option<CertificateRevocationListDer<'static>>, IssueError> {
        match self.authority(issuer) {
            Some(authority) => authority.sign_crl(contents).await.map(Some),
            None => Ok(None),
        }
    }

    /// The authority with this key; no other is copied on the way.
    fn authority(&self, key: &KeyId) -> Option<CertificateAuthority> {
        let is = |authority: &&CertificateAuthority| authority.public_key().id() == key;
        let held = self.held();
        let purposes = held.purposes.values().map(|kept| &kept.authority);
        if let Some(found) = purposes.chain(held.standby.iter().map(|(authority, _)| authority)).find(is) {
            return Some(found.clone());
        }
        let orgs = self.orgs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        orgs.values().flat_map(|org| [&org.agents.authority, &org.users.authority]).find(is).cloned()
    }
}
