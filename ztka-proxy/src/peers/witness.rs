//! Who a request is from that another proxy passes on: by the user's certificate that it shows, and by the session documents
//! of this proxy. Never what the other proxy says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::Map};
use http::{HeaderMap, HeaderName, Request, StatusCode, request::Parts};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tower::{Layer, Service};
use ztka_authz::Sessions;
use ztka_core::{
    AuditId, Caller, ClusterId, DocumentKind, Evidence, EvidenceId, Identity, Principal, ProxyId, Reason, Rejected,
    Reply, Revision, SignedDocument, Subject, UserId, Verified,
};
use ztka_pki::{Authenticator, NotAuthenticated, Peer, Purpose};
use ztka_tunnel::{AUDIT_ID, UNKNOWN};

use crate::{Directory, directory::Known};

/// Users whose evidence is held at once; beyond it the one whose certificate ends first is forgotten.
const MAX_HELD: usize = 10_000;

/// As a proxy makes it for agents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    chain: Vec<String>,
    session: Box<RawValue>,
}

/// A user's certificate that was shown and verified.
#[derive(Debug)]
pub struct Shown {
    peer: Verified<Peer>,
    chain: Vec<CertificateDer<'static>>,
    /// What proves the user to the agent by the newest session that is known here.
    made: Mutex<Option<(Arc<Known>, Evidence)>>,
}

/// Checks the evidence that other proxies show once, and each request of theirs against what this proxy knows. Clones share what
/// is held.
#[derive(Clone, Debug)]
pub struct PeerWitness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Directory,
    held: Mutex<HashMap<EvidenceId, Arc<Shown>>>,
    /// Whose evidence for the agent it is.
    onward: Mutex<HashMap<EvidenceId, Weak<Shown>>>,
}

fn unauthenticated(text: impl Into<String>) -> Reason {
    Reason::Unauthenticated(text.into())
}

impl PeerWitness {
    /// Knows users from `directory`.
    pub fn new(directory: Directory) -> Self {
        Self(Arc::new(Inner { directory, held: Mutex::default(), onward: Mutex::default() }))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<EvidenceId, Arc<Shown>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes evidence that another proxy shows, with the headers that it came with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn admit(&self, headers: &HeaderMap, bytes: Bytes) -> Result<(), Reason> {
        let evidence = Evidence::new(bytes);
        if named(headers).as_ref() != Some(evidence.id()) {
            return Err(unauthenticated("evidence of who you are, and its name, do not belong together"));
        }
        let shown = Arc::new(self.check(&evidence)?);
        let mut held = self.held();
        if held.len() >= MAX_HELD {
            let first = held.iter().min_by_key(|(_, shown)| shown.peer.not_after).map(|(id, _)| id.clone());
            first.and_then(|first| held.remove(&first));
        }
        held.insert(evidence.id().clone(), shown);
        Ok(())
    }

    /// Whose evidence a request with these headers refers to, if it is held.
    pub fn user_of(&self, headers: &HeaderMap) -> Option<UserId> {
        match &self.held().get(&named(headers)?)?.peer.id.subject {
            Subject::User { user, .. } => Some(user.clone()),
            _ => None,
        }
    }

    fn check(&self, evidence: &Evidence) -> Result<Shown, Reason> {
        let unreadable =
            || unauthenticated("the evidence of who you are cannot be read by the proxy it was passed on to");
        let wire: Wire = serde_json::from_slice(evidence.bytes()).map_err(|_| unreadable())?;
        let decoded: Result<Vec<_>, _> = wire.chain.iter().map(|der| BASE64_STANDARD.decode(der)).collect();
        let chain: Vec<CertificateDer<'static>> =
            decoded.map_err(|_| unreadable())?.into_iter().map(CertificateDer::from).collect();
        let directory = &self.0.directory;
        let peer = directory.trust().verify(Purpose::Users, &chain).map_err(|error| {
            unauthenticated(format!("the proxy it was passed on to refused the certificate: {error}"))
        })?;
        let Subject::User { org, credential, .. } = &peer.id.subject else {
            return Err(unauthenticated("the certificate is not a user's"));
        };
        let document = SignedDocument::from_wire(wire.session.get().as_bytes());
        if let Ok(document) = &document {
            let series = &document.header().series;
            let same = series.kind == DocumentKind::Session
                && series.org.as_ref() == Some(org)
                && series.subject == credential.as_str();
            if !same {
                return Err(unauthenticated("certificate and session document are not of the same credential"));
            }
        }
        match document.and_then(|document| directory.accept_shown(document)) {
            // What is known here is newer, and counts.
            Ok(()) | Err(Rejected::Rollback) => Ok(Shown { peer, chain, made: Mutex::new(None) }),
            Err(error) => Err(unauthenticated(format!(
                "the proxy it was passed on to refused the session document: {error}; log in again"
            ))),
        }
    }

    /// The session in which the user of `shown` is now.
    fn session(&self, shown: &Shown) -> Result<Arc<Known>, Reason> {
        self.0.directory.session_of(&shown.peer)
    }

    /// What proves the user to the agent.
    fn evidence(&self, shown: &Arc<Shown>, known: &Arc<Known>) -> Evidence {
        let mut made = shown.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, evidence)) = made.as_ref()
            && Arc::ptr_eq(of, known)
        {
            return evidence.clone();
        }
        let evidence = known.evidence(&shown.chain);
        let mut onward = self.0.onward.lock().unwrap_or_else(PoisonError::into_inner);
        if onward.len() == onward.capacity() {
            onward.retain(|_, shown| shown.strong_count() > 0);
        }
        onward.insert(evidence.id().clone(), Arc::downgrade(shown));
        drop(onward);
        *made = Some((known.clone(), evidence.clone()));
        evidence
    }

    fn identity(&self, shown: &Arc<Shown>, known: &Arc<Known>, head: &Parts) -> Result<Identity, Reason> {
        let unnamed = |text: &str| unauthenticated(text);
        let from = head.extensions.get::<Verified<ProxyId>>().ok_or_else(|| unnamed("not from a verified proxy"))?;
        let cluster = head.extensions.get::<ClusterId>().ok_or_else(|| unnamed("no cluster is named"))?;
        if self.0.directory.engine().policy(known.principal.org())?.cluster(cluster).is_none() {
            return Err(Reason::Misdirected("there is no such cluster in your organisation"));
        }
        let record = parsed(&head.headers, &AUDIT_ID, AuditId::parse)
            .ok_or_else(|| unnamed("the other proxy names no audit record of this request"))?;
        let policy = parsed(&head.headers, &ztka_core::POLICY, |text| text.parse::<Revision>().ok())
            .ok_or_else(|| unnamed("the other proxy names no policy that allowed this request"))?;
        let source = parsed(&head.headers, &ztka_core::SOURCE, |text| text.parse().ok());
        Ok(Identity::new(known.principal.clone(), cluster.clone(), self.evidence(shown, known))
            .from_source(source)
            .recorded_as(record)
            .allowed_by(policy)
            .handed_on_by(ProxyId::clone(from)))
    }
}

