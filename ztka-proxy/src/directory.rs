//! Who may ask: the session of a credential, as the signed documents that this proxy follows state it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use ztka_authz::{Engine, Sessions};
use ztka_core::{
    Clock, CredentialId, Evidence, OrgId, Principal, Reason, Rejected, Revision, SignedDocument, Subject, UserId,
    Verified,
};
use ztka_follow::Documents;
use ztka_pki::{Peer, TrustSource};

/// The session of one credential as its document states it.
#[derive(Debug)]
pub struct Known {
    pub(crate) principal: Verified<Principal>,
    document: Verified<SignedDocument>,
    /// Nothing has changed since this many changes of documents.
    seen: AtomicU64,
}

impl Known {
    fn read(document: Verified<SignedDocument>, org: &OrgId) -> Result<Self, Rejected> {
        let session = Documents::read_session(&document)?;
        if session.credential.as_str() != document.header().series.subject {
            return Err(Rejected::Unreadable);
        }
        Ok(Self {
            principal: Verified::assertion(Principal::new(org.clone(), session)),
            document,
            seen: AtomicU64::new(0),
        })
    }

    /// `{"chain": [base64 DER, …], "session": the document}`.
    pub(crate) fn evidence(&self, chain: &[CertificateDer<'_>]) -> Evidence {
        let mut json = String::from("{\"chain\":[");
        for (index, certificate) in chain.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(json, "{comma}\"{}\"", BASE64_STANDARD.encode(certificate));
        }
        json.push_str("],\"session\":");
        json.push_str(&String::from_utf8_lossy(&self.document.to_wire())); // JSON that we serialised: UTF-8
        json.push('}');
        Evidence::new(json)
    }
}

fn place(document: &SignedDocument) -> (Revision, Timestamp) {
    (document.header().revision, document.header().issued)
}

/// Sessions, trust and policy as this proxy knows them. A handle: clones share what is known.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    documents: Documents,
    changes: watch::Receiver<u64>,
    /// What somebody has in use of what was read. By organisation too: an id is only as good as who has issued it.
    known: Mutex<HashMap<(OrgId, CredentialId), Weak<Known>>>,
    synced: AtomicBool,
    login: String,
}

impl Directory {
    /// Knows what is in `documents`. `login` tells users what to do without a session, as in `log in at https://…`.
    pub fn new(documents: Documents, login: impl Into<String>) -> Self {
        let (changes, synced, login) = (documents.changes(), AtomicBool::new(false), login.into());
        Self(Arc::new(Shared { documents, changes, known: Mutex::default(), synced, login }))
    }

    /// Trust and revocations.
    pub fn trust(&self) -> &TrustSource {
        self.0.documents.trust()
    }

    /// Policy.
    pub fn engine(&self) -> &Engine {
        self.0.documents.engine()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &**self.0.documents.clock()
    }

    /// What a user without a session is to do.
    pub(crate) fn login(&self) -> &str {
        &self.0.login
    }

    /// Everything that there was has been heard once: who is unknown from now on has no session. Called at each bookmark
    /// of the [`Follower`](ztka_follow::Follower).
    pub fn set_synced(&self) {
        self.0.synced.store(true, Relaxed);
    }

    /// True once everything that there was has been heard: this proxy is ready to serve.
    pub fn is_synced(&self) -> bool {
        self.0.synced.load(Relaxed)
    }

    /// The session of a credential, if it is active. What is in use somewhere is not read again before something has
    /// changed.
    ///
    /// # Errors
    /// The reason as the user is to see it.
    pub(crate) fn session(&self, org: &OrgId, user: &UserId, credential: &CredentialId) -> Result<Arc<Known>, Reason> {
        let (now, login) = (self.clock().now(), self.login());
        let unauthenticated = |what: String| Err(Reason::Unauthenticated(format!("{what}: {login}")));
        let Some(known) = self.known(org, credential) else {
            // Without a policy, or before the first list, it is us who know too little.
            self.engine().policy(org)?;
            return match self.is_synced() {
                true => unauthenticated("there is no login session for this credential".into()),
                false => {
                    Err(Reason::NoPolicy("this proxy has not heard all from its controller yet; try again shortly"))
                }
            };
        };
        let principal = &known.principal;
        if principal.user() != user {
            return unauthenticated("the session of this credential is another user's".into());
        }
        if principal.active_until() <= now {
            return unauthenticated(format!("your login session ended at {}", principal.active_until()));
        }
        Ok(known)
    }

    /// The session of the user that `peer` is, whose certificate may be over or revoked by now.
    ///
    /// # Errors
    /// The reason as the user is to see it.
    pub(crate) fn session_of(&self, peer: &Peer) -> Result<Arc<Known>, Reason> {
        let login = self.login();
        let unauthenticated = |what: &str| Err(Reason::Unauthenticated(format!("{what}: {login}")));
        let Subject::User { org, user, credential } = &peer.id.subject else {
            return unauthenticated("the client certificate is not a user's");
        };
        if peer.not_after <= self.clock().now() {
            return unauthenticated("the client certificate has expired");
        }
        if self.trust().is_revoked(peer) {
            return unauthenticated("this credential is revoked or its user is disabled");
        }
        self.session(org, user, credential)
    }

    /// Takes a session document that somebody has shown, if it is news.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn accept_shown(&self, document: SignedDocument) -> Result<(), Rejected> {
        self.0.documents.accept_shown(document).map(drop)
    }

    fn known(&self, org: &OrgId, credential: &CredentialId) -> Option<Arc<Known>> {
        let changes = *self.0.changes.borrow(); // read first: what comes meanwhile is looked at the next time
        let name = (org.clone(), credential.clone());
        let held = self.lock().get(&name).and_then(Weak::upgrade);
        if let Some(held) = &held
            && held.seen.load(Relaxed) == changes
            && self.clock().now() < held.document.header().expires
        {
            return Some(held.clone());
        }
        let document = self.0.documents.session(org, credential)?;
        let known = match held {
            Some(held) if place(&held.document) == place(&document) => held,
            _ => {
                let read = Known::read(document, org).inspect_err(|error| {
                    tracing::error!(%error, %credential, "a session document cannot be used");
                });
                let known = Arc::new(read.ok()?);
                let mut all = self.lock();
                if all.len() == all.capacity() {
                    all.retain(|_, known| known.strong_count() > 0);
                }
                all.insert(name, Arc::downgrade(&known));
                known
            }
        };
        known.seen.store(changes, Relaxed);
        Some(known)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(OrgId, CredentialId), Weak<Known>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions for Directory {
    type Session = Arc<Known>;

    const SERVER: &'static str = "the proxy";

    fn session(&self, who: &Verified<Principal>, _: &Evidence) -> Result<Arc<Known>, Reason> {
        Self::session(self, who.org(), who.user(), who.credential())
    }

    fn active(&self, session: &Arc<Known>) -> Result<(Verified<Principal>, Timestamp), Reason> {
        let was = &session.principal;
        let is = Self::session(self, was.org(), was.user(), was.credential())?;
        Ok((is.principal.clone(), is.principal.active_until()))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.documents.changes()
    }
}
