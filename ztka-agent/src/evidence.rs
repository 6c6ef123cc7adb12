//! Who a request is from, as the evidence that a proxy handed over proves it: never what the proxy says.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, request::Parts};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use ztka_authz::Sessions;
use ztka_core::{
    AuditId, Caller, ClusterId, DocumentKind, Evidence, EvidenceId, Identity, OrgId, Principal, ProxyId, Reason,
    Revision, Session, SignedDocument, Subject, UserId, Verified,
};
use ztka_follow::Documents;
use ztka_pki::{Authenticator, NotAuthenticated, Peer, Purpose};

/// A certificate chain and a session document take a few kilobytes.
const MAX_BYTES: usize = 64 * 1024;
/// Users whose evidence is held at once; beyond it the one that ends first is forgotten.
const MAX_HELD: usize = 10_000;
/// All that is held takes no more than this; beyond it the largest is forgotten. A few kilobytes are enough for a user.
const MAX_HELD_BYTES: usize = 48 * 1024 * 1024;

static AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What a proxy sends before the first request of a user: `{"chain": [base64 DER], "session": document}`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    chain: Vec<String>,
    session: Box<RawValue>,
}

/// What was proven by evidence that is held.
#[derive(Debug)]
pub struct Witnessed {
    principal: Verified<Principal>,
    evidence: Evidence,
    peer: Verified<Peer>,
    revision: Revision,
    issued: Timestamp,
    until: Timestamp,
}

impl Witnessed {
    /// The same certificate with an older session document, which whoever has the newer one has no use for.
    fn is_before(&self, newer: &Self) -> bool {
        *self.peer == *newer.peer && (self.revision, self.issued) < (newer.revision, newer.issued)
    }
}

/// Checks evidence once, and remembers whom it proved until it expires or is revoked. Clones share what is known.
#[derive(Clone)]
pub struct Witness(Arc<Inner>);

struct Inner {
    org: OrgId,
    cluster: ClusterId,
    documents: Documents,
    held: Mutex<HashMap<EvidenceId, Arc<Witnessed>>>,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").field("cluster", &self.0.cluster).finish_non_exhaustive()
    }
}

fn unauthenticated(text: impl Into<String>) -> Reason {
    Reason::Unauthenticated(text.into())
}

impl Witness {
    /// The witness of `cluster`, which belongs to `org`; believes what `documents` believe.
    pub fn new(org: OrgId, cluster: ClusterId, documents: Documents) -> Self {
        Self(Arc::new(Inner { org, cluster, documents, held: Mutex::default() }))
    }

    /// The organisation that the cluster belongs to.
    pub(crate) fn org(&self) -> &OrgId {
        &self.0.org
    }

