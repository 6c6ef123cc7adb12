//! Enrolment and renewal, wired to the stores: who enrols is written down before it gets its certificate.
mod refusals;
mod seen;

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use axum::{Router, routing::post_service};
use jiff::Timestamp;
use ztka_audit::{Event, ResponseStatus, Stage};
use ztka_core::{AuditId, Clock, KeyId, OrgId, Subject};
use ztka_pki::{
    Admission, ENROL_PATH, Enrollee, EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal,
    EnrolmentService, EnrolmentStore, INSTANCES_PATH, Lifetimes, Peer, Published, RENEW_PATH, RenewalService, Replica,
    ReplicaService, Spent, StoreError, TokenId, TokenRecord, TrustPublisher, Verdict,
};

pub(crate) use self::{refusals::Refusals, seen::SeenKeys};
use crate::{
    Controller,
    authority::Authorities,
    store::{Instance, ResourceStore},
};

/// Notes each agent and proxy whose key is bound, so that they are known (and can be revoked) before they can connect.
#[derive(Debug)]
struct Recording {
    inner: Arc<dyn EnrolmentStore>,
    resources: Arc<dyn ResourceStore>,
    authorities: Authorities,
    lifetimes: Lifetimes,
    clock: Arc<dyn Clock>,
}

impl Recording {
    /// Another controller may have made the organisation since this one was started.
    async fn open(&self, org: &OrgId) -> Result<(), StoreError> {
        self.authorities.ensure_org(org).await.map_err(StoreError::new)
    }
}

#[async_trait]
impl EnrolmentStore for Recording {
    async fn add_token(&self, record: TokenRecord) -> Result<(), StoreError> {
        self.inner.add_token(record).await
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let record = self.inner.token(id).await?;
        if let Some(Enrollee::Agent { org, .. }) = record.as_ref().map(|record| &record.enrollee) {
            self.open(org).await?;
        }
        Ok(record)
    }

    async fn tokens(&self, enrollee: &Enrollee) -> Result<Vec<TokenRecord>, StoreError> {
        self.inner.tokens(enrollee).await
    }

    async fn revoke_token(&self, id: &TokenId, at: Timestamp) -> Result<bool, StoreError> {
        self.inner.revoke_token(id, at).await
    }

    async fn decide(&self, id: &TokenId, key: &KeyId, verdict: Verdict) -> Result<Option<Verdict>, StoreError> {
        self.inner.decide(id, key, verdict).await
    }

    async fn spend(&self, id: &TokenId, spent: Spent) -> Result<Option<Spent>, StoreError> {
        self.inner.spend(id, spent).await
    }

    async fn keep_answer(&self, id: &TokenId, chain: String) -> Result<String, StoreError> {
        self.inner.keep_answer(id, chain).await
    }

    async fn mark_used(&self, key: &KeyId) -> Result<(), StoreError> {
        self.inner.mark_used(key).await
    }

    async fn add_replica(&self, replica: &Replica, most: usize) -> Result<Admission, StoreError> {
        self.open(&replica.org).await?;
        let admission = self.inner.add_replica(replica, most).await?;
        let instance = match &admission {
            Admission::Admitted => &replica.instance,
            Admission::Known(instance) => instance,
            Admission::Full | Admission::KeyBound | Admission::NotByToken => return Ok(admission),
        };
        self.note(&Replica { instance: instance.clone(), ..replica.clone() }.subject()).await?;
        Ok(admission)
    }

    async fn bind_key(&self, key: &KeyId, subject: &Subject) -> Result<bool, StoreError> {
        if !self.inner.bind_key(key, subject).await? {
            return Ok(false);
        }
        self.note(subject).await?;
        Ok(true)
    }
}

impl Recording {
    async fn note(&self, subject: &Subject) -> Result<(), StoreError> {
        let until = |life| self.clock.now().checked_add(life).unwrap_or(Timestamp::MAX);
        let recorded = match subject {
            Subject::Agent { org, cluster, instance } => {
                self.open(org).await?;
                let instance = Instance {
                    id: instance.clone(),
                    org: org.clone(),
                    cluster: cluster.clone(),
                    not_after: until(self.lifetimes.agent),
                    renewed: Some(self.clock.now()),
                };
                self.resources.record_instance(&instance).await
            }
            Subject::Proxy(proxy) => {
                let (now, until) = (self.clock.now(), until(self.lifetimes.proxy));
                self.resources.record_proxy(proxy, now, until).await
            }
            Subject::User { .. } | Subject::Controller(_) => Ok(()),
        };
        recorded.map_err(StoreError::new)
    }
}

impl TrustPublisher for Controller {
    fn published(&self) -> Published {
        let document = self.0.trust_document.read().unwrap_or_else(PoisonError::into_inner).clone();
        Published { bundle: self.hierarchy().trust_bundle(), document }
    }
}

