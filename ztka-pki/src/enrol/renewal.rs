//! Answers `POST /v1/renew`: a certificate in use is replaced by one of the same name.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower::Service;
use ztka_core::{Body, BoxError, KeyId, Subject, Verified};

use super::{
    event::{EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal},
    service::{Failure, Registrar, TrustPublisher, expect},
    store::EnrolmentStore,
    wire::{self, EnrolmentAnswer, RENEW_PATH, RenewalRequest},
};
use crate::{csr::ValidCsr, hierarchy::Hierarchy, peer::Peer, trust::TrustSource};

/// Renewal at `agents.<domain>` and on the controllers' own listener: the connection proves the old key, the CSR the
/// new one. The name stays; who is revoked or expired joins again with a token.
///
/// The acceptor puts the connection's `Verified<Peer>` into the request's extensions.
#[derive(Clone, Debug)]
pub struct RenewalService {
    registrar: Arc<Registrar>,
    trust: TrustSource,
}

impl RenewalService {
    /// As [`EnrolmentService::new`](super::EnrolmentService::new), refusing whom `trust` says to be revoked.
    pub fn new(
        hierarchy: Arc<Hierarchy>,
        store: Arc<dyn EnrolmentStore>,
        publisher: Arc<dyn TrustPublisher>,
        audit: Arc<dyn EnrolmentAudit>,
        trust: TrustSource,
    ) -> Self {
        Self { registrar: Arc::new(Registrar { hierarchy, store, publisher, audit }), trust }
    }

    async fn renew(
        &self,
        peer: Option<&Verified<Peer>>,
        asked: Result<RenewalRequest, EnrolmentRefusal>,
        key: &mut Option<KeyId>,
    ) -> Result<EnrolmentAnswer, Failure> {
        let Registrar { hierarchy, store, .. } = &*self.registrar;
        let peer = peer.ok_or(EnrolmentRefusal::NoCertificate)?;
        if self.trust.is_revoked(peer) {
            return Err(EnrolmentRefusal::Revoked.into());
        }
        // A connection may outlive its certificate.
        if peer.not_after <= hierarchy.clock().now() {
            return Err(EnrolmentRefusal::CertificateExpired.into());
        }
        let subject = &peer.id.subject;
        if matches!(subject, Subject::User { .. }) {
            return Err(EnrolmentRefusal::Kind.into());
        }
        let csr = ValidCsr::from_pem(asked?.csr.as_bytes()).map_err(EnrolmentRefusal::Csr)?;
        *key = Some(csr.key().id().clone());
        store.mark_used(&peer.spki).await?;
        if !store.bind_key(csr.key().id(), subject).await? {
            return Err(EnrolmentRefusal::KeyBound.into());
        }
        let issued = hierarchy.issue_subject(&csr, subject).await?;
        Ok(self.registrar.answer(subject, issued.pem()))
    }
}

impl<B> Service<Request<B>> for RenewalService
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if let Err(status) = expect(&request, RENEW_PATH) {
                return Ok(status.into_response());
            }
            let (head, asked) = wire::read::<RenewalRequest, _>(request).await;
            let source = head.extensions.get::<IpAddr>().copied();
            let peer = head.extensions.get::<Verified<Peer>>();
            let mut key = None;
            let done = service.renew(peer, asked, &mut key).await;
            let outcome = done.as_ref().map_or_else(Failure::outcome, |_| EnrolmentOutcome::Renewed);
            let subject = peer.map(|peer| peer.id.subject.clone());
            let event = EnrolmentEvent { subject, key, ..service.registrar.event(outcome, source) };
            Ok(service.registrar.recorded(&event, done).await)
        })
    }
}
