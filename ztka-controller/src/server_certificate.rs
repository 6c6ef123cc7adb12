//! Certificates of servers: the controller's own names, and the users' port of proxies.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use ztka_core::{BoxError, Subject, Verified};
use ztka_pki::{Credential, CredentialSource, Issued, Peer, Purpose, RenewalStatus, SoftwareKey, ValidCsr};

use crate::{Controller, feed::refuse};

/// `POST /v1/server-certificate`: a CSR in PEM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    csr: String,
}

/// The chain in PEM, leaf first.
#[derive(Debug, Serialize)]
struct Answer {
    chain: String,
}

pub(crate) fn route() -> MethodRouter<Controller> {
    post(issue).layer(DefaultBodyLimit::max(64 << 10))
}

impl Controller {
    /// The names under which users reach clusters: `kube.<domain>`, `*.kube.<domain>`.
    fn user_names(&self) -> [String; 2] {
        let domain = self.domain();
        [format!("kube.{domain}"), format!("*.kube.{domain}")]
    }

    async fn server_certificate(&self, csr: &ValidCsr, names: &[String]) -> Result<Issued, BoxError> {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Ok(self.hierarchy().issue_server(csr.key(), &names).await?)
    }

    /// A certificate for `names` with a new key; [`Self::keep_fresh`] renews it.
    ///
    /// # Errors
    /// A name is not below the domain, or the authority's key cannot be used.
    pub async fn server_credential(&self, names: &[String]) -> Result<Credential, BoxError> {
        let key = SoftwareKey::generate(&self.0.provider)?;
        let csr = ValidCsr::from_der(&key.csr()?)?;
        let issued = self.server_certificate(&csr, names).await?;
        Ok(Credential::new(issued.chain().to_vec(), &key)?)
    }

    /// For the users' port of a proxy in the same process.
    ///
    /// # Errors
    /// The authority's key cannot be used.
    pub async fn users_port_credential(&self) -> Result<Credential, BoxError> {
        self.server_credential(&self.user_names()).await
    }

    /// The controller's certificate among proxies and controllers.
    ///
    /// # Errors
    /// The authority's key cannot be used.
    pub async fn controller_credential(&self) -> Result<Credential, BoxError> {
        let key = SoftwareKey::generate(&self.0.provider)?;
        let csr = ValidCsr::from_der(&key.csr()?)?;
        let issued = self.hierarchy().issue_controller(&csr, &self.0.settings.id).await?;
        Ok(Credential::new(issued.chain().to_vec(), &key)?)
    }

    /// Replaces the credential in `source` by one of `renew` when two thirds of its life are over, or the authorities
    /// above it are others now, without end; meanwhile [`Self::own_certificates`] shows it as `name`.
    pub async fn keep_fresh<F>(&self, name: &'static str, source: CredentialSource, renew: impl Fn() -> F)
    where
        F: Future<Output = Result<Credential, BoxError>>,
    {
        self.0.own.write().unwrap_or_else(PoisonError::into_inner).insert(name, source.clone());
        let superseded = |current: Arc<Credential>| async move {
            let mut changes = self.hierarchy().changes();
            let purpose = if current.id().is_some() { Purpose::Controllers } else { Purpose::Servers };
            while !self.hierarchy().has_moved_on(purpose, &current) {
                // The hierarchy is held here, and its end of the channel with it.
                let _ = changes.changed().await;
            }
        };
        let failed = |error: &BoxError, again: Duration, status: RenewalStatus| {
            let (error, until) = (&**error, status.not_after);
            match status.overdue {
                true => tracing::error!(certificate = name, error, %until, "ALARM: a certificate is not renewed"),
                false => tracing::warn!(certificate = name, error, ?again, "a certificate is not renewed yet"),
            }
        };
        source.keep_fresh(&*self.0.clock, renew, superseded, failed).await;
    }

    /// How this controller's own certificates stand, by name.
    pub fn own_certificates(&self) -> BTreeMap<&'static str, RenewalStatus> {
        let own = self.0.own.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().map(|(name, source)| (*name, RenewalStatus::of(&source.current(), self.now()))).collect()
    }
}

async fn issue(State(controller): State<Controller>, peer: Option<Extension<Verified<Peer>>>, body: Bytes) -> Response {
    let Some(Extension(peer)) = peer.filter(|peer| matches!(peer.id.subject, Subject::Proxy(_))) else {
        return refuse(StatusCode::FORBIDDEN, "certificates of the users' port are for proxies");
    };
    if controller.trust().is_revoked(&peer) {
        return refuse(StatusCode::FORBIDDEN, "the certificate is revoked; join again with a new token");
    }
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("not {{\"csr\": PEM}}: {error}")),
    };
    let csr = match ValidCsr::from_pem(asked.csr.as_bytes()) {
        Ok(csr) => csr,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match controller.server_certificate(&csr, &controller.user_names()).await {
        Ok(issued) => Json(Answer { chain: issued.pem() }).into_response(),
        Err(error) => {
            tracing::error!(error = &*error, "a certificate of the users' port is not issued");
            refuse(StatusCode::SERVICE_UNAVAILABLE, "no certificate can be issued now; try again")
        }
    }
}
