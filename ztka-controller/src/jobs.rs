//! Background jobs: whichever controller has the lease does the next steps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use ztka_identity::StoreError;

use crate::{
    Controller,
    store::{Job, Step},
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
        Ok(steps)
    }

    async fn step(&self, job: &mut Job) -> Result<Step, StoreError> {
        self.0.stores.jobs.step(job, self.now(), LEASE).await
    }
}

/// The whole chain of causes.
fn told(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", told(source)))
}
