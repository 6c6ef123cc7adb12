//! Answers `POST /v1/enrol`: a token and a CSR become a certificate.

use std::{
    convert::Infallible,
    fmt,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use serde_json::value::RawValue;
use tower::Service;
use ztka_core::{Body, BoxError, InstanceId, KeyId, SignedDocument, SpiffeId, Status, Subject};

use super::{
    event::{EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal},
    store::{Enrollee, EnrolmentStore, Spent, StoreError, Verdict},
    token::{EnrolmentToken, TokenId},
    wire::{self, ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, WaitingAnswer},
};
use crate::{authority::IssueError, csr::ValidCsr, hierarchy::Hierarchy, trust::TrustBundle};

/// Whom new members are told to trust.
#[derive(Clone, Debug)]
pub struct Published {
    /// The body of the `trust` document.
    pub bundle: TrustBundle,
    /// The document, once it has been signed.
    pub document: Option<SignedDocument>,
}

/// Knows the `trust` document in force.
pub trait TrustPublisher: Send + Sync + fmt::Debug {
    /// What is in force now; returns at once.
    fn published(&self) -> Published;
}

impl TrustPublisher for Hierarchy {
    fn published(&self) -> Published {
        Published { bundle: self.trust_bundle(), document: None }
    }
}

/// What a key that waits for approval is told to let pass before it asks again.
const ASK_AGAIN_SECONDS: u32 = 5;

/// Why no certificate was made: the other side's fault, or ours, or it is not time yet.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(EnrolmentRefusal),
    /// An administrator has not decided yet; `first` if this request has spent the token.
    Waiting {
        key: KeyId,
        first: bool,
    },
    Store(StoreError),
    Issue(IssueError),
}

impl From<EnrolmentRefusal> for Failure {
    fn from(refusal: EnrolmentRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        Self::Issue(error)
    }
}

impl Failure {
    pub(super) fn outcome(&self) -> EnrolmentOutcome {
        let failed = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            EnrolmentOutcome::Failed(format!("{error}{cause}"))
        };
        match self {
            Self::Refused(refusal) => EnrolmentOutcome::Refused(refusal.clone()),
            Self::Waiting { .. } => EnrolmentOutcome::Waiting,
            Self::Store(error) => failed(error),
            Self::Issue(error) => failed(error),
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        match self {
            Self::Refused(refusal) => refusal.status().into_response(),
            Self::Waiting { key, .. } => {
                let message = format!("an administrator has to approve the key {}; ask again with it", key.0);
                WaitingAnswer { message, key, retry_after_seconds: ASK_AGAIN_SECONDS }.into_response()
            }
            // What is broken here is in our record, not in the answer.
            Self::Store(_) | Self::Issue(_) => {
                let message = "no certificate can be issued now; try again, and see the controller's log";
                Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(5).into_response()
            }
        }
    }
}

/// What enrolment and renewal share.
#[derive(Debug)]
pub(super) struct Registrar {
    pub(super) hierarchy: Arc<Hierarchy>,
    pub(super) store: Arc<dyn EnrolmentStore>,
    pub(super) publisher: Arc<dyn TrustPublisher>,
    pub(super) audit: Arc<dyn EnrolmentAudit>,
}

impl Registrar {
    pub(super) fn answer(&self, subject: &Subject, chain: String) -> EnrolmentAnswer {
        let trust_domain = self.hierarchy.names().trust_domain.clone();
        let Published { bundle, document } = self.publisher.published();
        let document = document.and_then(|document| {
            let wire = String::from_utf8(document.to_wire()).ok()?;
            RawValue::from_string(wire).ok()
        });
        let id = SpiffeId { trust_domain, subject: subject.clone() }.to_string();
        EnrolmentAnswer { id, chain, trust: bundle, document }
    }

    pub(super) fn event(&self, outcome: EnrolmentOutcome, source: Option<IpAddr>) -> EnrolmentEvent {
        let at = self.hierarchy.clock().now();
        EnrolmentEvent { at, outcome, token: None, subject: None, asked_by: None, key: None, source }
    }

    /// The answer, once `event` is on record; what cannot be recorded is refused, with a certificate that nobody has.
    pub(super) async fn recorded(
        &self,
        event: &EnrolmentEvent,
        done: Result<EnrolmentAnswer, Failure>,
    ) -> Response<Body> {
        let recorded = match &done {
            Err(Failure::Waiting { first: false, .. }) => Ok(()),
            _ => self.audit.record(event).await,
        };
        let done = match recorded {
            Ok(()) => done,
            Err(error) => done.and(Err(error.into())),
        };
        done.map_or_else(Failure::into_response, EnrolmentAnswer::into_response)
    }
}

