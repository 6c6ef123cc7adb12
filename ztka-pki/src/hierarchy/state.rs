//! What is stored of a hierarchy.

use std::collections::BTreeMap;

use rustls_pki_types::{CertificateDer, DnsName};
use serde::{Deserialize, Serialize};
use ztka_core::OrgId;

use super::Kept;
use crate::{Purpose, authority::IssueError, x509};

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
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAuthority {
    /// Name of its key in the key store.
    pub key: String,
    /// Its certificate in PEM.
    pub certificate: String,
}

impl StoredAuthority {
    pub(super) fn of(kept: &Kept) -> Self {
        Self { key: kept.key.to_string(), certificate: kept.authority.pem() }
    }

    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, IssueError> {
        let mut certificates = x509::from_pem(self.certificate.as_bytes()).unwrap_or_default();
        match (certificates.pop(), certificates.pop()) {
            (Some(certificate), None) => Ok(certificate),
            _ => Err(IssueError::State("a stored CA certificate is not one certificate in PEM")),
        }
    }
}

/// Root and purpose intermediates as stored. Nothing in it is secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HierarchyState {
    /// What the installation is called.
    pub names: Names,
    /// The root.
    pub root: StoredAuthority,
    /// One intermediate for each purpose.
    pub purposes: BTreeMap<Purpose, StoredAuthority>,
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
