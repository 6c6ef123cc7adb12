//! Opaque immutable ids, and the names people give: every one is checked when it is made.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id or a name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

const LABEL_RULE: &str = "use 1 to 63 lower-case letters, digits and inner hyphens (a DNS label, RFC 1123)";
const NAME_RULE: &str = "use 1 to 128 lower-case ASCII letters, digits and . _ @ + - (first a letter or digit)";

/// RFC 1123 label in lower case: fits into a DNS name, a URI and a Kubernetes label.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// One spelling only: no upper case, no Unicode forms, no space, and no colon, so that `system:` cannot occur.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=128).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || b"._@+-".contains(byte))
        && bytes.first().is_some_and(alphanumeric)
}

macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $what:literal, $is:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if !$is(text) {
                    let text = text.chars().take(80).collect();
                    return Err(InvalidName { what: $what, text, rule: $rule });
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal) => {
        checked!($(#[$doc])* $name, $what, is_label, LABEL_RULE);

        impl $name {
            /// A new id, unlike any other; ids made later sort later (UUID version 7).
            pub fn generate() -> Self {
                Self(format!(concat!($prefix, "{}"), Uuid::now_v7().simple()).into())
            }
        }
    };
}

id!(
    /// An organisation.
    OrgId, "organisation id", "o"
);
id!(
    /// A cluster; also the first label of its host name `<cluster-id>.kube.<domain>`.
    ClusterId, "cluster id", "c"
);
id!(
    /// A user of one organisation.
    UserId, "user id", "u"
);
id!(
    /// One credential of a user: the certificate in one kubeconfig.
    CredentialId, "credential id", "k"
);
id!(
    /// One running agent of a cluster.
    InstanceId, "agent instance id", "i"
);
id!(
    /// A proxy.
    ProxyId, "proxy id", "p"
);
id!(
    /// A controller.
    ControllerId, "controller id", "t"
);
checked!(
    /// Where a proxy is, as its operators call it: what fails together is in one zone.
    Zone, "zone", is_name, NAME_RULE
);
checked!(
    /// What a user is called in policy, audit and Kubernetes; an e-mail address in lower case fits.
    UserName, "user name", is_name, NAME_RULE
);
checked!(
    /// What a group of users is called.
    GroupName, "group name", is_name, NAME_RULE
);
checked!(
    /// What an organisation is called; unique in the installation.
    OrgName, "organisation name", is_label, LABEL_RULE
);
checked!(
    /// What a cluster is called; unique in its organisation.
    ClusterName, "cluster name", is_label, LABEL_RULE
);
checked!(
    /// What a role is called; unique in its organisation.
    RoleName, "role name", is_name, NAME_RULE
);
checked!(
    /// What a binding is called; unique in its organisation.
    BindingName, "binding name", is_name, NAME_RULE
);

impl OrgId {
    /// The organisation that the installation's own administrators belong to. It owns no clusters, and no other
    /// organisation can have its id, as generated ids are longer.
    pub fn installation() -> Self {
        Self("installation".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels() {
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<OrgId>().is_err(), "{bad}");
        }
        let id = ClusterId::generate();
        assert_eq!(id.as_str().parse::<ClusterId>().unwrap(), id);
    }

    #[test]
    fn names_have_one_spelling_and_are_never_kubernetes_own() {
        for bad in ["", "system:masters", "Alice", "al ice", "alice\n", "ａlice", "e\u{301}", ".a"] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
        assert!("alice@example.com".parse::<UserName>().is_ok());
    }
}