#[async_trait]
impl EnrolmentAudit for Controller {
    async fn record(&self, enrolment: &EnrolmentEvent) -> Result<(), StoreError> {
        self.0.counts.enrolment(&enrolment.outcome);
        let mut event = record(enrolment);
        if enrolment.subject.is_some() {
            return self.0.journal.record(event).await.map_err(StoreError::new);
        }
        // Anybody can send these, as many as they like.
        if let Some(left_out) = self.0.strangers.admit(enrolment.source, enrolment.at) {
            if left_out > 0 {
                event.annotations.set("suppressed", left_out.to_string());
            }
            self.0.journal.note(event);
        }
        Ok(())
    }
}

fn org_of(subject: Option<&Subject>) -> OrgId {
    match subject {
        Some(Subject::Agent { org, .. } | Subject::User { org, .. }) => org.clone(),
        Some(Subject::Proxy(_) | Subject::Controller(_)) | None => OrgId::installation(),
    }
}

fn record(enrolment: &EnrolmentEvent) -> Event {
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, enrolment.at);
    // Who renews has a name and no token, or nothing at all and is told so; everything else came to enrol.
    let unknown = matches!(enrolment.outcome, EnrolmentOutcome::Refused(EnrolmentRefusal::NoCertificate));
    let renewal = enrolment.token.is_none() && (enrolment.subject.is_some() || unknown);
    let (verb, path) = match (&enrolment.asked_by, renewal) {
        (Some(_), _) => ("enrol", INSTANCES_PATH),
        (None, true) => ("renew", RENEW_PATH),
        (None, false) => ("enrol", ENROL_PATH),
    };
    (event.verb, event.request_uri) = (verb.into(), path.into());
    event.source_ips.extend(enrolment.source);
    event.annotations.set("org", org_of(enrolment.subject.as_ref()).as_str());
    if let Some(subject) = &enrolment.subject {
        event.user.username = enrolment.asked_by.as_ref().unwrap_or(subject).to_string();
        if let Subject::Agent { cluster, instance, .. } = subject {
            event.annotations.set("cluster", cluster.as_str());
            if enrolment.asked_by.as_ref().is_some_and(|by| by != subject) {
                event.annotations.set("instance", instance.as_str());
            }
        }
    }
    if let Some(token) = &enrolment.token {
        event.annotations.set("token", token.as_str());
    }
    if let Some(key) = &enrolment.key {
        event.annotations.set("key", key.0.as_str());
    }
    let (code, decision, reason) = match &enrolment.outcome {
        EnrolmentOutcome::Enrolled | EnrolmentOutcome::Repeated | EnrolmentOutcome::Renewed => {
            (http::StatusCode::OK, "allow", None)
        }
        EnrolmentOutcome::Waiting => {
            let reason = "an administrator has to approve the key".to_owned();
            (http::StatusCode::ACCEPTED, "deny", Some(reason))
        }
        EnrolmentOutcome::Refused(refusal) => (http::StatusCode::FORBIDDEN, "deny", Some(refusal.to_string())),
        EnrolmentOutcome::Failed(why) => (http::StatusCode::SERVICE_UNAVAILABLE, "deny", Some(why.clone())),
    };
    event.response_status = Some(ResponseStatus::from(code));
    event.annotations.set("decision", decision);
    if let Some(reason) = reason {
        event.annotations.set("reason", reason);
    }
    event
}

impl Controller {
    fn enrolment_store(&self) -> Arc<dyn EnrolmentStore> {
        Arc::new(Recording {
            inner: self.0.stores.enrolment.clone(),
            resources: self.0.stores.resources.clone(),
            authorities: self.0.authorities.clone(),
            lifetimes: self.0.settings.lifetimes,
            clock: self.0.clock.clone(),
        })
    }

    /// `POST /v1/enrol`, for `enroll.<domain>`: no client certificate, a one-time token inside.
    pub fn enrol(&self) -> Router {
        let (store, this) = (self.enrolment_store(), Arc::new(self.clone()));
        let service = EnrolmentService::new(self.hierarchy().clone(), store, this.clone(), this);
        Router::new().route(ENROL_PATH, post_service(service))
    }

    /// `POST /v1/renew`, for members with a certificate.
    pub(crate) fn renewal(&self) -> RenewalService {
        let (store, this) = (self.enrolment_store(), Arc::new(self.clone()));
        RenewalService::new(self.hierarchy().clone(), store, this.clone(), this, self.0.trust.clone())
    }

    /// `POST /v1/instances`, for agents with the credential of their cluster.
    pub(crate) fn replicas(&self) -> ReplicaService {
        let (store, this) = (self.enrolment_store(), Arc::new(self.clone()));
        let (trust, most) = (self.0.trust.clone(), self.0.settings.replicas);
        ReplicaService::new(self.hierarchy().clone(), store, this.clone(), this, trust, most)
    }

    /// Notes that `peer` has connected with its certificate: its token's answer is not given again.
    pub(crate) async fn connected(&self, peer: &Peer) {
        if self.0.seen_keys.contains(&peer.spki) {
            return;
        }
        match self.0.stores.enrolment.mark_used(&peer.spki).await {
            Ok(()) => self.0.seen_keys.insert(peer.spki.clone(), peer.not_after, self.now()),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a first connection is not noted");
                self.0.counts.store_failed();
            }
        }
    }
}
