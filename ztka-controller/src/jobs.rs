//! Background jobs: whichever controller has the lease does the next steps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use ztka_core::OrgId;
use ztka_identity::StoreError;
use ztka_pki::{IssuedRecord, KeyError, KeyName};

use crate::{
    Controller,
    store::{Job, JobKind, Step},
};

/// A job whose holder is gone goes on after this long.
const LEASE: SignedDuration = SignedDuration::from_secs(30);
/// One that could not go on is tried again after this long.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// Jobs of other controllers, and such as have become due, are seen after this long at the latest.
const LOOK: Duration = Duration::from_secs(5);

impl Controller {
    /// Does jobs as they become due, without end.
    pub(crate) async fn work(&self) {
        let mut hint = self.0.stores.changes.hint();
        loop {
            if let Err(error) = self.work_off().await {
                tracing::error!(error = &error as &dyn std::error::Error, "background jobs cannot be done now");
                self.0.counts.store_failed();
            }
            self.0.stores.jobs.forget_unused_keys();
            let _ = timeout(LOOK, hint.changed()).await;
        }
    }

    /// Does every job that is due; tells how many steps were done. Dropped halfway, a step is done or not, and whoever has
    /// the lease next goes on.
    ///
    /// # Errors
    /// The store cannot be used. What is wrong with one job puts that one off.
    pub async fn work_off(&self) -> Result<usize, StoreError> {
        let (jobs, holder) = (&self.0.stores.jobs, self.0.settings.id.as_str());
        let mut steps = 0;
        while let Some(mut job) = jobs.take_job(holder, self.now(), LEASE).await? {
            loop {
                match self.step(&mut job).await {
                    Ok(Step::More) => steps += 1,
                    Ok(Step::Done) => {
                        steps += 1;
                        let (kind, subject) = (job.kind, &job.subject);
                        tracing::info!(%kind, subject, "a job is done");
                        break;
                    }
                    Ok(Step::Lost) => break,
                    Err(error) => {
                        let (kind, subject) = (job.kind, &job.subject);
                        tracing::warn!(%kind, subject, error = &error as &dyn std::error::Error, "a job is put off");
                        let due = self.now().checked_add(AGAIN).unwrap_or(Timestamp::MAX);
                        jobs.put_off(&job, due, &told(&error)).await?;
                        break;
                    }
                }
            }
        }
        self.close_deleted().await?;
        Ok(steps)
    }

    async fn step(&self, job: &mut Job) -> Result<Step, StoreError> {
        let (jobs, keys) = (&self.0.stores.jobs, &self.0.stores.keys);
        if !job.kind.is_effect() {
            return jobs.step(job, self.now(), LEASE).await;
        }
        match job.kind {
            JobKind::DestroyKey => {
                let name: KeyName = job.subject.parse().map_err(StoreError::unavailable)?;
                match keys.destroy(&name).await {
                    // By somebody who was killed before they could say so.
                    Ok(()) | Err(KeyError::Absent(_)) => jobs.finish(job).await,
                    Err(error) => Err(StoreError::unavailable(error)),
                }
            }
            kind => Err(StoreError::Refused(format!("this controller does not know what {kind} is"))),
        }
    }

    /// Writes down the authorities of an organisation that is about to be deleted.
    pub(crate) async fn record_authorities(&self, org: &OrgId) -> Result<(), StoreError> {
        // Its authorities are revoked with it, and nobody knows them any more when they are listed.
        let _ = self.0.authorities.open_org(org).await;
        for issuer in self.hierarchy().issuers().into_iter().filter(|issuer| issuer.org.as_ref() == Some(org)) {
            let Some(above) = issuer.above else { continue };
            let (issued, subject) = (self.now(), None);
            let record =
                IssuedRecord { issuer: above, serial: issuer.serial, subject, issued, not_after: issuer.not_after };
            self.0.stores.revocations.record_authority(org, &record).await?;
        }
        Ok(())
    }

    /// Drops the authorities of organisations that are deleted, by this controller or another.
    async fn close_deleted(&self) -> Result<(), StoreError> {
        for deletion in self.0.stores.jobs.deletions().await? {
            self.hierarchy().close_org(&deletion.org);
        }
        Ok(())
    }
}

/// The whole chain of causes.
fn told(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", told(source)))
}