fn named(headers: &HeaderMap) -> Option<EvidenceId> {
    parsed(headers, &ztka_core::EVIDENCE, EvidenceId::parse)
}

fn parsed<T>(headers: &HeaderMap, name: &HeaderName, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    headers.get(name)?.to_str().ok().and_then(parse)
}

impl Authenticator for PeerWitness {
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated> {
        let id = named(&head.headers).ok_or_else(|| unauthenticated("no evidence of a user"))?;
        let held = self.held().get(&id).cloned();
        let shown =
            held.ok_or_else(|| unauthenticated("the proxy it was passed on to holds no evidence of who you are"))?;
        // From here on it is known who asks, and a refusal is recorded as theirs.
        let known =
            self.session(&shown).map_err(|reason| NotAuthenticated::by(Peer::as_caller(&shown.peer), reason))?;
        let theirs = |reason| NotAuthenticated::by(Caller::Principal(known.principal.clone()), reason);
        self.identity(&shown, &known, head).map_err(theirs)
    }
}

impl Sessions for PeerWitness {
    type Session = Arc<Shown>;

    const SERVER: &'static str = "the proxy";

    fn session(&self, _: &Verified<Principal>, evidence: &Evidence) -> Result<Arc<Shown>, Reason> {
        let onward = self.0.onward.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = onward.get(evidence.id()).and_then(Weak::upgrade);
        shown.ok_or(Reason::NoPolicy("the proxy no longer holds the evidence of who you are; try again"))
    }

    fn active(&self, shown: &Arc<Shown>) -> Result<(Verified<Principal>, Timestamp), Reason> {
        let known = Self::session(self, shown)?;
        Ok((known.principal.clone(), known.principal.active_until().min(shown.peer.not_after)))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Sessions::changes(&self.0.directory)
    }
}

/// Says in the answer to a request that names evidence which is not held (any more) that it is not, for the other proxy to show
/// it again.
#[derive(Clone, Debug)]
pub struct PeerEvidenceLayer(PeerWitness);

impl PeerEvidenceLayer {
    /// Asks `witness` what is held.
    pub fn new(witness: PeerWitness) -> Self {
        Self(witness)
    }
}

impl<S> Layer<S> for PeerEvidenceLayer {
    type Service = PeerEvidence<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PeerEvidence { inner, witness: self.0.clone() }
    }
}

/// Service made by [`PeerEvidenceLayer`].
#[derive(Clone, Debug)]
pub struct PeerEvidence<S> {
    inner: S,
    witness: PeerWitness,
}

fn unknown<E>(outcome: Result<Reply, E>) -> Result<Reply, E> {
    outcome.map(|reply| match reply {
        Reply::Response(mut response) if response.status() == StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(&ztka_core::EVIDENCE, UNKNOWN.clone());
            Reply::Response(response)
        }
        reply => reply,
    })
}

impl<S, B> Service<Request<B>> for PeerEvidence<S>
where
    S: Service<Request<B>, Response = Reply>,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Map<S::Future, fn(Result<Reply, S::Error>) -> Result<Reply, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let held = named(request.headers()).is_none_or(|id| self.witness.held().contains_key(&id));
        let mark: fn(Result<Reply, S::Error>) -> _ = if held { |outcome| outcome } else { unknown };
        self.inner.call(request).map(mark)
    }
}
