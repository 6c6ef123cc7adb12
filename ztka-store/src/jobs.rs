//! Jobs: taken with a lease, done in steps, each a transaction with its progress.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_controller::store::{DataKey, Deletion, Job, JobKind, JobStatus, JobStore, MasterKey, Step};
use ztka_core::OrgId;
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    row::{micros, number, org_or_empty, signed, some_time, text, time},
    sql::{Row, Tx, sql},
};

/// A job that comes again does so after this long.
const AGAIN: SignedDuration = SignedDuration::from_hours(1);

fn job(row: &Row) -> Result<Job, Failed> {
    Ok(Job {
        kind: text(row, "kind")?,
        subject: row.str("subject")?.to_owned(),
        state: row.str("state")?.to_owned(),
        fence: number(row, "fence")?,
    })
}

fn status(row: &Row) -> Result<JobStatus, Failed> {
    Ok(JobStatus {
        kind: text(row, "kind")?,
        subject: row.str("subject")?.to_owned(),
        done: number(row, "done")?,
        failed: row.some_str("failed")?.map(str::to_owned),
        due: time(row, "due")?,
        created: time(row, "created")?,
    })
}

pub(crate) fn deletion(row: &Row) -> Result<Deletion, Failed> {
    Ok(Deletion {
        org: text(row, "org")?,
        since: time(row, "since")?,
        finished: some_time(row, "finished")?,
        removed: number(row, "removed")?,
        failed: row.some_str("failed")?.map(str::to_owned),
    })
}

/// Asks for a job in the transaction that makes it necessary. One that is there stays as it is.
pub(crate) async fn enqueue(tx: &mut Tx, kind: JobKind, subject: &str, due: Timestamp) -> Result<(), Failed> {
    let text = "INSERT INTO jobs (kind, subject, due, created) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING";
    tx.execute(sql(text).bind(kind.as_str()).bind(subject).bind(micros(due))).await.map(drop)
}

/// What a step has done, in the transaction that it has done it in.
pub(crate) struct Done {
    pub(crate) tx: Tx,
    /// Where the next step begins; none if this was the last one.
    pub(crate) next: Option<String>,
    pub(crate) rows: u64,
}

impl Store {
    /// Commits a step together with its progress, unless somebody else holds the job by now.
    async fn record(
        &self,
        job: &mut Job,
        done: Done,
        now: Timestamp,
        lease: SignedDuration,
    ) -> Result<Step, StoreError> {
        let Done { mut tx, next, rows } = done;
        let of_job = |text| sql(text).bind(job.kind.as_str()).bind(&job.subject).bind(signed(job.fence));
        let record = match &next {
            Some(state) => of_job(
                "UPDATE jobs SET state = $4, done = done + $5, lease = $6, failed = NULL \
                 WHERE kind = $1 AND subject = $2 AND fence = $3",
            )
            .bind(state)
            .bind(signed(rows))
            .bind(micros(after(now, lease))),
            None if job.kind == JobKind::Purge => of_job(
                "UPDATE jobs SET state = '', done = done + $4, due = $5, lease = 0, failed = NULL \
                 WHERE kind = $1 AND subject = $2 AND fence = $3",
            )
            .bind(signed(rows))
            .bind(micros(after(now, AGAIN))),
            None => of_job("DELETE FROM jobs WHERE kind = $1 AND subject = $2 AND fence = $3"),
        };
        if tx.execute(record).await? == 0 {
            return Ok(Step::Lost);
        }
        tx.commit().await?;
        Ok(match next {
            Some(state) => {
                job.state = state;
                Step::More
            }
            None => Step::Done,
        })
    }
}

