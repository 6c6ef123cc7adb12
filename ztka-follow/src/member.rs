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
use ztka_core::{Clock, SpiffeId, Subject};
use ztka_pki::{
    CredentialDirectory, CredentialSource, CredentialStore, CredentialStoreError, EnrolError, Enrolled, EnrolmentToken,
    Exchange, ExchangeError, Purpose, RenewalObserver, RenewalStatus, Renewer, TrustSource, file::FileError, tls,
};
use ztka_tunnel::Egress;

use crate::{
    BootstrapError, Channel, Documents, Renewal,
    join::{Had, Joining},
    share::share_trust,
};

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
    /// Where the credential of the cluster is, if its agents share one: that is what the token gives, and each agent has
    /// one of its own in `state` that it obtains by it. None: what the token gives is the member's own.
    pub shared: Option<Arc<dyn CredentialStore>>,
    /// The way to the controller.
    pub egress: Egress,
}

/// Why a member cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither credential nor token.
    #[error("there is no credential in {} and no enrolment token is given; ask an administrator for a token", .0.display())]
    NoToken(PathBuf),
    /// The others of the cluster have not put its credential where it is shared, and there is no token.
    #[error(
        "the cluster's credential is not there yet and no enrolment token is given; apply a manifest with a new token"
    )]
    NoSharedToken,
    /// The shared credential is over, and nobody is there to renew it.
    #[error("the cluster's credential has expired; apply a manifest with a new enrolment token")]
    Over,
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
    shared: Option<Shared>,
    provider: Arc<CryptoProvider>,
    presented: Arc<OnceLock<CredentialSource>>,
}

/// The credential of the cluster, which every agent of it keeps renewed.
#[derive(Debug)]
struct Shared {
    credentials: CredentialSource,
    channel: Channel,
    store: Arc<dyn CredentialStore>,
}

impl Member {
    /// Opens the stored credential, or enrols, trying again for as long as the controller is not there and an administrator
    /// has not approved the key. A token that the stored credential was not had by is used as well; if it cannot be, the
    /// stored credential goes on.
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
        let joining = Joining { membership: &membership, provider: &provider, clock: &clock };
        let (own, cluster) = match &membership.shared {
            None => (joining.by_token(&*store).await?, None),
            Some(shared) => {
                let kept = joining.kept(&store).await?;
                match (joining.by_token(&**shared).await, kept) {
                    (Ok(cluster), Some(own)) => (own, Some(cluster)),
                    (Ok(cluster), None) => (joining.beside(&store, &cluster).await?, Some(cluster)),
                    (Err(error), None) => return Err(error),
                    (Err(error), Some(own)) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "without the cluster's credential, no further agent of it can start");
                        (own, None)
                    }
                }
            }
        };
        let id = own.credential.id().ok_or(JoinError::Name)?;
        let kept = membership.state.join("documents");
        let documents = match id.subject.clone() {
            Subject::Agent { org, cluster, .. } => {
                Documents::open_for((org, cluster), own.trust, Some(kept), provider.clone(), clock)?
            }
            _ => Documents::open(own.trust, Some(kept), provider.clone(), clock)?,
        };
        let credentials = CredentialSource::new(own.credential);
        let channel = |source: &CredentialSource| channel(&membership, &provider, documents.trust(), source);
        let shared = match (&membership.shared, cluster) {
            (Some(store), Some(Had { credential, .. })) => {
                let credentials = CredentialSource::new(credential);
                let channel = channel(&credentials)?;
                Some(Shared { credentials, channel, store: store.clone() })
            }
            _ => None,
        };
        let channel = channel(&credentials)?;
        Ok(Self { id, credentials, documents, channel, store, shared, provider, presented: Arc::default() })
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
        let presented = self.presented.clone();
        self.renewal_of(&self.credentials, self.store.clone(), &self.channel, presented)
    }

    /// What renews the credential that it shares, if there is one: the same.
    pub fn shared_renewer(&self) -> Option<Renewal> {
        let Shared { credentials, channel, store } = self.shared.as_ref()?;
        Some(self.renewal_of(credentials, store.clone(), channel, Arc::default()))
    }

    /// What writes into the place of the shared credential whom to trust, each time that it changes, so that a member
    /// that starts later can begin with it: run it beside everything else. It has no end; none if nothing is shared.
    pub fn share_trust(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let shared = self.shared.as_ref()?;
        Some(share_trust(shared.store.clone(), self.documents.trust().clone()))
    }

    fn renewal_of(
        &self,
        source: &CredentialSource,
        store: Arc<dyn CredentialStore>,
        channel: &Channel,
        presented: Arc<OnceLock<CredentialSource>>,
    ) -> Renewal {
        let exchange = Arc::new(ByChannel(channel.clone()));
        let observer = Arc::new(Observer { documents: self.documents.clone(), channel: channel.clone() });
        let clock = self.documents.clock().clone();
        Renewal {
            renewer: Renewer::new(source.clone(), store, exchange, observer, self.provider.clone(), clock),
            credentials: source.clone(),
            documents: self.documents.clone(),
            channel: channel.clone(),
            presented,
        }
    }
}

/// To the controller, with the credential of `source`.
pub(crate) fn channel(
    membership: &Membership,
    provider: &Arc<CryptoProvider>,
    trust: &TrustSource,
    source: &CredentialSource,
) -> Result<Channel, rustls::Error> {
    let (address, name) = membership.controller.clone();
    let purpose = membership.controller_purpose;
    let tls = tls::client(provider.clone(), trust.clone(), Some(source.clone()), purpose, &[b"h2"])?;
    Ok(Channel::by(membership.egress.clone(), address, name, tls))
}

/// Renewals go over the connection that there is.
pub(crate) struct ByChannel(pub(crate) Channel);

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
        tracing::warn!(error, ?again, "the certificate could not be renewed");
    }

    fn overdue(&self, error: &EnrolError, status: RenewalStatus) {
        let error = error as &dyn std::error::Error;
        let (until, renewed) = (status.not_after, status.issued);
        tracing::error!(error, %until, %renewed, "ALARM: the certificate is not renewed; after its end a new token is needed");
    }
}
