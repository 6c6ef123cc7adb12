//! Keeps a member's certificate fresh, and the controller informed of what the member goes by.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use ztka_core::{BoxError, Revision, Subject};
use ztka_pki::{Credential, CredentialChanges, CredentialSource, Purpose, RenewalEnd, Renewer};

use crate::{Channel, Documents};

/// What has been confirmed is confirmed again after this long, so that it is known who is there.
const AGAIN: Duration = Duration::from_secs(300);
/// Between two tries; doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The longest that members take to renew when their authority is replaced, so that a fleet does not come at once.
const SPREAD: Duration = Duration::from_secs(600);
/// Of the life of a certificate, if that is shorter.
const SPREAD_SHARE: u32 = 48;
const LARGEST: usize = 64 << 10;

/// Renews a credential when its time comes, or earlier when its authority is on its way out, and confirms each `trust`
/// document to the controller.
#[derive(Debug)]
pub struct Renewal {
    pub(crate) renewer: Renewer,
    pub(crate) credentials: CredentialSource,
    pub(crate) documents: Documents,
    pub(crate) channel: Channel,
    pub(crate) presented: Arc<OnceLock<CredentialSource>>,
}

/// What is confirmed.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Standing {
    trust: Revision,
    serial: String,
    server_chain: Option<String>,
}

#[derive(Serialize)]
struct Acknowledgement<'a> {
    trust: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_chain: Option<&'a str>,
}

#[derive(Deserialize)]
struct Seen {
    serial: String,
}

impl Renewal {
    /// Renews until that is no longer possible. Dropping the future stops it; a renewal on its way is then lost, which
    /// harms nothing.
    pub async fn run(&self) -> RenewalEnd {
        tokio::select! {
            end = self.renewer.run() => end,
            never = self.follow_authorities() => never,
            never = self.acknowledge() => never,
        }
    }

    /// Renews as soon as the authority of the certificate is on its way out.
    async fn follow_authorities<T>(&self) -> T {
        let mut changes = self.documents.trust().changes();
        loop {
            let current = self.credentials.current();
            if self.is_leaving(&current) {
                tokio::time::sleep(spread(&current).mul_f64(rand::random())).await;
                // It may have been renewed meanwhile, or the rotation been rolled back.
                if !self.is_leaving(&self.credentials.current()) {
                    continue;
                }
                if let Err(error) = self.renewer.renew().await {
                    let said = error.to_string();
                    tracing::warn!(error = said, "the certificate is not renewed by the new authority yet");
                    tokio::time::sleep(BACKOFF.1.mul_f64(rand::random()).max(BACKOFF.0)).await;
                }
                continue;
            }
            changes.changed().await;
        }
    }

    fn is_leaving(&self, credential: &Credential) -> bool {
        let Some(id) = credential.id() else { return false };
        let purpose = match id.subject {
            Subject::Agent { .. } => Purpose::Agents,
            Subject::Proxy(_) => Purpose::Proxies,
            Subject::Controller(_) | Subject::User { .. } => return false,
        };
        let trust = self.documents.trust();
        let retiring = trust.bundle();
        let verified = trust.identify(purpose, credential.chain());
        verified.is_ok_and(|peer| peer.authorities.iter().any(|key| retiring.retiring.contains(key)))
    }

    /// Confirms what is believed, whenever that or the certificate changes.
    async fn acknowledge<T>(&self) -> T {
        let mut documents = self.documents.changes();
        let mut credentials = self.credentials.changes();
        let mut presented = self.presented.get().map(CredentialSource::changes);
        let (mut said, mut backoff) = (None, BACKOFF.0);
        loop {
            let standing = self.standing();
            let wait = match standing {
                Some(standing) if said.as_ref() != Some(&standing) => match self.say(&standing).await {
                    Ok(()) => {
                        (said, backoff) = (Some(standing), BACKOFF.0);
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(error = &*error, "the trust document is not confirmed to the controller");
                        let wait = backoff;
                        backoff = (backoff * 2).min(BACKOFF.1);
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                },
                _ => AGAIN.mul_f64(0.75 + rand::random::<f64>() / 4.0),
            };
            let news = async {
                tokio::select! {
                    _ = documents.changed() => {}
                    () = credentials.changed() => {}
                    () = changed(&mut presented) => {}
                }
            };
            if timeout(wait, news).await.is_err() {
                said = None;
            }
        }
    }

    fn standing(&self) -> Option<Standing> {
        let server_chain = self.presented.get().map(|presented| presented.current().above_id());
        let serial = self.credentials.current().serial().to_owned();
        Some(Standing { trust: self.documents.trust_revision()?, serial, server_chain })
    }

    async fn say(&self, standing: &Standing) -> Result<(), BoxError> {
        let said =
            Acknowledgement { trust: standing.trust.to_string(), server_chain: standing.server_chain.as_deref() };
        let request = Request::post("/v1/acknowledgement").header(header::CONTENT_TYPE, "application/json");
        let body = Full::new(Bytes::from(serde_json::to_vec(&said)?));
        let response = self.channel.send(request.body(body)?).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
        let seen = serde_json::from_slice::<Seen>(&answer).ok().map(|seen| seen.serial);
        if status == StatusCode::OK && seen.is_some_and(|serial| serial != standing.serial) {
            // By a connection of before the renewal, which proves nothing of the new certificate.
            self.channel.reconnect().await;
            return Err("the connection is older than the certificate; connecting again".into());
        }
        match status {
            // A controller of the version before has nobody to tell.
            StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
            status => Err(format!("the controller answered {status}").into()),
        }
    }
}

async fn changed(presented: &mut Option<CredentialChanges>) {
    match presented {
        Some(presented) => presented.changed().await,
        None => std::future::pending().await,
    }
}

fn spread(credential: &Credential) -> Duration {
    let life = credential.not_after().duration_since(credential.issued()).unsigned_abs();
    (life / SPREAD_SHARE).min(SPREAD)
}
