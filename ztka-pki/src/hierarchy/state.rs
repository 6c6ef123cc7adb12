//! What is stored of a hierarchy.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, DnsName};
use serde::{Deserialize, Serialize};
use ztka_core::{KeyId, OrgId};

use super::{AuthorityName, Kept, Rotation};
use crate::{
    Purpose,
    authority::IssueError,
    key,
    x509::{self, Facts},
};

/// What the installation is called.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Trust domain of SPIFFE ids, such as `example.com`. It can never be changed.
    pub trust_domain: String,
    /// DNS domain that servers are named under, such as `example.com`: `kube.<domain>`, `agents.<domain>`, ….
    pub domain: String,
}

impl Names {
    /// The same name for both.
    pub fn of(domain: impl Into<String>) -> Self {
        let domain = domain.into();
        Self { trust_domain: domain.clone(), domain }
    }

    pub(super) fn check(&self) -> Result<(), IssueError> {
        let is_dns = |name: &str| {
            let lower =
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte));
            lower && !name.ends_with('.') && name.len() <= 170 && DnsName::try_from(name).is_ok()
        };
        let bad = [&self.trust_domain, &self.domain].into_iter().find(|name| !is_dns(name));
        bad.map_or(Ok(()), |name| Err(IssueError::Name(name.clone())))
    }
}

/// One authority as stored.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAuthority {
    /// Name of its key in the key store; empty for a root whose key is not kept here.
    pub key: String,
    /// Its certificate in PEM; empty while it is asked for.
    pub certificate: String,
    /// Certificates between it and the root, in PEM, its issuer first: of a root of somebody's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub above: String,
}

impl StoredAuthority {
    pub(super) fn of(kept: &Kept) -> Self {
        Self { key: kept.key.to_string(), certificate: kept.authority.pem(), above: x509::to_pem(&kept.above) }
    }

    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, IssueError> {
        let mut certificates = x509::from_pem(self.certificate.as_bytes()).unwrap_or_default();
        match (certificates.pop(), certificates.pop()) {
            (Some(certificate), None) => Ok(certificate),
            _ => Err(IssueError::State("a stored CA certificate is not one certificate in PEM")),
        }
    }

    pub(super) fn above(&self) -> Vec<CertificateDer<'static>> {
        x509::from_pem(self.above.as_bytes()).unwrap_or_default()
    }

    pub(super) fn facts(&self) -> Result<Facts, IssueError> {
        Facts::read(&self.certificate()?).ok_or(IssueError::State("a stored CA certificate cannot be read"))
    }

    /// Names its key; none while its certificate is asked for.
    pub fn key_id(&self) -> Option<KeyId> {
        self.facts().ok().map(|facts| key::key_id(&facts.spki))
    }

    /// Beginning and end of its certificate; none while that is asked for.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        self.facts().ok().map(|facts| (facts.not_before, facts.not_after))
    }
}

/// An authority that is not believed any more although its certificate is not over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Withdrawn {
    /// Names its key.
    pub key: KeyId,
    /// Connections that were made by its certificates end.
    pub revoked: bool,
    /// End of its certificate; nothing has to be said of it afterwards.
    pub until: Timestamp,
}

/// A signing authority that announces its successor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Announcer {
    /// The authority.
    pub authority: StoredAuthority,
    /// When it was replaced.
    pub since: Timestamp,
}

/// Root and purpose intermediates as stored, and where their rotations are. Nothing in it is secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HierarchyState {
    /// What the installation is called.
    pub names: Names,
    /// The root.
    pub root: StoredAuthority,
    /// One intermediate for each purpose: the one that signs.
    pub purposes: BTreeMap<Purpose, StoredAuthority>,
    /// Grows by one with every change; what is stored is only ever replaced by the next.
    #[serde(default)]
    pub generation: u64,
    /// Rotations under way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rotations: BTreeMap<AuthorityName, Rotation>,
    /// Authorities that are not believed any more before their time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<Withdrawn>,
    /// A signing authority that was replaced in an emergency. It goes on signing the one document that says so, since
    /// nobody would believe its successor, until all have taken that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcer: Option<Announcer>,
    /// Names of keys that are of no more use and have to be destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarded: Vec<String>,
}

/// The intermediates of one organisation as stored. Nothing in it is secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrgState {
    /// The organisation.
    pub org: OrgId,
    /// Issues to its clusters' agents.
    pub agents: StoredAuthority,
    /// Issues to its users.
    pub users: StoredAuthority,
}

impl OrgState {
    pub(super) fn of(&self, purpose: Purpose) -> &StoredAuthority {
        if purpose == Purpose::Users { &self.users } else { &self.agents }
    }

    pub(super) fn of_mut(&mut self, purpose: Purpose) -> &mut StoredAuthority {
        if purpose == Purpose::Users { &mut self.users } else { &mut self.agents }
    }
}
