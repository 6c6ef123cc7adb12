//! What is no longer believed before its time: the body of the `revocations` document.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use ztka_core::{CredentialId, InstanceId, OrgId, ProxyId, Subject, UserId};

use crate::peer::Peer;

/// Revoked ids and serial numbers, of one organisation or of the installation.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Revocations {
    /// Credentials of users.
    pub credentials: BTreeSet<CredentialId>,
    /// Agents.
    pub instances: BTreeSet<InstanceId>,
    /// Users, with all their credentials.
    pub users: BTreeSet<UserId>,
    /// Whole organisations, with all that was issued to their agents and users; in the installation's document only.
    pub orgs: BTreeSet<OrgId>,
    /// Proxies.
    pub proxies: BTreeSet<ProxyId>,
    /// Serial numbers of single certificates: two lower-case hexadecimal digits for each byte, without zero bytes in front.
    pub serials: BTreeSet<String>,
}

impl Revocations {
    /// True if the peer's certificate, or what it is issued to, is revoked.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        let by_id = match &peer.id.subject {
            Subject::Agent { org, instance, .. } => self.orgs.contains(org) || self.instances.contains(instance),
            Subject::User { org, user, credential } => {
                self.orgs.contains(org) || self.users.contains(user) || self.credentials.contains(credential)
            }
            Subject::Proxy(proxy) => self.proxies.contains(proxy),
            Subject::Controller(_) => false,
        };
        by_id || self.serials.contains(&peer.serial)
    }
}
