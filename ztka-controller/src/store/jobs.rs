//! Work that is done in the background, in bounded steps, by whichever controller has the lease.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_core::OrgId;

use super::{StoreError, UnknownWord};

/// What a job does.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum JobKind {
    /// Seals what an organisation has in clear, or under an earlier data key, under its newest one.
    Seal,
    /// Wraps data keys that are under another master key anew.
    Rewrap,
    /// Brings events that an organisation had before there were logs into its transparency log.
    Log,
    /// Removes what is over; comes again by itself.
    Purge,
    /// Removes everything of an organisation.
    DeleteOrg,
    /// Destroys a private key, by name, which may be elsewhere: an effect outside the database.
    DestroyKey,
}

impl JobKind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Seal, Self::Rewrap, Self::Log, Self::Purge, Self::DeleteOrg, Self::DestroyKey];

    /// The word for it, in stores and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Rewrap => "rewrap",
            Self::Log => "log",
            Self::Purge => "purge",
            Self::DeleteOrg => "delete-org",
            Self::DestroyKey => "destroy-key",
        }
    }

    /// True if it is about something outside the database: the controller does it, and finishes the job afterwards. So
    /// it may be done twice, and has to bear that.
    pub fn is_effect(self) -> bool {
        matches!(self, Self::DestroyKey)
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(UnknownWord)
    }
}

/// A job as its holder knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// What it does.
    pub kind: JobKind,
    /// What it is about: an organisation's id, a key's name; empty for the installation.
    pub subject: String,
    /// How far it is, in the store's own words.
    pub state: String,
    /// Counts those who have held it: a step of an earlier holder changes nothing.
    pub fence: u64,
}

/// A job as others see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JobStatus {
    /// What it does.
    pub kind: JobKind,
    /// What it is about.
    pub subject: String,
    /// How many rows it has dealt with.
    pub done: u64,
    /// Why it could not go on the last time, if it could not.
    pub failed: Option<String>,
    /// When it goes on.
    pub due: Timestamp,
    /// When it was asked for.
    pub created: Timestamp,
}

/// An organisation that is on its way out, or gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deletion {
    /// Its id; its name is free, and not kept.
    pub org: OrgId,
    /// When it was cut off.
    pub since: Timestamp,
    /// When everything of it was gone.
    pub finished: Option<Timestamp>,
    /// How many rows are gone so far.
    pub removed: u64,
    /// Why it could not go on the last time, if it could not.
    pub failed: Option<String>,
}

/// A data key of an organisation, and nothing of what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataKey {
    /// When it was made.
    pub created: Timestamp,
    /// The id of the master key that it is wrapped by.
    pub master: String,
}

/// A master key, and nothing of what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MasterKey {
    /// What it is called in the database.
    pub id: String,
    /// True if this controller wraps with it.
    pub current: bool,
    /// True if this controller can open what is wrapped by it.
    pub configured: bool,
    /// How many data keys are wrapped by it.
    pub data_keys: u64,
}

/// What has become of a job by a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// There is more to do.
    More,
    /// It is done; for one that comes again: until then.
    Done,
    /// Somebody else holds it now. Nothing was changed.
    Lost,
}

/// Keeps jobs: the outbox of what is to be done after a change, and background work.
///
/// A job is written in the transaction that makes it necessary, once for each kind and subject. Whoever takes it has it
/// until the lease is over, and each step is one transaction with its progress and the check that the lease is still
/// theirs: so each step happens once, whoever is killed wherever, and a job goes on where it was. `conformance::jobs`
/// (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait JobStore: Send + Sync + fmt::Debug + 'static {
    /// Asks for a job; it stays as it is if it is there already.
    async fn add_job(&self, kind: JobKind, subject: &str, due: Timestamp) -> Result<(), StoreError>;

    /// The job that is due longest and that nobody holds, for `lease` from `now` on.
    async fn take_job(&self, holder: &str, now: Timestamp, lease: SignedDuration) -> Result<Option<Job>, StoreError>;

    /// Does the next step of a job that is not an effect, and has the lease for as long again.
    async fn step(&self, job: &mut Job, now: Timestamp, lease: SignedDuration) -> Result<Step, StoreError>;

    /// The effect has happened: removes the job.
    async fn finish(&self, job: &Job) -> Result<Step, StoreError>;

    /// Lets a job go until `due`, because of `failed`.
    async fn put_off(&self, job: &Job, due: Timestamp, failed: &str) -> Result<Step, StoreError>;

    /// The jobs there are, by kind and subject.
    async fn jobs(&self) -> Result<Vec<JobStatus>, StoreError>;

    /// The organisations that were deleted, or are being, newest first.
    async fn deletions(&self) -> Result<Vec<Deletion>, StoreError>;

    /// Begins to seal for an organisation (none: for the installation) under a new data key; what is there follows by a
    /// job. [`StoreError::Refused`] if the store does not encrypt.
    async fn rotate_data_key(&self, org: Option<&OrgId>, now: Timestamp) -> Result<(), StoreError>;

    /// The data keys of an organisation (none: of the installation), newest first, which is the one that seals. More than one
    /// until what is under the others is sealed anew.
    async fn data_keys(&self, org: Option<&OrgId>) -> Result<Vec<DataKey>, StoreError>;

    /// The master keys that are configured, and those that data keys are wrapped by, in the order of their ids.
    async fn master_keys(&self) -> Result<Vec<MasterKey>, StoreError>;

    /// Begins now to wrap data keys anew that are under another master key than the current one. [`StoreError::Refused`] if
    /// the store does not encrypt.
    async fn rewrap(&self, now: Timestamp) -> Result<(), StoreError>;

    /// Wipes keys from memory that nobody has used for a while.
    fn forget_unused_keys(&self);
}
