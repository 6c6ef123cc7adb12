//! Answers `POST /v1/instances`: an agent that a token has let in asks for a certificate for another one of its cluster.
//!
//! So the agents of a Deployment share one credential, that of the cluster, and each has a name and a key of its own.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use rustls::crypto::CryptoProvider;
use tower::Service;
use ztka_core::{Body, BoxError, Clock, InstanceId, KeyId, SpiffeId, Subject, Verified};

use super::{
    client::{EnrolError, Enrolled, accept, ask},
    event::{EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal},
    exchange::Exchange,
    service::{Failure, Registrar, TrustPublisher, expect},
    store::{Admission, EnrolmentStore, Replica},
    wire::{self, EnrolmentAnswer, INSTANCES_PATH, RenewalRequest},
};
use crate::{csr::ValidCsr, hierarchy::Hierarchy, key::SoftwareKey, peer::Peer, trust::TrustSource};

/// Certificates for further agents of a cluster, at `agents.<domain>`: the connection proves the cluster's credential,
/// which a token gave, and the CSR the new agent's key. An agent that was let in so lets no further one in.
///
/// The same key gets the same name again, so that a lost answer makes no second agent. The acceptor puts the connection's
/// `Verified<Peer>` into the request's extensions.
#[derive(Clone, Debug)]
pub struct ReplicaService {
    registrar: Arc<Registrar>,
    trust: TrustSource,
    most: usize,
}

impl ReplicaService {
    /// As [`RenewalService::new`](super::RenewalService::new), for at most `most` such agents of a cluster at a time.
    pub fn new(
        hierarchy: Arc<Hierarchy>,
        store: Arc<dyn EnrolmentStore>,
        publisher: Arc<dyn TrustPublisher>,
        audit: Arc<dyn EnrolmentAudit>,
        trust: TrustSource,
        most: usize,
    ) -> Self {
        Self { registrar: Arc::new(Registrar { hierarchy, store, publisher, audit }), trust, most }
    }

    async fn issue(
        &self,
        peer: Option<&Verified<Peer>>,
        asked: Result<RenewalRequest, EnrolmentRefusal>,
        known: &mut Known,
    ) -> Result<(EnrolmentAnswer, EnrolmentOutcome), Failure> {
        let Registrar { hierarchy, store, .. } = &*self.registrar;
        let peer = peer.ok_or(EnrolmentRefusal::NoCertificate)?;
        if self.trust.is_revoked(peer) {
            return Err(EnrolmentRefusal::Revoked.into());
        }
        let now = hierarchy.clock().now();
        // A connection may outlive its certificate.
        if peer.not_after <= now {
            return Err(EnrolmentRefusal::CertificateExpired.into());
        }
        let Subject::Agent { org, cluster, instance: let_in } = &peer.id.subject else {
            return Err(EnrolmentRefusal::Kind.into());
        };
        let csr = ValidCsr::from_pem(asked?.csr.as_bytes()).map_err(EnrolmentRefusal::Csr)?;
        let key = csr.key().id().clone();
        known.key = Some(key.clone());
        store.mark_used(&peer.spki).await?;
        let replica = Replica {
            org: org.clone(),
            cluster: cluster.clone(),
            instance: InstanceId::generate(),
            let_in: let_in.clone(),
            key,
            now,
            ends: now.checked_add(hierarchy.agent_life()).unwrap_or(peer.not_after),
        };
        let (instance, outcome) = match store.add_replica(&replica, self.most).await? {
            Admission::Admitted => (replica.instance, EnrolmentOutcome::Enrolled),
            Admission::Known(instance) => (instance, EnrolmentOutcome::Repeated),
            Admission::Full => return Err(EnrolmentRefusal::Replicas.into()),
            Admission::KeyBound => return Err(EnrolmentRefusal::KeyBound.into()),
            Admission::NotByToken => return Err(EnrolmentRefusal::NotByToken.into()),
        };
        let subject = Subject::Agent { org: replica.org, cluster: replica.cluster, instance };
        known.subject = Some(subject.clone());
        // The name may have been revoked since it was given.
        let id = SpiffeId { subject: subject.clone(), ..peer.id.clone() };
        let named =
            Peer { id, serial: String::new(), not_after: replica.ends, spki: replica.key, authorities: Vec::new() };
        if self.trust.is_revoked(&named) {
            return Err(EnrolmentRefusal::Revoked.into());
        }
        let issued = hierarchy.issue_subject(&csr, &subject).await?;
        Ok((self.registrar.answer(&subject, issued.pem()), outcome))
    }
}

/// How far it came, for the record.
#[derive(Debug, Default)]
struct Known {
    subject: Option<Subject>,
    key: Option<KeyId>,
}

impl<B> Service<Request<B>> for ReplicaService
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
            if let Err(status) = expect(&request, INSTANCES_PATH) {
                return Ok(status.into_response());
            }
            let (head, asked) = wire::read::<RenewalRequest, _>(request).await;
            let source = head.extensions.get::<IpAddr>().copied();
            let peer = head.extensions.get::<Verified<Peer>>();
            let mut known = Known::default();
            let done = service.issue(peer, asked, &mut known).await;
            let outcome = match &done {
                Ok((_, outcome)) => outcome.clone(),
                Err(failure) => failure.outcome(),
            };
            let asked_by = peer.map(|peer| peer.id.subject.clone());
            let subject = known.subject.or_else(|| asked_by.clone());
            let event = service.registrar.event(outcome, source);
            let event = EnrolmentEvent { subject, key: known.key, asked_by, ..event };
            Ok(service.registrar.recorded(&event, done.map(|(answer, _)| answer)).await)
        })
    }
}

/// Asks by `exchange`, which connects with the credential of the cluster's agent `of`, for a certificate over `key` for
/// another agent of that cluster. May be repeated with the same key.
///
/// # Errors
/// [`EnrolError`]; see [`EnrolError::is_final`].
pub async fn join_beside(
    of: &SpiffeId,
    key: &SoftwareKey,
    exchange: &dyn Exchange,
    provider: &Arc<CryptoProvider>,
    clock: &dyn Clock,
) -> Result<Enrolled, EnrolError> {
    let answer = ask(exchange, INSTANCES_PATH, &RenewalRequest { csr: key.csr_pem()? }).await?;
    let enrolled = accept(answer, key, provider, clock, None)?;
    let home = |id: &SpiffeId| match &id.subject {
        Subject::Agent { org, cluster, .. } => Some((id.trust_domain.clone(), org.clone(), cluster.clone())),
        _ => None,
    };
    if home(of).is_none() || home(of) != home(&enrolled.id) || enrolled.id == *of {
        return Err(EnrolError::Answer("the certificate is not for another agent of the same cluster"));
    }
    Ok(enrolled)
}
