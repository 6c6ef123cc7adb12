//! What this proxy knows from signed documents: sessions, and through it trust and policy.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use ztka_authz::{Engine, PolicyError};
use ztka_core::{
    Clock, CredentialId, DocumentKind, Evidence, OrgId, Principal, Reason, Rejected, Session, SignedDocument, UserId,
    Verified,
};
use ztka_pki::{BadBundle, Revocations, TrustBundle, TrustSource};

/// The session of one credential as its document states it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) principal: Verified<Principal>,
    expires: Timestamp,
    wire: Vec<u8>,
}

impl Known {
    /// `{"chain": [base64 DER, …], "session": the document}`.
    pub(crate) fn evidence(&self, chain: &[CertificateDer<'_>]) -> Evidence {
        let mut json = String::from("{\"chain\":[");
        for (index, certificate) in chain.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(json, "{comma}\"{}\"", BASE64_STANDARD.encode(certificate));
        }
        json.push_str("],\"session\":");
        json.push_str(&String::from_utf8_lossy(&self.wire)); // JSON that we serialised: UTF-8
        json.push('}');
        Evidence::new(json)
    }
}

/// A document that was accepted and yet means nothing to us.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Unusable {
    #[error("the body of the document is not of its kind; are controller and proxy of neighbouring versions?")]
    Body(#[source] Rejected),
    #[error("the session is not the one that its document is about")]
    Subject,
    #[error("the trust document has an unusable anchor")]
    Trust(#[source] BadBundle),
    #[error("the policy cannot be used; its organisation is closed until a usable one comes")]
    Policy(#[source] PolicyError),
}

/// Sessions by credential, with trust and policy beside them. A handle: clones share what is known.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sessions: RwLock<HashMap<CredentialId, Arc<Known>>>,
    trust: TrustSource,
    engine: Engine,
    clock: Arc<dyn Clock>,
    synced: AtomicBool,
    changes: watch::Sender<u64>,
    login: String,
}

impl Directory {
    /// Knows nobody yet. `login` tells users what to do without a session, as in `log in at https://…`.
    pub fn new(trust: TrustSource, engine: Engine, clock: Arc<dyn Clock>, login: impl Into<String>) -> Self {
        let (sessions, synced) = (RwLock::default(), AtomicBool::new(false));
        let (changes, login) = (watch::Sender::new(0), login.into());
        Self(Arc::new(Shared { sessions, trust, engine, clock, synced, changes, login }))
    }

    /// Trust and revocations.
    pub fn trust(&self) -> &TrustSource {
        &self.0.trust
    }

    /// Policy.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// What a user without a session is to do.
    pub(crate) fn login(&self) -> &str {
        &self.0.login
    }

    /// Puts a document in force. The caller has it accepted as the newest of its series.
    ///
    /// # Errors
    /// [`Unusable`]; a policy that cannot be used closes its organisation, anything else stays as it was.
    pub fn apply(&self, document: &Verified<SignedDocument>) -> Result<(), Unusable> {
        let series = &document.header().series;
        match series.kind {
            DocumentKind::Trust => {
                let bundle: TrustBundle = document.body().map_err(Unusable::Body)?;
                self.0.trust.set_bundle(bundle).map_err(Unusable::Trust)?;
            }
            DocumentKind::Policy => {
                let applied = self.0.engine.apply(document);
                self.changed();
                applied.map_err(Unusable::Policy)?;
                return Ok(());
            }
            DocumentKind::Session => self.session_document(document)?,
            DocumentKind::Revocations => {
                let revocations: Revocations = document.body().map_err(Unusable::Body)?;
                self.0.trust.set_revocations(series.org.clone(), revocations);
            }
            DocumentKind::Head => return Ok(()),
        }
        self.changed();
        Ok(())
    }

    /// Everything that there was has been heard once: who is unknown from now on has no session.
    pub fn set_synced(&self) {
        self.0.synced.store(true, Relaxed);
    }

    /// True once everything that there was has been heard.
    pub fn is_synced(&self) -> bool {
        self.0.synced.load(Relaxed)
    }

    /// Wakes at each change of anything known here.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Forgets sessions whose documents have expired.
    pub fn forget_expired(&self) {
        let now = self.0.clock.now();
        let mut sessions = self.0.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, known| now < known.expires);
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn session_document(&self, document: &Verified<SignedDocument>) -> Result<(), Unusable> {
        let header = document.header();
        let session: Session = document.body().map_err(Unusable::Body)?;
        let org = header.series.org.clone().ok_or(Unusable::Subject)?;
        if session.credential.as_str() != header.series.subject {
            return Err(Unusable::Subject);
        }
        let credential = session.credential.clone();
        let principal = Verified::assertion(Principal::new(org, session));
        let known = Arc::new(Known { principal, expires: header.expires, wire: document.to_wire() });
        self.0.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(credential, known);
        Ok(())
    }

    /// The session of a credential, if it is active.
    ///
    /// # Errors
    /// The reason as the user is to see it.
    pub(crate) fn session(
        &self,
        org: &OrgId,
        user: &UserId,
        credential: &CredentialId,
    ) -> Result<Arc<Known>, Reason> {
        let known = self.0.sessions.read().unwrap_or_else(PoisonError::into_inner).get(credential).cloned();
        let (now, login) = (self.0.clock.now(), self.login());
        let Some(known) = known else {
            return Err(match self.is_synced() {
                true => Reason::Unauthenticated(format!("there is no login session for this credential: {login}")),
                false => Reason::NoPolicy("this proxy has not heard from its controller yet; try again shortly"),
            });
        };
        let principal = &known.principal;
        if principal.org() != org || principal.user() != user {
            let text = format!("the session of this credential is another user's: {login}");
            return Err(Reason::Unauthenticated(text));
        }
        if principal.active_until() <= now {
            let ended = principal.active_until();
            return Err(Reason::Unauthenticated(format!("your login session ended at {ended}: {login}")));
        }
        if known.expires <= now {
            return Err(Reason::NoPolicy(
                "what is known of your session is out of date; check that the controller can be reached",
            ));
        }
        Ok(known)
    }
}
