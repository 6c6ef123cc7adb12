//! The connection of a command to the controller's API, and the organisation it is about.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use ztka_api::{Client, CredentialFile, Endpoint, User};
use ztka_core::{ClusterId, OrgId};

use crate::output::Output;

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) api: Client,
    pub(crate) output: Output,
    /// Where the caller's credential was read from.
    pub(crate) credential_path: Option<PathBuf>,
    org: Option<String>,
}

impl Session {
    pub(crate) fn new(credential: &CredentialFile, org: Option<String>, output: Output) -> anyhow::Result<Self> {
        let (host, port) = credential.address.rsplit_once(':').context("the credential's address is not host:port")?;
        let endpoint = Endpoint {
            host: host.trim_matches(['[', ']']).into(),
            port: port.parse().context("the credential's address does not end with a port")?,
            server_name: ServerName::try_from(credential.server_name.clone())
                .context("the credential's server_name is not a DNS name")?,
        };
        let api = Client::new(endpoint, Arc::new(tls(credential)?));
        Ok(Self { api, output, credential_path: None, org })
    }

    /// Whether an organisation was named, rather than taken from the credential.
    pub(crate) fn names_org(&self) -> bool {
        self.org.is_some()
    }

    /// The organisation that the command is about.
    pub(crate) async fn org(&self) -> anyhow::Result<OrgId> {
        let Some(wanted) = &self.org else { return Ok(self.api.whoami().await?.org.id) };
        let orgs = self.api.orgs().await?;
        let found = orgs.into_iter().find(|org| org.name.as_str() == wanted || org.id.as_str() == wanted);
        found.map(|org| org.id).ok_or_else(|| anyhow!("there is no organisation {wanted:?}; see: ztka org list"))
    }

    /// The user that is called `name`, or has it as id.
    pub(crate) async fn user(&self, org: &OrgId, name: &str) -> anyhow::Result<User> {
        let users = self.api.users(org).await?;
        let found = users.into_iter().find(|user| user.name.as_str() == name || user.id.as_str() == name);
        found.ok_or_else(|| anyhow!("there is no user {name:?} in the organisation; see: ztka user list"))
    }

    /// The cluster that is called `name`, or has it as id.
    pub(crate) async fn cluster(&self, org: &OrgId, name: &str) -> anyhow::Result<ClusterId> {
        let clusters = self.api.clusters(org).await?;
        let found = clusters.into_iter().find(|cluster| cluster.name.as_str() == name || cluster.id.as_str() == name);
        found
            .map(|cluster| cluster.id)
            .ok_or_else(|| anyhow!("there is no cluster {name:?} in the organisation; see: ztka cluster list"))
    }
}

fn tls(credential: &CredentialFile) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(credential.ca_bundle.as_bytes()) {
        roots.add(certificate.context("the credential's ca_bundle is not PEM")?)?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(credential.chain.as_bytes()).collect();
    let chain = chain.context("the credential's chain is not PEM")?;
    let key =
        PrivateKeyDer::from_pem_slice(credential.key.expose().as_bytes()).context("the credential's key is not PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("the credential's key does not belong to its certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
