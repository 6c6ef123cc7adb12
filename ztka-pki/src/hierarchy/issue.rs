//! What a hierarchy issues and signs.

use jiff::SignedDuration;
use rustls_pki_types::{CertificateDer, DnsName};
use serde::Serialize;
use ztka_core::{
    ClusterId, ControllerId, CredentialId, DocumentHeader, DocumentKind, InstanceId, KeyId, OrgId, ProxyId,
    SignedDocument, SpiffeId, Subject, UserId,
};

use super::Hierarchy;
use crate::{
    Purpose,
    authority::{CertificateAuthority, IssueError, Issued, Profile},
    csr::ValidCsr,
    key::PublicKey,
};

impl Hierarchy {
    /// Issues to an agent of `cluster`; the chain ends below the agents' intermediate.
    ///
    /// # Errors
    /// [`IssueError::UnknownOrg`] if the organisation's intermediates are not open here.
    pub async fn issue_agent(
        &self,
        csr: &ValidCsr,
        org: &OrgId,
        cluster: &ClusterId,
        instance: &InstanceId,
    ) -> Result<Issued, IssueError> {
        let (org, cluster, instance) = (org.clone(), cluster.clone(), instance.clone());
        self.issue(csr, &Subject::Agent { org, cluster, instance }, self.lifetimes.agent).await
    }

    /// Issues a credential to a user, valid for `life`; the chain ends below the users' intermediate.
    ///
    /// # Errors
    /// [`IssueError::UnknownOrg`] if the organisation's intermediates are not open here.
    pub async fn issue_user(
        &self,
        csr: &ValidCsr,
        org: &OrgId,
        user: &UserId,
        credential: &CredentialId,
        life: SignedDuration,
    ) -> Result<Issued, IssueError> {
        let (org, user, credential) = (org.clone(), user.clone(), credential.clone());
        self.issue(csr, &Subject::User { org, user, credential }, life).await
    }

