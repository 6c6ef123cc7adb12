//! The one URI name in each of our certificates.

use std::{fmt, str::FromStr};

use crate::{ClusterId, ControllerId, CredentialId, InstanceId, OrgId, ProxyId, UserId};

/// Whose certificate it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// `org/<org>/cluster/<cluster>/agent/<instance>`
    Agent {
        /// Owner of the cluster.
        org: OrgId,
        /// The cluster.
        cluster: ClusterId,
        /// The running agent.
        instance: InstanceId,
    },
    /// `org/<org>/user/<user>/credential/<credential>`
    User {
        /// The user's organisation.
        org: OrgId,
        /// The user.
        user: UserId,
        /// One kubeconfig's credential.
        credential: CredentialId,
    },
    /// `proxy/<id>`
    Proxy(ProxyId),
    /// `controller/<id>`
    Controller(ControllerId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { org, cluster, instance } => {
                write!(f, "org/{org}/cluster/{cluster}/agent/{instance}")
            }
            Self::User { org, user, credential } => {
                write!(f, "org/{org}/user/{user}/credential/{credential}")
            }
            Self::Proxy(id) => write!(f, "proxy/{id}"),
            Self::Controller(id) => write!(f, "controller/{id}"),
        }
    }
}

/// `spiffe://<trust-domain>/<subject>`, with opaque ids in every part.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SpiffeId {
    /// Name of the installation, such as `example.com`.
    pub trust_domain: String,
    /// Whose certificate it is.
    pub subject: Subject,
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.trust_domain, self.subject)
    }
}

/// A URI that is none of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a SPIFFE id of an agent, a user, a proxy or a controller")]
pub struct UnknownSpiffeId;

impl FromStr for SpiffeId {
    type Err = UnknownSpiffeId;

    /// Accepts exactly what [`Display`](fmt::Display) writes.
    fn from_str(uri: &str) -> Result<Self, UnknownSpiffeId> {
        let rest = uri.strip_prefix("spiffe://").ok_or(UnknownSpiffeId)?;
        let (domain, path) = rest.split_once('/').ok_or(UnknownSpiffeId)?;
        let dns = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if domain.is_empty() || domain.len() > 253 || !domain.bytes().all(dns) {
            return Err(UnknownSpiffeId);
        }
        fn id<T: FromStr>(text: &str) -> Result<T, UnknownSpiffeId> {
            text.parse().map_err(|_| UnknownSpiffeId)
        }
        let parts: Vec<&str> = path.split('/').collect();
        let subject = match *parts.as_slice() {
            ["org", org, "cluster", cluster, "agent", instance] => {
                Subject::Agent { org: id(org)?, cluster: id(cluster)?, instance: id(instance)? }
            }
            ["org", org, "user", user, "credential", credential] => {
                Subject::User { org: id(org)?, user: id(user)?, credential: id(credential)? }
            }
            ["proxy", proxy] => Subject::Proxy(id(proxy)?),
            ["controller", controller] => Subject::Controller(id(controller)?),
            _ => return Err(UnknownSpiffeId),
        };
        Ok(Self { trust_domain: domain.into(), subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for uri in [
            "spiffe://example.com/org/o1/cluster/c1/agent/i1",
            "spiffe://example.com/org/o1/user/u1/credential/k1",
            "spiffe://example.com/proxy/p1",
            "spiffe://example.com/controller/t1",
        ] {
            assert_eq!(uri.parse::<SpiffeId>().unwrap().to_string(), uri);
        }
        for uri in [
            "https://example.com/proxy/p1",
            "spiffe:///proxy/p1",
            "spiffe://example.com/proxy/",
            "spiffe://example.com/proxy/p1/",
            "spiffe://Example.com/proxy/p1",
            "spiffe://example.com/org/o1/user/../credential/k1",
            "spiffe://example.com/proxy/p%31",
        ] {
            assert!(uri.parse::<SpiffeId>().is_err(), "{uri}");
        }
    }
}
