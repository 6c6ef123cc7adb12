//! The policy of an organisation, whole for proxies and projected for the agents of each cluster: signed and published together.
//!
//! The whole is signed first. In the feed it comes behind the projections, and they are published in one transaction: whoever
//! follows both has the projections that a policy goes with before it is in force. Nobody waits longer than [`WAIT`] for that,
//! though: if there are more than can be signed by then, the whole goes out with those that are ready, and the others follow.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use ztka_authz::Projector;
use ztka_core::{DocumentHeader, OrgId, Revision, SeriesKey};
use ztka_identity::StoreError;

use super::{LARGEST, PublishError};
use crate::{
    Controller,
    store::{Claim, Published},
};

/// For so long the projections to clusters keep the whole from being published,
const WAIT: Duration = Duration::from_millis(250);
/// and each other. So much of them is held at once.
const HELD: usize = 64 << 20;
/// Another controller that is at it has so long before this one begins as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// Organisations whose policies another controller is signing, and since when.
#[derive(Debug, Default)]
pub(crate) struct LeftToOthers(Mutex<HashMap<OrgId, Instant>>);

impl LeftToOthers {
    /// True if it is another controller's still.
    fn leave(&self, org: &OrgId) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *left.entry(org.clone()).or_insert_with(Instant::now);
        let is_theirs = since.elapsed() < PATIENCE;
        if !is_theirs {
            left.remove(org);
        }
        is_theirs
    }

    fn forget(&self, org: &OrgId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(org);
    }
}

/// What is signed and not published yet.
#[derive(Debug, Default)]
struct Ready {
    /// Comes last.
    whole: Option<Published>,
    projections: Vec<Published>,
    bytes: usize,
}

impl Ready {
    fn take(&mut self) -> Vec<Published> {
        self.bytes = 0;
        let mut all = std::mem::take(&mut self.projections);
        all.extend(self.whole.take());
        all
    }
}

impl Controller {
    /// Signs and publishes the policy of an organisation and the projections of it that are due; tells how many documents were
    /// published.
    pub(super) async fn publish_policy(
        &self,
        org: &OrgId,
        now: Timestamp,
        signed_before: Timestamp,
    ) -> Result<usize, PublishError> {
        let documents = &self.0.stores.documents;
        let claim: Option<Claim> = documents.claim(org).await?;
        match claim {
            Some(_) => self.0.left_to_others.forget(org),
            None if self.0.left_to_others.leave(org) => return Ok(0),
            // It takes too long over it, or is cut off; what it has signed by now is not signed again.
            None => {}
        }
        let known = match self.policy(org).await {
            Ok(known) => known,
            Err(StoreError::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        // Proxies and agents would refuse it, and keep the one before; say so where it can be mended.
        if let Err(error) = known.document.validate() {
            tracing::error!(%org, %error, "the policy is not valid and is not published");
            return Ok(0);
        }
        let at = (known.revision, now);
        let whole = self.signed(SeriesKey::policy(org.clone()), at, &known.document).await?;
        let Some(whole) = whole else { return Ok(0) };
        let mut ready = Ready { whole: Some(whole), ..Ready::default() };
        let due = documents.projections(org, signed_before).await?;
        let (mut count, mut begun, mut failed) = (0, Instant::now(), None);
        let projector = Projector::new(&known.document);
        for cluster in &due {
            // Not there any more, or not in this policy yet.
            let Some(projection) = projector.to(cluster) else { continue };
            match self.signed(SeriesKey::projection(org.clone(), cluster), at, &projection).await {
                Ok(Some(signed)) => {
                    ready.bytes += signed.wire.len();
                    ready.projections.push(signed);
                }
                Ok(None) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            if begun.elapsed() > WAIT || ready.bytes > HELD {
                count += documents.publish_all(&ready.take()).await?;
                // Whoever waits for the whole is told at once.
                self.follow().await?;
                begun = Instant::now();
            }
        }
        count += documents.publish_all(&ready.take()).await?;
        failed.map_or(Ok(count), Err)
    }

    /// A document at this revision, signed now; none if it is larger than anybody takes.
    pub(super) async fn signed(
        &self,
        series: SeriesKey,
        (revision, now): (Revision, Timestamp),
        body: &(impl Serialize + Sync),
    ) -> Result<Option<Published>, PublishError> {
        // The store keeps microseconds; what is signed says the same.
        let issued = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let expires = issued.checked_add(self.0.settings.document_life).unwrap_or(Timestamp::MAX);
        let header = DocumentHeader { series: series.clone(), revision, issued, expires };
        let wire = self.hierarchy().sign_document(header, body).await?.to_wire();
        if wire.len() > LARGEST {
            // They would refuse it, and keep the one before for as long as that is believed.
            let (kind, org, bytes) = (&series.kind, &series.org, wire.len());
            tracing::error!(%kind, ?org, bytes, "a document is larger than 16 MiB and is not published; its organisation has to have less");
            return Ok(None);
        }
        Ok(Some(Published { series, revision, issued, wire: wire.into() }))
    }
}