    /// Issues to a proxy, as client and as the server `tunnel.<domain>`, `<proxy-id>.tunnel.<domain>` and
    /// `peer.<domain>`.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn issue_proxy(&self, csr: &ValidCsr, proxy: &ProxyId) -> Result<Issued, IssueError> {
        self.issue(csr, &Subject::Proxy(proxy.clone()), self.lifetimes.proxy).await
    }

    /// Issues to a controller, as client and as the server `controllers.<domain>` and
    /// `<controller-id>.controllers.<domain>`.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn issue_controller(&self, csr: &ValidCsr, controller: &ControllerId) -> Result<Issued, IssueError> {
        self.issue(csr, &Subject::Controller(controller.clone()), self.lifetimes.controller).await
    }

    /// Issues to an agent, a proxy or a controller.
    ///
    /// # Errors
    /// [`IssueError`]
    pub(crate) async fn issue_subject(&self, csr: &ValidCsr, subject: &Subject) -> Result<Issued, IssueError> {
        let life = match subject {
            Subject::Agent { .. } => self.lifetimes.agent,
            Subject::Proxy(_) => self.lifetimes.proxy,
            Subject::Controller(_) => self.lifetimes.controller,
            Subject::User { .. } => {
                return Err(IssueError::State("credentials of users are not renewed by certificate"));
            }
        };
        self.issue(csr, subject, life).await
    }

    /// How long an agent's certificate lives.
    pub(crate) fn agent_life(&self) -> SignedDuration {
        self.lifetimes.agent
    }

    async fn issue(&self, csr: &ValidCsr, subject: &Subject, life: SignedDuration) -> Result<Issued, IssueError> {
        let issued = self.certified(csr, subject, life).await?;
        self.recorded(issued, Some(subject)).await
    }

    async fn certified(&self, csr: &ValidCsr, subject: &Subject, life: SignedDuration) -> Result<Issued, IssueError> {
        let (now, domain, held) = (self.clock.now(), &self.names.domain, self.held());
        let id = SpiffeId { trust_domain: self.names.trust_domain.clone(), subject: subject.clone() };
        let mut profile = Profile { uri: Some(id.to_string()), client: true, ..Profile::default() };
        match subject {
            Subject::Agent { org, instance, .. } => {
                profile.common_name = instance.to_string();
                let org = self.org(&held, org).await?;
                org.agents.authority.issue(profile, csr.key(), now, life).await
            }
            Subject::User { org, credential, .. } => {
                profile.common_name = credential.to_string();
                let org = self.org(&held, org).await?;
                org.users.authority.issue(profile, csr.key(), now, life).await
            }
            Subject::Proxy(proxy) => {
                profile.common_name = proxy.to_string();
                profile.server = true;
                profile.dns =
                    vec![format!("tunnel.{domain}"), format!("{proxy}.tunnel.{domain}"), format!("peer.{domain}")];
                held.purpose(Purpose::Proxies)?.authority.issue(profile, csr.key(), now, life).await
            }
            Subject::Controller(controller) => {
                profile.common_name = controller.to_string();
                profile.server = true;
                profile.dns = vec![format!("controllers.{domain}"), format!("{controller}.controllers.{domain}")];
                held.purpose(Purpose::Controllers)?.authority.issue(profile, csr.key(), now, life).await
            }
        }
    }

    /// Issues to a server known by `dns_names`, each the domain or a name under it; the first label may be `*`.
    ///
    /// The chain goes up to and includes the root, because first contact pins the root by its key alone; while the root
    /// is rotated it has the cross-certificate as well.
    ///
    /// # Errors
    /// [`IssueError::Name`]
    pub async fn issue_server(&self, key: &PublicKey, dns_names: &[&str]) -> Result<Issued, IssueError> {
        let first = dns_names.first().ok_or_else(|| IssueError::Name(String::new()))?;
        if let Some(foreign) = dns_names.iter().find(|name| !self.is_ours(name)) {
            return Err(IssueError::Name((*foreign).into()));
        }
        let common_name = if first.len() <= 64 { (*first).into() } else { "server".into() };
        let dns = dns_names.iter().map(|name| (*name).into()).collect();
        let profile = Profile { common_name, dns, server: true, ..Profile::default() };
        let held = self.held();
        let servers = &held.purpose(Purpose::Servers)?.authority;
        let issued = servers.issue(profile, key, self.clock.now(), self.lifetimes.server).await?;
        let mut issued = self.recorded(issued, None).await?;
        held.server_chain.iter().skip(1).for_each(|above| issued.append(above.clone()));
        Ok(issued)
    }

    fn is_ours(&self, name: &str) -> bool {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let below = plain.strip_suffix(self.names.domain.as_str());
        let inside = below.is_some_and(|below| below.is_empty() || below.ends_with('.'));
        inside && DnsName::try_from(plain).is_ok() && !plain.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// Signs bytes with the signing key: for documents use [`Self::sign_document`].
    ///
    /// # Errors
    /// [`IssueError::Key`]
    pub async fn sign(&self, message: &[u8]) -> Result<(KeyId, Vec<u8>), IssueError> {
        sign(&self.held().purpose(Purpose::Signing)?.authority, message).await
    }

    /// [`Self::sign`], with the certificates that lead from the key to the root, which is left out: for
    /// [`signing_key`](crate::signing_key), by whoever knows the root alone.
    ///
    /// # Errors
    /// [`IssueError::Key`]
    pub async fn sign_with_chain(
        &self,
        message: &[u8],
    ) -> Result<(KeyId, Vec<u8>, Vec<CertificateDer<'static>>), IssueError> {
        let held = self.held();
        let kept = held.purpose(Purpose::Signing)?;
        let (key, signature) = sign(&kept.authority, message).await?;
        let mut chain = vec![kept.authority.certificate().clone()];
        chain.extend(kept.above.iter().cloned());
        chain.extend(held.cross());
        Ok((key, signature, chain))
    }

    /// Signs a document. `body` has to serialise the same way twice.
    ///
    /// While the signing authority is rotated, the `trust` document is signed by the old one as long as that is believed:
    /// so it reaches also those who have yet to hear of the new one.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn sign_document(
        &self,
        header: DocumentHeader,
        body: &(impl Serialize + Sync),
    ) -> Result<SignedDocument, IssueError> {
        // The envelope asks for its signature at once while a signer takes its time: so first learn the message.
        let mut message = Vec::new();
        let unsigned = (KeyId(String::new()), Vec::new());
        SignedDocument::sign(header.clone(), body, |asked| {
            message = asked.to_vec();
            Ok::<_, Unencodable>(unsigned)
        })
        .map_err(failed)?;
        let held = self.held();
        let signed = match header.series.kind {
            DocumentKind::Trust => sign(held.announcer()?, &message).await?,
            _ => sign(&held.purpose(Purpose::Signing)?.authority, &message).await?,
        };
        let mut same = false;
        let document = SignedDocument::sign(header, body, |asked| {
            same = asked == message;
            Ok::<_, Unencodable>(signed)
        });
        let document = document.map_err(failed)?;
        if same { Ok(document) } else { Err(IssueError::State("a document's body changed while it was signed")) }
    }
}

async fn sign(authority: &CertificateAuthority, message: &[u8]) -> Result<(KeyId, Vec<u8>), IssueError> {
    let signature = authority.signer().sign(message).await?;
    Ok((authority.public_key().id().clone(), signature))
}

#[derive(Debug)]
struct Unencodable(serde_json::Error);

impl From<serde_json::Error> for Unencodable {
    fn from(error: serde_json::Error) -> Self {
        Self(error)
    }
}

fn failed(Unencodable(error): Unencodable) -> IssueError {
    IssueError::Failed(error.into())
}
