//! Signs what is due, and goes by what was signed.

use std::{sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use ztka_core::{DocumentHeader, DocumentKind, Rejected, SeriesKey, SignedDocument};
use ztka_identity::{OutageKind, StoreError};
use ztka_pki::{IssueError, Revocations, RotationError};

use crate::{
    Controller,
    store::{Content, FeedScope, Published, RevokedFacts},
};

/// Another controller's changes are seen after this long at the latest; one's own at once.
const POLL: Duration = Duration::from_millis(500);
/// Documents signed between two looks at the store.
const AT_ONCE: u32 = 200;
/// While documents cannot be signed, others are tried for so long before it is looked at what others have signed.
const TRYING: Duration = Duration::from_secs(5);

/// What agents and proxies take of one document, as it is sent.
const LARGEST: usize = 16 << 20;

/// Why documents were not signed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store cannot be used.
    #[error("documents cannot be signed: the store cannot be used")]
    Store(#[from] StoreError),
    /// The signing key cannot be used.
    #[error("documents cannot be signed: the signing key cannot be used")]
    Sign(#[from] IssueError),
    /// The certificate authorities that are stored cannot be opened.
    #[error("documents cannot be signed: the certificate authorities cannot be opened")]
    Authorities(#[from] RotationError),
}

impl Controller {
    /// Signs and publishes what is due, until `shutdown`; every change is out within milliseconds of its transaction,
    /// another controller's within half a second. Runs once per process.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut hint = self.0.stores.changes.hint();
        let work = async {
            loop {
                let published = self.publish_due().await;
                // What is wrong with one document is not what is wrong with the store.
                let failed = published.as_ref().err().and_then(|error| OutageKind::of(error));
                self.0.counts.store_looked_at(failed, self.now());
                if let Err(error) = published {
                    tracing::error!(error = &error as &dyn std::error::Error, "documents cannot be signed now");
                    if matches!(error, PublishError::Store(_)) {
                        self.0.counts.store_failed();
                    }
                    tokio::time::sleep(POLL).await;
                }
                let news = async {
                    tokio::select! {
                        () = self.0.changed.notified() => {}
                        Ok(()) = hint.changed() => {}
                    }
                };
                let _ = timeout(POLL, news).await;
            }
        };
        let record = self.0.journal.run();
        tokio::select! {
            () = work => {}
            () = self.follow_announcements() => {}
            () = self.rotate() => {}
            () = record => {}
            () = self.keep_uses() => {}
            () = self.keep_crls() => {}
            () = self.keep_heads() => {}
            () = self.keep_recordings() => {}
            () = self.work() => {}
            () = shutdown => {}
        }
        if let Err(error) = self.write_uses().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last uses of credentials are not written");
        }
        self.leave().await;
        self.0.journal.flush().await;
    }

    /// Signs and publishes everything that is due, and follows the feed; tells how many documents were signed.
    ///
    /// # Errors
    /// [`PublishError`]: the first one. What could be published is, and what others have signed is gone by.
    pub async fn publish_due(&self) -> Result<usize, PublishError> {
        let documents = &self.0.stores.documents;
        let mut count = 0;
        loop {
            let now = self.now();
            let signed_before = now.checked_sub(self.0.settings.resign_after).unwrap_or(Timestamp::MIN);
            // What the old signing key has signed is signed again before that key goes.
            let signed_before = signed_before.max(self.hierarchy().signing_since().unwrap_or(Timestamp::MIN));
            let due = documents.due(signed_before, now, AT_ONCE).await?;
            let (mut progress, mut failed, begun) = (false, None, Instant::now());
            for series in &due {
                match self.publish(series, now).await {
                    Ok(true) => (count, progress) = (count + 1, true),
                    Ok(false) => {}
                    // One organisation's keeps nobody else's back.
                    Err(error) => {
                        let (kind, org, subject) = (&series.kind, &series.org, &series.subject);
                        tracing::debug!(%kind, ?org, subject, %error, "a document cannot be signed now");
                        failed.get_or_insert(error);
                        if begun.elapsed() > TRYING {
                            break;
                        }
                    }
                }
            }
            // Whoever cannot sign goes by the revocations of those who can.
            self.follow().await?;
            if let Some(error) = failed {
                return Err(error);
            }
            // What could not be published (an invalid policy, a clock that stands still) is not tried in a circle.
            if !progress || due.len() < AT_ONCE as usize {
                return Ok(count);
            }
        }
    }

    async fn publish(&self, series: &SeriesKey, now: Timestamp) -> Result<bool, PublishError> {
        let documents = &self.0.stores.documents;
        let Some(snapshot) = documents.snapshot(series, now).await? else { return Ok(false) };
        // The store keeps microseconds; what is signed says the same.
        let issued = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let expires = issued.checked_add(self.0.settings.document_life).unwrap_or(Timestamp::MAX);
        let header = DocumentHeader { series: series.clone(), revision: snapshot.revision, issued, expires };
        let hierarchy = self.hierarchy();
        let signed = match snapshot.content {
            // Read after the revision, so that the document never says less than it claims to.
            Content::Trust => {
                self.refresh_authorities().await?;
                hierarchy.sign_document(header, &hierarchy.trust_bundle()).await?
            }
            Content::Policy(policy) => {
                // Proxies and agents would refuse it, and keep the one before; say so where it can be mended.
                if let Err(error) = policy.validate() {
                    tracing::error!(org = ?series.org, %error, "the policy is not valid and is not published");
                    return Ok(false);
                }
                hierarchy.sign_document(header, &policy).await?
            }
            Content::Session(session) => hierarchy.sign_document(header, &session).await?,
            Content::Revocations(facts) => hierarchy.sign_document(header, &revocations(facts)).await?,
        };
        let wire = signed.to_wire();
        if wire.len() > LARGEST {
            // They would refuse it, and keep the one before for as long as that is believed.
            let (kind, org, bytes) = (&series.kind, &series.org, wire.len());
            tracing::error!(%kind, ?org, bytes, "a document is larger than 16 MiB and is not published; its organisation has to have less");
            return Ok(false);
        }
        let published = Published { series: series.clone(), revision: snapshot.revision, issued, wire: wire.into() };
        Ok(documents.publish(&published).await?)
    }

    /// Goes by what is new in the feed, whoever signed it, and wakes those who wait for it.
    async fn follow(&self) -> Result<(), PublishError> {
        let documents = &self.0.stores.documents;
        let mut applied = self.0.applied.lock().await;
        let now = self.now();
        loop {
            let entries = documents.feed(&FeedScope::Installation, *applied, AT_ONCE).await?;
            for entry in &entries {
                if let Err(error) = self.apply(entry.feed, &entry.wire).await {
                    tracing::error!(feed = entry.feed, %error, "a published document cannot be used");
                }
                *applied = entry.feed;
            }
            if entries.len() < AT_ONCE as usize {
                break;
            }
        }
        let head = *applied;
        self.0.heads.looked(now);
        self.0.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        Ok(())
    }

    async fn apply(&self, feed: u64, wire: &[u8]) -> Result<(), Rejected> {
        let document = SignedDocument::from_wire(wire)?;
        self.0.heads.note(feed, document.header());
        let series = document.header().series.clone();
        match series.kind {
            DocumentKind::Trust => {
                *self.0.trust_document.write().unwrap_or_else(PoisonError::into_inner) = Some(document);
                // Another controller may have rotated an authority. It is looked for again with the next document of ours.
                if let Err(error) = self.refresh_authorities().await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the certificate authorities stay as they were"
                    );
                }
                Ok(())
            }
            DocumentKind::Revocations => {
                let accepted = document.accept(&self.hierarchy().trust_bundle(), None, self.now())?;
                let revoked: Revocations = accepted.body()?;
                if series.org.is_none() {
                    self.0.heads.forget(&revoked.orgs);
                }
                self.0.trust.set_revocations(series.org.clone(), revoked);
                self.0.crls_changed.note(series.org);
                Ok(())
            }
            DocumentKind::Policy | DocumentKind::Session | DocumentKind::Head => Ok(()),
        }
    }
}

fn revocations(facts: RevokedFacts) -> Revocations {
    Revocations {
        credentials: facts.credentials.into_iter().collect(),
        instances: facts.instances.into_iter().collect(),
        users: facts.users.into_iter().collect(),
        serials: facts.serials.into_iter().collect(),
        proxies: facts.proxies.into_iter().collect(),
        orgs: facts.orgs.into_iter().collect(),
    }
}
