//! What an intermediate of the hierarchy may be used for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ztka_core::Subject;

/// One issuing purpose. A verifier anchors at the intermediates of one purpose, so that nothing issued for another is
/// ever believed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Servers known by a DNS name: what kubectl, browsers and agents connect to.
    Servers,
    /// Agents of clusters; an intermediate per organisation below.
    Agents,
    /// Credentials of users; an intermediate per organisation below.
    Users,
    /// Proxies, towards agents, other proxies and controllers; as client and as server.
    Proxies,
    /// Controllers, towards proxies; as client and as server.
    Controllers,
    /// Documents and tree heads; no TLS.
    Signing,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 6] =
        [Self::Servers, Self::Agents, Self::Users, Self::Proxies, Self::Controllers, Self::Signing];

    /// The word used in documents, key names and certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Agents => "agents",
            Self::Users => "users",
            Self::Proxies => "proxies",
            Self::Controllers => "controllers",
            Self::Signing => "signing",
        }
    }

    /// True where each organisation has an intermediate of its own.
    pub fn is_per_org(self) -> bool {
        matches!(self, Self::Agents | Self::Users)
    }

    /// True for a name that certificates of this purpose are issued to.
    pub fn fits(self, subject: &Subject) -> bool {
        matches!(
            (self, subject),
            (Self::Agents, Subject::Agent { .. })
                | (Self::Users, Subject::User { .. })
                | (Self::Proxies, Subject::Proxy(_))
                | (Self::Controllers, Subject::Controller(_))
        )
    }

    /// The beginning of every SPIFFE id that may be issued for this purpose; none where names are DNS names.
    pub(crate) fn spiffe_prefix(self, trust_domain: &str) -> Option<String> {
        let path = match self {
            Self::Agents | Self::Users => "org/",
            Self::Proxies => "proxy/",
            Self::Controllers => "controller/",
            Self::Servers | Self::Signing => return None,
        };
        Some(format!("spiffe://{trust_domain}/{path}"))
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a purpose: use servers, agents, users, proxies, controllers or signing")]
pub struct UnknownPurpose;

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(word: &str) -> Result<Self, UnknownPurpose> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == word).ok_or(UnknownPurpose)
    }
}