    /// Takes evidence that a proxy hands over under the name `claimed`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn admit(&self, claimed: &HeaderMap, bytes: bytes::Bytes) -> Result<(), Reason> {
        if bytes.len() > MAX_BYTES {
            return Err(unauthenticated("the evidence of who you are is larger than 64 KiB"));
        }
        let evidence = Evidence::new(bytes);
        if named(claimed).as_ref() != Some(evidence.id()) {
            return Err(unauthenticated("evidence of who you are, and its name, do not belong together"));
        }
        let witnessed = self.check(evidence)?;
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Sessions are signed again every hour. A proxy that is behind and still asks with the older one shows it again.
        held.retain(|_, other| !other.is_before(&witnessed));
        if held.len() >= MAX_HELD {
            let now = self.0.documents.clock().now();
            held.retain(|_, witnessed| now < witnessed.until);
            let first = held.iter().min_by_key(|(_, witnessed)| witnessed.until).map(|(id, _)| id.clone());
            if let Some(first) = first.filter(|_| held.len() >= MAX_HELD) {
                held.remove(&first);
            }
        }
        let size = |witnessed: &Witnessed| witnessed.evidence.bytes().len();
        let mut bytes = held.values().map(|held| size(held)).sum::<usize>() + size(&witnessed);
        while bytes > MAX_HELD_BYTES {
            let largest = held.iter().max_by_key(|(_, held)| size(held)).map(|(id, held)| (id.clone(), size(held)));
            let Some((largest, freed)) = largest else { break };
            held.remove(&largest);
            bytes = bytes.saturating_sub(freed);
        }
        held.insert(witnessed.evidence.id().clone(), Arc::new(witnessed));
        Ok(())
    }

    fn check(&self, evidence: Evidence) -> Result<Witnessed, Reason> {
        let wire: Wire = serde_json::from_slice(evidence.bytes())
            .map_err(|_| unauthenticated("the evidence of who you are cannot be read by the cluster's agent"))?;
        let decoded: Result<Vec<_>, _> = wire.chain.iter().map(|der| BASE64_STANDARD.decode(der)).collect();
        let decoded = decoded.map_err(|_| unauthenticated("the certificate chain in the evidence is not base64"))?;
        let chain: Vec<CertificateDer<'static>> = decoded.into_iter().map(CertificateDer::from).collect();
        let trust = self.0.documents.trust();
        let peer = trust
            .verify(Purpose::Users, &chain)
            .map_err(|error| unauthenticated(format!("the cluster's agent refused the certificate: {error}")))?;

        let document = SignedDocument::from_wire(wire.session.get().as_bytes());
        // Before it is kept: what is something else, or somebody else's, proves nothing here.
        if let Ok(document) = &document {
            let series = &document.header().series;
            if series.kind != DocumentKind::Session {
                return Err(unauthenticated("what is shown as a session document is something else; log in again"));
            }
            if series.org.as_ref() != Some(&self.0.org) {
                return Err(Reason::Misdirected("the session is of another organisation than the cluster"));
            }
        }
        let session = document.and_then(|document| self.0.documents.accept_shown(document));
        let session = session.map_err(|error| {
            unauthenticated(format!("the cluster's agent refused the session document: {error}; log in again"))
        })?;
        self.witnessed(evidence, peer, &session)
    }

    fn witnessed(
        &self,
        evidence: Evidence,
        peer: Verified<Peer>,
        document: &Verified<SignedDocument>,
    ) -> Result<Witnessed, Reason> {
        let header = document.header();
        let principal = principal(&peer, document)?;
        if *principal.org() != self.0.org {
            return Err(Reason::Misdirected("the certificate is of another organisation than the cluster"));
        }
        let until = peer.not_after.min(header.expires).min(principal.active_until());
        Ok(Witnessed { principal, evidence, peer, revision: header.revision, issued: header.issued, until })
    }

    /// False if `headers` name evidence that is not held.
    pub(crate) fn holds_of(&self, headers: &HeaderMap) -> bool {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        named(headers).is_none_or(|id| held.contains_key(&id))
    }

    /// Whose evidence a request with these headers refers to, if it is held.
    pub fn user_of(&self, headers: &HeaderMap) -> Option<UserId> {
        self.held(&named(headers)?).ok().map(|held| held.principal.user().clone())
    }

    /// What was proven by the evidence `id`, if it is held.
    pub(crate) fn held(&self, id: &EvidenceId) -> Result<Arc<Witnessed>, Reason> {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        held.ok_or_else(|| unauthenticated("the cluster's agent holds no evidence of who you are"))
    }

    /// Whether a request may be made with it now.
    fn current(&self, held: &Witnessed) -> Result<(), Reason> {
        self.unrevoked(held)?;
        if self.0.documents.clock().now() >= held.until {
            return Err(over());
        }
        if self.newest(held).is_some_and(|newest| newest.header().revision > held.revision) {
            return Err(Reason::NoPolicy(
                "the proxy shows the cluster's agent an older session than the newest; try again",
            ));
        }
        Ok(())
    }

    fn unrevoked(&self, held: &Witnessed) -> Result<(), Reason> {
        if self.0.documents.trust().is_revoked(&held.peer) {
            return Err(unauthenticated("your credential has been revoked; ask your administrator for a new one"));
        }
        Ok(())
    }

    fn newest(&self, held: &Witnessed) -> Option<Verified<SignedDocument>> {
        self.0.documents.session(held.principal.org(), held.principal.credential())
    }
}

