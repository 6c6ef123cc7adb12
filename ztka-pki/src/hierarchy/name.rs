//! What a certificate authority is called.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ztka_core::OrgId;

use crate::Purpose;

/// A certificate authority of a hierarchy; in text `root`, `servers`, `agents.<organisation id>`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AuthorityName {
    /// The root.
    Root,
    /// The intermediate of a purpose.
    Purpose(Purpose),
    /// An organisation's intermediate below that of a purpose.
    Org(Purpose, OrgId),
}

/// A text that names no certificate authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not a certificate authority: use root, servers, agents, users, proxies, controllers, signing, or an organisation's \
     own as agents.<organisation id> or users.<organisation id>"
)]
pub struct UnknownAuthority;

impl fmt::Display for AuthorityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Purpose(purpose) => purpose.fmt(f),
            Self::Org(purpose, org) => write!(f, "{purpose}.{org}"),
        }
    }
}

impl FromStr for AuthorityName {
    type Err = UnknownAuthority;

    fn from_str(text: &str) -> Result<Self, UnknownAuthority> {
        let purpose = |text: &str| text.parse::<Purpose>().map_err(|_| UnknownAuthority);
        match text.split_once('.') {
            None if text == "root" => Ok(Self::Root),
            None => purpose(text).map(Self::Purpose),
            Some((above, org)) => {
                let above = purpose(above)?;
                let org = org.parse().map_err(|_| UnknownAuthority)?;
                if above.is_per_org() { Ok(Self::Org(above, org)) } else { Err(UnknownAuthority) }
            }
        }
    }
}

impl TryFrom<String> for AuthorityName {
    type Error = UnknownAuthority;

    fn try_from(text: String) -> Result<Self, UnknownAuthority> {
        text.parse()
    }
}

impl From<AuthorityName> for String {
    fn from(name: AuthorityName) -> Self {
        name.to_string()
    }
}
