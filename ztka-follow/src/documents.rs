//! The documents that are believed, and what follows from each.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rustls::crypto::CryptoProvider;
use tokio::sync::{broadcast, watch};
use ztka_authz::Engine;
use ztka_core::{
    Clock, ClusterId, CredentialId, DocumentKind, DocumentSet, OrgId, Rejected, Revision, SeriesKey, Session,
    SignedDocument, Verified,
};
use ztka_pki::{BadBundle, Revocations, TrustBundle, TrustSource, file::FileError};

use crate::{
    disk::{Disk, Left},
    own::{Own, Standing},
    views::{MAX_STALENESS, Views, WAITING},
};

type Believed = (Verified<SignedDocument>, Vec<SeriesKey>);

/// What is believed now. Clones share it.
#[derive(Clone)]
pub struct Documents(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) set: Mutex<DocumentSet>,
    pub(crate) trust: TrustSource,
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<dyn Clock>,
    /// The cluster whose policy is believed, and no other; none for who hands projections on.
    pub(crate) own: Option<Own>,
    pub(crate) disk: Option<Disk>,
    /// How old what is known is.
    pub(crate) views: Mutex<Views>,
    /// Heads that are accepted, for whoever hands them on.
    pub(crate) heads: broadcast::Sender<Verified<SignedDocument>>,
    /// Heads are kept on the disk.
    pub(crate) keep_heads: AtomicBool,
    /// Where to begin in the feed.
    start: AtomicU64,
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").field("start", &self.start()).finish_non_exhaustive()
    }
}

/// Nothing can be believed to begin with.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// An anchor of the first trust bundle is none.
    #[error("the trust bundle of the enrolment cannot be used; enrol again with a new token")]
    Trust(#[from] BadBundle),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] FileError),
}