impl Sessions for Witness {
    type Session = Arc<Witnessed>;

    const SERVER: &'static str = "the cluster's agent";

    fn session(&self, _: &Verified<Principal>, evidence: &Evidence) -> Result<Arc<Witnessed>, Reason> {
        self.held(evidence.id())
            .map_err(|_| Reason::NoPolicy("the cluster's agent no longer holds the evidence of who you are; try again"))
    }

    /// Session documents come with evidence alone. One that is not shown again, because the user asks for nothing else,
    /// is believed until it expires, which is a day at most; its streams end then.
    fn active(&self, held: &Arc<Witnessed>) -> Result<(Verified<Principal>, Timestamp), Reason> {
        self.unrevoked(held)?;
        let (who, until) = match self.newest(held) {
            Some(newest) => {
                let expires = newest.header().expires.min(held.peer.not_after);
                let who = match newest.header().revision == held.revision {
                    true => held.principal.clone(),
                    false => principal(&held.peer, &newest)?,
                };
                let until = expires.min(who.active_until());
                (who, until)
            }
            None => (held.principal.clone(), held.until),
        };
        if self.0.documents.clock().now() >= until { Err(over()) } else { Ok((who, until)) }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.documents.changes()
    }
}

/// The one whom certificate and session document are of.
fn principal(peer: &Verified<Peer>, document: &Verified<SignedDocument>) -> Result<Verified<Principal>, Reason> {
    let header = document.header();
    let unreadable = |_| unauthenticated("the session document cannot be read by the cluster's agent");
    let session: Session = document.body().map_err(unreadable)?;
    let Subject::User { org, user, credential } = &peer.id.subject else {
        return Err(unauthenticated("the certificate is not a user's"));
    };
    let same = header.series.kind == DocumentKind::Session
        && header.series.org.as_ref() == Some(org)
        && header.series.subject == credential.as_str()
        && (&session.user, &session.credential) == (user, credential);
    if !same {
        return Err(unauthenticated("certificate and session document are not of the same credential"));
    }
    Ok(Verified::assertion(Principal::new(org.clone(), session)))
}

fn over() -> Reason {
    unauthenticated("your session or certificate has ended; log in again")
}

fn named(headers: &HeaderMap) -> Option<EvidenceId> {
    headers.get(&ztka_core::EVIDENCE)?.to_str().ok().and_then(EvidenceId::parse)
}

fn parsed<T>(headers: &HeaderMap, name: &HeaderName, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    headers.get(name)?.to_str().ok().and_then(parse)
}

impl Authenticator for Witness {
    fn authenticate(&self, head: &Parts) -> Result<Identity, NotAuthenticated> {
        if head.extensions.get::<Verified<ProxyId>>().is_none() {
            return Err(unauthenticated("not from a verified proxy").into());
        }
        let id = named(&head.headers).ok_or_else(|| unauthenticated("no evidence of a user"))?;
        let witnessed = self.held(&id)?;
        // From here on it is known who asks, and a refusal is recorded as theirs.
        let theirs = |reason| NotAuthenticated::by(Caller::Principal(witnessed.principal.clone()), reason);
        self.current(&witnessed).map_err(theirs)?;
        let unnamed = |text: &str| theirs(unauthenticated(text));
        let record = parsed(&head.headers, &AUDIT_ID, AuditId::parse)
            .ok_or_else(|| unnamed("the proxy names no audit record of this request"))?;
        let policy = parsed(&head.headers, &ztka_core::POLICY, |text| text.parse::<Revision>().ok())
            .ok_or_else(|| unnamed("the proxy names no policy that allowed this request"))?;
        let source = parsed(&head.headers, &ztka_core::SOURCE, |text| text.parse().ok());
        Ok(Identity::new(witnessed.principal.clone(), self.0.cluster.clone(), witnessed.evidence.clone())
            .from_source(source)
            .recorded_as(record)
            .allowed_by(policy))
    }
}
