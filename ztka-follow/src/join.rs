//! How a member comes by its credential: what is kept, a token, or the credential that it shares with others.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustls::crypto::CryptoProvider;
use ztka_core::Clock;
use ztka_pki::{
    Connect, Connection, Credential, CredentialDirectory, CredentialSource, CredentialStore, EnrolError,
    EnrolmentClient, SoftwareKey, StoredCredential, TrustBundle, TrustSource, join_beside,
};
use ztka_tunnel::Egress;

use crate::{
    JoinError, Membership,
    member::{ByChannel, channel},
};

/// Between two tries to enrol.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// A credential that can be used, and whom to trust with it.
#[derive(Clone, Debug)]
pub(crate) struct Had {
    pub(crate) credential: Credential,
    pub(crate) trust: TrustBundle,
}

/// To the controller by the way out.
#[derive(Debug)]
struct ByEgress {
    egress: Egress,
    address: String,
}

#[async_trait]
impl Connect for ByEgress {
    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(self.egress.connect_to(&self.address).await.map_err(io::Error::other)?))
    }
}

#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) membership: &'a Membership,
    pub(crate) provider: &'a Arc<CryptoProvider>,
    pub(crate) clock: &'a Arc<dyn Clock>,
}

impl Joining<'_> {
    fn had(&self, stored: &StoredCredential) -> Result<Had, JoinError> {
        Ok(Had { credential: stored.credential(self.provider)?, trust: stored.trust.clone() })
    }

    fn is_over(&self, had: &Had) -> bool {
        had.credential.not_after() <= self.clock.now()
    }

    /// What is kept in `store`, or what the token gives.
    pub(crate) async fn by_token(&self, store: &dyn CredentialStore) -> Result<Had, JoinError> {
        let stored = store.load().await?;
        let kept = stored.as_ref().map(|stored| self.had(stored)).transpose()?;
        let Some(token) = &self.membership.token else { return kept.ok_or_else(|| self.no_token()) };
        let Some(kept) = kept.filter(|kept| !self.is_over(kept)) else { return self.enrol(store).await };
        // A token that is new is there to be used, whatever the certificate says of its end: the authorities that it was
        // issued by may have been replaced.
        let known = stored.and_then(|stored| stored.token);
        if known.is_none_or(|known| known == *token.id()) {
            return Ok(kept);
        }
        match self.client()?.enrol_into(store).await {
            Ok(enrolled) => {
                tracing::info!(id = %enrolled.id, "joined again with a new token");
                Ok(Had { credential: enrolled.credential, trust: enrolled.trust })
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the new token is not used, and the credential that is kept goes on"
                );
                Ok(kept)
            }
        }
    }

    fn no_token(&self) -> JoinError {
        match self.membership.shared {
            Some(_) => JoinError::NoSharedToken,
            None => JoinError::NoToken(self.membership.state.clone()),
        }
    }

    fn client(&self) -> Result<EnrolmentClient, JoinError> {
        let Membership { enrol: (address, name), token, egress, .. } = self.membership;
        let token = token.clone().ok_or_else(|| self.no_token())?;
        let connect = Arc::new(ByEgress { egress: egress.clone(), address: address.clone() });
        let client = EnrolmentClient::over_tls(token, connect, name.clone(), self.provider.clone(), self.clock.clone());
        client.map_err(JoinError::Refused)
    }

    async fn enrol(&self, store: &dyn CredentialStore) -> Result<Had, JoinError> {
        let (client, address) = (self.client()?, &self.membership.enrol.0);
        loop {
            let again = match client.enrol_into(store).await {
                Ok(enrolled) => {
                    tracing::info!(id = %enrolled.id, "enrolled");
                    return Ok(Had { credential: enrolled.credential, trust: enrolled.trust });
                }
                Err(error) if error.is_final() => {
                    // Others who keep theirs in the same place may have been faster.
                    let kept = store.load().await?.map(|stored| self.had(&stored)).transpose()?;
                    let kept = kept.filter(|kept| !self.is_over(kept));
                    return kept.ok_or(JoinError::Refused(error));
                }
                Err(EnrolError::Waiting { key, again }) => {
                    tracing::warn!(address, key, ?again, "an administrator has to approve this key");
                    again
                }
                Err(error) => {
                    let (error, again) = (&error as &dyn std::error::Error, TRY_AGAIN);
                    tracing::warn!(address, error, ?again, "not enrolled yet");
                    again
                }
            };
            tokio::time::sleep(again).await;
        }
    }

    /// What is kept in `own`, or a certificate of its own by the `shared` credential.
    pub(crate) async fn beside(&self, own: &CredentialDirectory, shared: &Had) -> Result<Had, JoinError> {
        let of = shared.credential.id().ok_or(JoinError::Name)?;
        let source = CredentialSource::new(shared.credential.clone());
        let trust = TrustSource::new(shared.trust.clone(), self.provider.clone(), self.clock.clone());
        let trust = trust.map_err(crate::BootstrapError::from)?;
        let channel = channel(self.membership, self.provider, &trust, &source)?;
        let exchange = ByChannel(channel);
        let key = SoftwareKey::generate(self.provider).map_err(|error| JoinError::Refused(error.into()))?;
        loop {
            if self.is_over(shared) {
                return Err(JoinError::Over);
            }
            match join_beside(&of, &key, &exchange, self.provider, &**self.clock).await {
                Ok(joined) => {
                    own.save(&StoredCredential::of(&joined.credential, &key, joined.trust.clone())).await?;
                    tracing::info!(id = %joined.id, "joined by the cluster's credential");
                    return Ok(Had { credential: joined.credential, trust: joined.trust });
                }
                Err(error) if error.is_final() => return Err(JoinError::Refused(error)),
                Err(error) => {
                    let (error, again) = (&error as &dyn std::error::Error, TRY_AGAIN);
                    tracing::warn!(error, ?again, "no certificate of its own yet");
                }
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// What `own` keeps, if it can be used.
    pub(crate) async fn kept(&self, own: &CredentialDirectory) -> Result<Option<Had>, JoinError> {
        let kept = own.load().await?.map(|stored| self.had(&stored)).transpose()?;
        Ok(kept.filter(|kept| !self.is_over(kept)))
    }
}
