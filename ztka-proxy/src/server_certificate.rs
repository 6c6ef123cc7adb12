//! The certificate of the users' port: its key is made here and kept here, the controller signs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use rustls::crypto::CryptoProvider;
use serde::{Deserialize, Serialize};
use ztka_core::{BoxError, Clock};
use ztka_follow::Channel;
use ztka_pki::{
    Credential, CredentialSource, RenewalStatus, SoftwareKey, TrustSource,
    file::{self, FileError},
};

/// Between two tries to get the first one.
const AGAIN: Duration = Duration::from_secs(5);
const LARGEST: usize = 1 << 20;

#[derive(Serialize)]
struct Asked {
    csr: String,
}

#[derive(Deserialize)]
struct Answer {
    chain: String,
}

/// Key and chain as kept: PEM, the key first.
#[derive(Deserialize, Serialize)]
struct Kept {
    key: String,
    chain: String,
}

/// Keeps a certificate for `kube.<domain>` and `*.kube.<domain>` at hand.
#[derive(Debug)]
pub struct ServerCertificate {
    source: CredentialSource,
    channel: Channel,
    file: PathBuf,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

impl ServerCertificate {
    /// Takes the certificate in `file` if it is still good, as with every controller down; else asks the controller
    /// behind `channel` for one, until it answers. Cancel safe.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn open(
        channel: Channel,
        file: PathBuf,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FileError> {
        let kept = file::read_private(&file)?.and_then(|json| read(&json, &provider));
        let credential = match kept.filter(|kept| clock.now() < kept.not_after()) {
            Some(credential) => credential,
            None => loop {
                match ask(&channel, &file, &provider).await {
                    Ok(credential) => break credential,
                    Err(error) => {
                        tracing::warn!(error = &*error, again = ?AGAIN, "no certificate for the users' port yet");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            },
        };
        Ok(Self { source: CredentialSource::new(credential), channel, file, provider, clock })
    }

    /// What TLS configurations read.
    pub fn source(&self) -> &CredentialSource {
        &self.source
    }

    /// Renews at two thirds of the certificate's life, and when `trust` says that servers present other authorities above
    /// theirs now, until dropped.
    pub async fn keep_fresh(&self, trust: &TrustSource) {
        let renew = || ask(&self.channel, &self.file, &self.provider);
        let superseded = |current: Arc<Credential>| async move {
            let mut changes = trust.changes();
            loop {
                let newest = trust.bundle().server_chain_id();
                if !newest.is_empty() && newest != current.above_id() {
                    return;
                }
                changes.changed().await;
            }
        };
        let failed = |error: &BoxError, again: Duration, status: RenewalStatus| {
            let (error, until) = (&**error, status.not_after);
            match status.overdue {
                true => tracing::error!(error, %until, "ALARM: the certificate of the users' port is not renewed"),
                false => tracing::warn!(error, ?again, "the certificate of the users' port is not renewed yet"),
            }
        };
        self.source.keep_fresh(&*self.clock, renew, superseded, failed).await;
    }
}

fn read(json: &[u8], provider: &CryptoProvider) -> Option<Credential> {
    let kept: Kept = serde_json::from_slice(json).ok()?;
    let key = SoftwareKey::from_pem(kept.key.as_bytes(), provider).ok()?;
    Credential::from_pem(kept.chain.as_bytes(), &key).ok()
}

async fn ask(channel: &Channel, file: &std::path::Path, provider: &CryptoProvider) -> Result<Credential, BoxError> {
    let key = SoftwareKey::generate(provider)?;
    let body = serde_json::to_vec(&Asked { csr: key.csr_pem()? })?;
    let request = Request::post("/v1/server-certificate").header(header::CONTENT_TYPE, "application/json");
    let response = channel.send(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
    if status != StatusCode::OK {
        return Err(format!("the controller answered {status}: {}", String::from_utf8_lossy(&answer)).into());
    }
    let Answer { chain } = serde_json::from_slice(&answer)?;
    let credential = Credential::from_pem(chain.as_bytes(), &key)?;
    let kept = Kept { key: key.to_pem().to_string(), chain };
    file::write_private(file, &serde_json::to_vec(&kept)?)?;
    Ok(credential)
}