/// 404 and 405 for anything but `POST path`.
pub(super) fn expect<B>(request: &Request<B>, path: &str) -> Result<(), Status> {
    if request.uri().path() != path {
        return Err(Status::new(StatusCode::NOT_FOUND, format!("only {path} is served here")));
    }
    if request.method() != Method::POST {
        return Err(Status::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes POST only")));
    }
    Ok(())
}

/// Enrolment at `enroll.<domain>`: no client certificate, a one-time token inside the request.
///
/// The first key to spend a token owns it. The same key gets the same answer again until it has connected with the
/// certificate ([`EnrolmentStore::mark_used`]), so that a lost answer locks nobody out; every other key is refused.
/// Where a token asks for approval, that key is answered 202 until an administrator has decided
/// ([`EnrolmentStore::decide`]), which has to be while the token lives.
/// A dropped future does not end what has begun: the token stays with the key that spent it, and that is recorded.
/// Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct EnrolmentService(Arc<Registrar>);

impl EnrolmentService {
    /// Issues from `hierarchy`, remembers in `store`, tells newcomers what `publisher` knows, and reports to `audit`.
    pub fn new(
        hierarchy: Arc<Hierarchy>,
        store: Arc<dyn EnrolmentStore>,
        publisher: Arc<dyn TrustPublisher>,
        audit: Arc<dyn EnrolmentAudit>,
    ) -> Self {
        Self(Arc::new(Registrar { hierarchy, store, publisher, audit }))
    }
}

impl<B> Service<Request<B>> for EnrolmentService
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
        let registrar = self.0.clone();
        Box::pin(async move {
            if let Err(status) = expect(&request, ENROL_PATH) {
                return Ok(status.into_response());
            }
            let (head, asked) = wire::read::<EnrolmentRequest, _>(request).await;
            let source = head.extensions.get::<IpAddr>().copied();
            // Whoever shows a token is on record, also if they do not wait for the answer.
            let work = tokio::spawn(async move {
                let mut known = Known::default();
                let done = match asked {
                    Ok(asked) => registrar.enrol(asked, source, &mut known).await,
                    Err(refusal) => Err(refusal.into()),
                };
                let outcome = match &done {
                    Ok((_, outcome)) => outcome.clone(),
                    Err(failure) => failure.outcome(),
                };
                let event = registrar.event(outcome, source);
                let event = EnrolmentEvent { token: known.token, subject: known.subject, key: known.key, ..event };
                registrar.recorded(&event, done.map(|(answer, _)| answer)).await
            });
            Ok(work.await.unwrap_or_else(|error| Failure::from(StoreError::new(error)).into_response()))
        })
    }
}

/// How far an enrolment came, for the record.
#[derive(Debug, Default)]
struct Known {
    token: Option<TokenId>,
    subject: Option<Subject>,
    key: Option<KeyId>,
}

impl Registrar {
    async fn enrol(
        &self,
        asked: EnrolmentRequest,
        source: Option<IpAddr>,
        known: &mut Known,
    ) -> Result<(EnrolmentAnswer, EnrolmentOutcome), Failure> {
        let token: EnrolmentToken = asked.token.parse().map_err(|_| EnrolmentRefusal::Token)?;
        known.token = Some(token.id().clone());
        let record = self.store.token(token.id()).await?;
        // Unknown and wrong are one answer: an id alone tells nothing.
        let record = record.filter(|record| token.is_of(record)).ok_or(EnrolmentRefusal::Token)?;
        let subject = match record.enrollee.clone() {
            Enrollee::Agent { org, cluster } => Subject::Agent { org, cluster, instance: InstanceId::generate() },
            Enrollee::Proxy { proxy } => Subject::Proxy(proxy),
        };
        // From here on a refusal is on record with those whose token it is.
        known.subject = Some(subject.clone());
        let now = self.hierarchy.clock().now();
        // First of all: from elsewhere, nothing is told of a token, not even that it is over.
        if !record.is_for(source) {
            return Err(EnrolmentRefusal::Source.into());
        }
        if record.revoked.is_some() {
            return Err(EnrolmentRefusal::TokenRevoked.into());
        }
        if record.expires <= now {
            return Err(EnrolmentRefusal::Expired.into());
        }
        let csr = ValidCsr::from_pem(asked.csr.as_bytes()).map_err(EnrolmentRefusal::Csr)?;
        let key = csr.key().id().clone();
        known.key = Some(key.clone());
        let mine = Spent { key: key.clone(), subject, at: now, chain: None, used: false };
        let spent = self.store.spend(token.id(), mine.clone()).await?.ok_or(EnrolmentRefusal::Token)?;
        known.subject = Some(spent.subject.clone());
        if spent.key != key {
            return Err(EnrolmentRefusal::OtherKey.into());
        }
        if spent.used {
            return Err(EnrolmentRefusal::Used.into());
        }
        if record.approval {
            match record.verdict {
                Some(Verdict::Approved) => {}
                Some(Verdict::Refused) => return Err(EnrolmentRefusal::Rejected.into()),
                // A store keeps no less than microseconds.
                None => {
                    let at = |spent: &Spent| spent.at.as_microsecond();
                    let first = spent.subject == mine.subject && at(&spent) == at(&mine);
                    return Err(Failure::Waiting { key, first });
                }
            }
        }
        if !self.store.bind_key(&key, &spent.subject).await? {
            return Err(EnrolmentRefusal::KeyBound.into());
        }
        if let Some(chain) = spent.chain {
            return Ok((self.answer(&spent.subject, chain), EnrolmentOutcome::Repeated));
        }
        let issued = self.hierarchy.issue_subject(&csr, &spent.subject).await?.pem();
        let kept = self.store.keep_answer(token.id(), issued.clone()).await?;
        let outcome = if kept == issued { EnrolmentOutcome::Enrolled } else { EnrolmentOutcome::Repeated };
        Ok((self.answer(&spent.subject, kept), outcome))
    }
}