fn after(now: Timestamp, duration: SignedDuration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[async_trait]
impl JobStore for Store {
    async fn add_job(&self, kind: JobKind, subject: &str, due: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        enqueue(&mut write, kind, subject, due).await?;
        Ok(write.commit().await?)
    }

    async fn take_job(&self, holder: &str, now: Timestamp, lease: SignedDuration) -> Result<Option<Job>, StoreError> {
        // Looked at first without a transaction that writes: mostly there is nothing to do.
        let due = "SELECT kind, subject FROM jobs WHERE due <= $1 AND (lease <= $1 OR lease > $2) \
                   ORDER BY due, kind, subject LIMIT 1";
        // Nobody can hold it for longer: what says so was written by a clock that has been set back since.
        let longest = micros(after(now, lease.saturating_mul(2)));
        let due = sql(due).bind(micros(now)).bind(longest);
        let Some(due) = self.readers().fetch_optional(due).await? else { return Ok(None) };
        // Of two who come at once the second finds it held.
        let take = "UPDATE jobs SET holder = $1, lease = $2, fence = fence + 1 \
                    WHERE kind = $3 AND subject = $4 AND due <= $5 AND (lease <= $5 OR lease > $6) \
                    RETURNING kind, subject, state, fence";
        let take = sql(take).bind(holder).bind(micros(after(now, lease)));
        let take = take.bind(due.str("kind")?).bind(due.str("subject")?).bind(micros(now)).bind(longest);
        let mut write = self.write().await?;
        let taken = write.fetch_optional(take).await?.as_ref().map(job).transpose()?;
        write.commit().await?;
        Ok(taken)
    }

    async fn step(&self, job: &mut Job, now: Timestamp, lease: SignedDuration) -> Result<Step, StoreError> {
        let done = match job.kind {
            JobKind::Seal => self.seal_step(&job.subject, &job.state).await?,
            JobKind::Rewrap => self.rewrap_step(&job.state).await?,
            JobKind::Log => self.log_step(&job.subject, &job.state).await?,
            JobKind::Purge => self.purge_step(&job.state, now).await?,
            JobKind::DeleteOrg => self.delete_step(&job.subject, &job.state, now).await?,
            JobKind::DestroyKey => return Err(StoreError::Refused("an effect is not the store's to have".into())),
        };
        self.record(job, done, now, lease).await
    }

    async fn finish(&self, job: &Job) -> Result<Step, StoreError> {
        let mut job = job.clone();
        let done = Done { tx: self.write().await?, next: None, rows: 1 };
        self.record(&mut job, done, Timestamp::UNIX_EPOCH, SignedDuration::ZERO).await
    }

    async fn deletions(&self) -> Result<Vec<Deletion>, StoreError> {
        let query = "SELECT d.org AS org, d.since AS since, d.finished AS finished, d.removed AS removed, j.failed AS failed \
                     FROM deleted_orgs d LEFT JOIN jobs j ON j.kind = 'delete-org' AND j.subject = d.org \
                     ORDER BY d.since DESC, d.org";
        let rows = self.readers().fetch_all(sql(query)).await?;
        Ok(rows.iter().map(deletion).collect::<Result<_, _>>()?)
    }

    async fn put_off(&self, job: &Job, due: Timestamp, failed: &str) -> Result<Step, StoreError> {
        let text = "UPDATE jobs SET due = $1, lease = 0, failed = $2 WHERE kind = $3 AND subject = $4 AND fence = $5";
        let put_off = sql(text).bind(micros(due)).bind(failed).bind(job.kind.as_str()).bind(&job.subject);
        let mut write = self.write().await?;
        let changed = write.execute(put_off.bind(signed(job.fence))).await?;
        write.commit().await?;
        Ok(if changed == 0 { Step::Lost } else { Step::More })
    }

    async fn jobs(&self) -> Result<Vec<JobStatus>, StoreError> {
        let query = sql("SELECT kind, subject, done, failed, due, created FROM jobs ORDER BY kind, subject");
        let rows = self.readers().fetch_all(query).await?;
        Ok(rows.iter().map(status).collect::<Result<_, _>>()?)
    }

    async fn rotate_data_key(&self, org: Option<&OrgId>, now: Timestamp) -> Result<(), StoreError> {
        self.rotate(org_or_empty(org), now).await
    }

    async fn data_keys(&self, org: Option<&OrgId>) -> Result<Vec<DataKey>, StoreError> {
        self.stored_data_keys(org_or_empty(org)).await
    }

    async fn master_keys(&self) -> Result<Vec<MasterKey>, StoreError> {
        self.known_masters().await
    }

    async fn rewrap(&self, now: Timestamp) -> Result<(), StoreError> {
        self.rewrap_now(now).await
    }

    fn forget_unused_keys(&self) {
        if let Some(keyring) = &self.keyring {
            keyring.forget_unused();
        }
    }
}
