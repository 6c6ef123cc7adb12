//! A proxy or an agent as a member of the installation: its credential, and what it hears with it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use ztka_core::{Clock, SpiffeId};
use ztka_pki::{
    Credential, CredentialDirectory, CredentialSource, CredentialStore, CredentialStoreError, EnrolError, Enrolled,
    EnrolmentClient, EnrolmentToken, Exchange, ExchangeError, Purpose, RenewalObserver, Renewer, TcpConnect,
    TrustSource, file::FileError, tls,
};

use crate::{BootstrapError, Channel, Documents, Renewal};

/// Between two tries to enrol.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// An answer to a renewal is a few kilobytes.
const LARGEST: usize = 1 << 20;

/// Where and how to join.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Private directory for the credential and the documents.
    pub state: PathBuf,
    /// The one-time token; needed until the member has joined.
    pub token: Option<EnrolmentToken>,
    /// `host:port` to enrol at, and the name to ask for: `enroll.<domain>`.
    pub enrol: (String, ServerName<'static>),
    /// `host:port` of the controller afterwards, and the name to ask for.
    pub controller: (String, ServerName<'static>),
    /// Whose certificate the controller shows there: `Servers` for agents, `Controllers` for proxies.
    pub controller_purpose: Purpose,
}

/// Why a member cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither credential nor token.
    #[error("there is no credential in {} and no enrolment token is given; ask an administrator for a token", .0.display())]
    NoToken(PathBuf),
    /// The token was refused.
    #[error("enrolment was refused")]
    Refused(#[source] EnrolError),
    /// What was stored cannot be used.
    #[error("the stored credential cannot be used; remove it and enrol again with a new token")]
    Stored(#[from] CredentialStoreError),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] FileError),
    /// The first trust cannot be used.
    #[error(transparent)]
    Trust(#[from] BootstrapError),
    /// The certificate names nobody.
    #[error("the certificate has no SPIFFE id; remove the stored credential and enrol again with a new token")]
    Name,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up with this crypto provider")]
    Tls(#[from] rustls::Error),
}

/// A joined member.
#[derive(Debug)]
pub struct Member {
    id: SpiffeId,
    credentials: CredentialSource,
    documents: Documents,
    channel: Channel,
    store: Arc<CredentialDirectory>,
    provider: Arc<CryptoProvider>,
    presented: Arc<OnceLock<CredentialSource>>,
}

impl Member {
    /// Opens the stored credential, or enrols, trying again for as long as the controller is not there.
    ///
    /// Cancel safe: what was received is stored first.
    ///
    /// # Errors
    /// [`JoinError`]
    pub async fn join(
        membership: Membership,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, JoinError> {
        let store = Arc::new(CredentialDirectory::open(&membership.state, provider.clone())?);
        let (credential, trust) = match store.load().await? {
            Some(stored) if !is_over(&stored.credential(&provider)?, &*clock) || membership.token.is_none() => {
                (stored.credential(&provider)?, stored.trust)
            }
            _ => {
                let enrolled = enrol(&membership, &store, &provider, &clock).await?;
                (enrolled.credential, enrolled.trust)
            }
        };
        let id = credential.id().ok_or(JoinError::Name)?;
        let kept = membership.state.join("documents");
        let documents = Documents::open(trust, Some(kept), provider.clone(), clock)?;
        let credentials = CredentialSource::new(credential);
        let (address, name) = membership.controller;
        let purpose = membership.controller_purpose;
        let tls = controller_tls(&provider, documents.trust(), &credentials, purpose)?;
        let channel = Channel::new(address, name, tls);
        Ok(Self { id, credentials, documents, channel, store, provider, presented: Arc::default() })
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its credential; what reads it sees each renewal.
    pub fn credentials(&self) -> &CredentialSource {
        &self.credentials
    }

    /// What it knows.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Its connection to the controller.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What it presents to users as a server, if it does: the controller is told when that has changed. To be said once.
    pub fn presents(&self, server: CredentialSource) {
        let _ = self.presented.set(server);
    }

    /// What renews its credential, and confirms what it hears: run it beside everything else; its end means that a new
    /// token is needed.
    pub fn renewer(&self) -> Renewal {
        let exchange = Arc::new(ByChannel(self.channel.clone()));
        let observer = Arc::new(Observer { documents: self.documents.clone(), channel: self.channel.clone() });
        let (store, clock) = (self.store.clone(), self.documents.clock().clone());
        Renewal {
            renewer: Renewer::new(self.credentials.clone(), store, exchange, observer, self.provider.clone(), clock),
            credentials: self.credentials.clone(),
            documents: self.documents.clone(),
            channel: self.channel.clone(),
            presented: self.presented.clone(),
        }
    }
}

fn is_over(credential: &Credential, clock: &dyn Clock) -> bool {
    credential.not_after() <= clock.now()
}

fn controller_tls(
    provider: &Arc<CryptoProvider>,
    trust: &TrustSource,
    credentials: &CredentialSource,
    purpose: Purpose,
) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    tls::client(provider.clone(), trust.clone(), Some(credentials.clone()), purpose, &[b"h2"])
}

async fn enrol(
    membership: &Membership,
    store: &CredentialDirectory,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
) -> Result<Enrolled, JoinError> {
    let (address, name) = membership.enrol.clone();
    let token = membership.token.clone().ok_or_else(|| JoinError::NoToken(membership.state.clone()))?;
    let connect = Arc::new(TcpConnect::new(address.clone()));
    let client = EnrolmentClient::over_tls(token, connect, name, provider.clone(), clock.clone());
    let client = client.map_err(JoinError::Refused)?;
    loop {
        match client.enrol_into(store).await {
            Ok(enrolled) => {
                tracing::info!(id = %enrolled.id, "enrolled");
                return Ok(enrolled);
            }
            Err(error) if error.is_final() => return Err(JoinError::Refused(error)),
            Err(error) => {
                tracing::warn!(
                    address,
                    error = &error as &dyn std::error::Error,
                    again = ?TRY_AGAIN,
                    "not enrolled yet"
                );
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Renewals go over the connection that there is.
struct ByChannel(Channel);

impl fmt::Debug for ByChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Exchange for ByChannel {
    async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        let unanswered = |error: ztka_core::BoxError| ExchangeError::new("the controller did not answer", error);
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").body(Full::new(body));
        let response = self.0.send(request.map_err(|error| unanswered(error.into()))?).await;
        let response = response.map_err(|error| unanswered(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(unanswered)?;
        Ok((status, body.to_bytes()))
    }
}

#[derive(Debug)]
struct Observer {
    documents: Documents,
    channel: Channel,
}

impl RenewalObserver for Observer {
    fn renewed(&self, renewed: &Enrolled) {
        tracing::info!(until = %renewed.credential.not_after(), "certificate renewed");
        if let Some(document) = &renewed.document {
            // Older than what the feed brought: nothing to do.
            let _ = self.documents.accept(ztka_core::SignedDocument::clone(document));
        }
        let channel = self.channel.clone();
        tokio::spawn(async move { channel.reconnect().await });
    }

    fn failed(&self, error: &EnrolError, again: Duration) {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, ?again, "the certificate could not be renewed");
    }
}