impl Documents {
    /// Begins with `trust`, which came with the enrolment over a connection with a pinned CA. `state` is where documents
    /// are kept; what an earlier run left there is checked like news.
    ///
    /// Policies are in force as they are whole; projections to clusters are held, for who is to have them.
    ///
    /// # Errors
    /// [`BootstrapError`]
    pub fn open(
        trust: TrustBundle,
        state: Option<PathBuf>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BootstrapError> {
        Self::begin(trust, None, state, provider, clock)
    }

    /// The same for an agent of `cluster`, which is of `org`: of policies it puts in force the projection to that cluster and
    /// no other. Before there is one it goes by the whole, which is forgotten when it comes.
    ///
    /// # Errors
    /// [`BootstrapError`]
    pub fn open_for(
        (org, cluster): (OrgId, ClusterId),
        trust: TrustBundle,
        state: Option<PathBuf>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BootstrapError> {
        Self::begin(trust, Some(Own::new(org, &cluster)), state, provider, clock)
    }

    fn begin(
        trust: TrustBundle,
        own: Option<Own>,
        state: Option<PathBuf>,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BootstrapError> {
        let anchors = TrustSource::new(trust, provider, clock.clone())?;
        let (disk, left) = match state {
            Some(directory) => Disk::open(directory).map(|(disk, left)| (Some(disk), left))?,
            None => (None, Left::default()),
        };
        let engine = Engine::new(clock.clone());
        let (set, changes) = (Mutex::default(), watch::Sender::new(0));
        let start = AtomicU64::new(if left.damaged { 0 } else { left.feed });
        engine.set_max_staleness(MAX_STALENESS);
        let (views, heads, keep_heads) = (Mutex::default(), broadcast::Sender::new(WAITING), AtomicBool::new(false));
        let inner = Inner { set, trust: anchors, engine, clock, own, disk, views, heads, keep_heads, start, changes };
        let documents = Self(Arc::new(inner));
        let mut kept = left.documents;
        // Trust first: it says who may have signed the others. A projection before the whole that it has replaced.
        kept.sort_by_key(|document| {
            let series = &document.header().series;
            (series.kind, !series.is_projection())
        });
        for document in kept {
            let series = document.header().series.clone();
            if documents.is_needless(document.header()) {
                documents.forget(series);
            } else if series.kind == DocumentKind::Head {
                // It comes last, and only tells how old the others are.
                if let Err(error) = documents.accept_head(document) {
                    tracing::debug!(%error, "a kept head is not used");
                }
            } else {
                match documents.believe(document) {
                    Ok(believed) => {
                        believed.into_iter().flat_map(|(_, needless)| needless).for_each(|of| documents.forget(of))
                    }
                    Err(error) => {
                        tracing::info!(kind = %series.kind, subject = series.subject, %error, "a kept document is not used");
                        documents.missing(series, error);
                    }
                }
            }
        }
        Ok(documents)
    }

    /// A kept document is not believed (any more). The controller has to send it again, unless it is what remains of a
    /// session that is over.
    fn missing(&self, series: SeriesKey, error: Rejected) {
        let session = series.kind == DocumentKind::Session;
        if !(session && error == Rejected::Expired) {
            self.0.start.store(0, Relaxed);
        }
        if session {
            self.forget(series);
        }
    }

    /// Removes what is kept of a series.
    pub(crate) fn forget(&self, series: SeriesKey) {
        if let Some(disk) = &self.0.disk {
            disk.forget(series);
        }
    }

    /// Believes `document` if it is signed, not expired and newer than what is held, and puts it in force.
    ///
    /// `Ok(false)` if it is the one held already. A head is not kept among the others: it tells how old they are.
    ///
    /// # Errors
    /// The rule that it breaks; nothing has changed then.
    pub fn accept(&self, document: SignedDocument) -> Result<bool, Rejected> {
        if document.header().series.kind == DocumentKind::Head {
            return self.accept_head(document);
        }
        let Some((accepted, needless)) = self.believe(document)? else { return Ok(false) };
        if let Some(disk) = &self.0.disk {
            disk.keep(&accepted);
        }
        needless.into_iter().for_each(|series| self.forget(series));
        Ok(true)
    }

    /// The document, if it is news, and of what nothing needs to be kept any more as soon as it is.
    fn believe(&self, document: SignedDocument) -> Result<Option<Believed>, Rejected> {
        let inner = &self.0;
        let keys = inner.trust.bundle();
        let mut set = inner.set.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.clock.now();
        match self.standing(&set, document.header()) {
            Standing::Regular => {}
            // Said of what is properly signed: what is not is refused for that.
            Standing::Replaced => return document.accept(&*keys, None, now).map(|_| None),
            Standing::Behind => return document.accept(&*keys, None, now).and(Err(Rejected::Rollback)),
            Standing::Foreign => {
                document.accept(&*keys, None, now)?;
                metrics::counter!("ztka_foreign_documents_total").increment(1);
                return Err(Rejected::Foreign);
            }
        }
        let Some(accepted) = set.accept(document, &*keys, now)?.cloned() else { return Ok(None) };
        // Under the lock, so that two documents of one series come into force in their order.
        self.put_in_force(&accepted);
        let needless = self.replace(&mut set, accepted.header());
        drop(set);
        let series = &accepted.header().series;
        if series.kind != DocumentKind::Session {
            self.seen(series);
        }
        inner.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(Some((accepted, needless)))
    }

    fn put_in_force(&self, document: &Verified<SignedDocument>) {
        let header = document.header();
        let outcome: Result<(), ztka_core::BoxError> = match header.series.kind {
            DocumentKind::Trust => document
                .body::<TrustBundle>()
                .map_err(Into::into)
                .and_then(|bundle| self.0.trust.set_bundle(bundle).map_err(Into::into)),
            DocumentKind::Policy if self.0.own.is_none() && header.series.is_projection() => {
                self.handed_on(&header.series, Some(header.revision));
                Ok(())
            }
            DocumentKind::Policy => self.0.engine.apply(document).map(drop).map_err(Into::into),
            DocumentKind::Revocations => document
                .body::<Revocations>()
                .map(|body| self.0.trust.set_revocations(header.series.org.clone(), body))
                .map_err(Into::into),
            DocumentKind::Session | DocumentKind::Head => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::error!(kind = %header.series.kind, %error, "a signed document cannot be used");
        }
    }

    /// The session document of a credential, if it may still be believed.
    pub fn session(&self, org: &OrgId, credential: &CredentialId) -> Option<Verified<SignedDocument>> {
        let series = session_series(org, credential);
        let set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.current(&series, self.0.clock.now()).cloned()
    }

    /// Checks a session document that was shown to us, and keeps it if it is news.
    ///
    /// One that was signed earlier than the one held passes, as long as it has not expired and its revision is not older:
    /// whoever shows it may not have heard yet that it was signed again.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn accept_shown(&self, document: SignedDocument) -> Result<Verified<SignedDocument>, Rejected> {
        let series = document.header().series.clone();
        let now = self.0.clock.now();
        let shown = document.clone().accept(&*self.0.trust.bundle(), None, now)?;
        match self.accept(document) {
            Ok(_) => Ok(shown),
            Err(Rejected::Rollback) => {
                let set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
                let held = set.current(&series, now).map(|held| held.header().revision);
                if held.is_some_and(|held| held == shown.header().revision) {
                    Ok(shown)
                } else {
                    Err(Rejected::Rollback)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// What a session document says.
    ///
    /// # Errors
    /// [`Rejected::Unreadable`] if it is none.
    pub fn read_session(document: &Verified<SignedDocument>) -> Result<Session, Rejected> {
        match document.header().series.kind {
            DocumentKind::Session => document.body(),
            _ => Err(Rejected::Unreadable),
        }
    }

    /// Everything held but sessions, to hand it on. Of those there are as many as users, and requests ask for them
    /// meanwhile: none is copied.
    pub fn all_but_sessions(&self) -> Vec<Verified<SignedDocument>> {
        let set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        let is_session = |document: &Verified<SignedDocument>| document.header().series.kind == DocumentKind::Session;
        set.iter().filter(|document| !is_session(document)).cloned().collect()
    }

    /// Everything held.
    pub fn all(&self) -> Vec<Verified<SignedDocument>> {
        self.0.set.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets sessions that have expired.
    pub fn forget_expired_sessions(&self) {
        let now = self.0.clock.now();
        let mut set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        let expired: Vec<_> = set
            .iter()
            .map(|document| document.header())
            .filter(|header| header.series.kind == DocumentKind::Session && header.expires <= now)
            .map(|header| header.series.clone())
            .collect();
        set.forget_expired(DocumentKind::Session, now);
        drop(set);
        if let Some(disk) = &self.0.disk {
            expired.into_iter().for_each(|series| disk.forget(series));
        }
    }

    /// The `trust` document in force; none before the first, when what came with the enrolment is believed.
    pub fn trust_revision(&self) -> Option<Revision> {
        let series = SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() };
        let set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.current(&series, self.0.clock.now()).map(|held| held.header().revision)
    }

    /// Anchors and revocations in force.
    pub fn trust(&self) -> &TrustSource {
        &self.0.trust
    }

    /// Policies in force.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The clock that documents are held against.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Wakes whenever something new is believed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Where in the feed an earlier run has stopped; 0 if something of what it kept is missing.
    pub(crate) fn start(&self) -> u64 {
        self.0.start.load(Relaxed)
    }

    pub(crate) fn keep_feed(&self, feed: u64) {
        if let Some(disk) = &self.0.disk {
            disk.keep_feed(feed);
        }
    }

    #[cfg(test)]
    pub(crate) fn settle(&self) {
        if let Some(disk) = &self.0.disk {
            disk.settle();
        }
    }
}

fn session_series(org: &OrgId, credential: &CredentialId) -> SeriesKey {
    SeriesKey { kind: DocumentKind::Session, org: Some(org.clone()), subject: credential.as_str().into() }
}
