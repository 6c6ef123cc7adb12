//! Signs what is due, and goes by what was signed.

mod policy;

use std::{sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use ztka_core::{DocumentKind, Rejected, SeriesKey, SignedDocument};
use ztka_identity::{OutageKind, StoreError};
use ztka_pki::{IssueError, Revocations, RotationError};

use crate::{
    Controller,
    store::{Content, FeedScope, RevokedFacts},
};

pub(crate) use self::policy::LeftToOthers;

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
            () = self.keep_tree_heads() => {}
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
                match self.publish(series, now, signed_before).await {
                    Ok(0) => {}
                    Ok(published) => (count, progress) = (count + published, true),
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

    async fn publish(
        &self,
        series: &SeriesKey,
        now: Timestamp,
        signed_before: Timestamp,
    ) -> Result<usize, PublishError> {
        if let (DocumentKind::Policy, Some(org)) = (series.kind, &series.org) {
            return self.publish_policy(org, now, signed_before).await;
        }
        let documents = &self.0.stores.documents;
        let Some(snapshot) = documents.snapshot(series, now).await? else { return Ok(0) };
        let at = (snapshot.revision, now);
        let signed = match snapshot.content {
            // Read after the revision, so that the document never says less than it claims to.
            Content::Trust => {
                self.refresh_authorities().await?;
                self.signed(series.clone(), at, &self.hierarchy().trust_bundle()).await?
            }
            Content::Session(session) => self.signed(series.clone(), at, &session).await?,
            Content::Revocations(facts) => self.signed(series.clone(), at, &revocations(facts)).await?,
            // Of an organisation, which was seen to above.
            Content::Policy(_) => None,
        };
        let Some(signed) = signed else { return Ok(0) };
        Ok(usize::from(documents.publish(&signed).await?))
    }

    /// Goes by what is new in the feed, whoever signed it, and wakes those who wait for it.
    async fn follow(&self) -> Result<(), PublishError> {
        let documents = &self.0.stores.documents;
        let mut applied = self.0.applied.lock().await;
        let now = self.now();
        // Up to there everything is in the lists that follow, or is a projection: these are no concern here.
        let head = documents.feed_head().await?;
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
        *applied = head.max(*applied);
        let head = *applied;
        self.0.heads.looked(now, head);
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
