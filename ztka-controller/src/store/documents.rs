//! Versions of documents, the facts they are made from, and the feed of signed ones.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_authz::PolicyDocument;
use ztka_core::{CredentialId, InstanceId, OrgId, ProxyId, Revision, SeriesKey, Session, UserId};

use super::StoreError;

/// What a document is to say, and the revision that says it: read together, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its place in the series.
    pub revision: Revision,
    /// What it says.
    pub content: Content,
}

/// What a document is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The certificate authorities, which the controller holds.
    Trust,
    /// Clusters, roles and bindings of one organisation.
    Policy(PolicyDocument),
    /// The user of one credential.
    Session(Session),
    /// What is not believed before its time.
    Revocations(RevokedFacts),
}

/// What is revoked while its certificates are still valid.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RevokedFacts {
    /// Revoked credentials.
    pub credentials: Vec<CredentialId>,
    /// Agents, those of deleted clusters among them.
    pub instances: Vec<InstanceId>,
    /// Disabled users.
    pub users: Vec<UserId>,
    /// Single certificates.
    pub serials: Vec<String>,
    /// Proxies.
    pub proxies: Vec<ProxyId>,
    /// Whole organisations.
    pub orgs: Vec<OrgId>,
}

/// A signed document as published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// Its series.
    pub series: SeriesKey,
    /// Its place in the series.
    pub revision: Revision,
    /// When it was signed.
    pub issued: Timestamp,
    /// Its wire form.
    pub wire: Bytes,
}

/// A published document and its place in the feed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FeedEntry {
    /// Grows with everything published; a follower goes on from the last one it saw.
    pub feed: u64,
    /// The document's wire form.
    pub wire: Bytes,
}

/// Which documents a follower is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FeedScope {
    /// All of the installation: proxies.
    Installation,
    /// Trust, and policy and revocations of one organisation, without its sessions: agents.
    Org(OrgId),
}

/// Keeps which version each document is at, and what was signed last.
///
/// The series are: `trust` and `revocations` of the installation, `policy` and `revocations` of each organisation, a
/// `session` for each credential whose certificate has not expired. A document's version is that of the organisation (or
/// the installation) with the newest change in it, so that a version is never used twice. `conformance::documents` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait DocumentStore: Send + Sync + std::fmt::Debug + 'static {
    /// Series that have changed since they were published, were never published, or were signed before
    /// `signed_before`; those that have changed first, at most `limit`. Sessions of certificates that have expired at
    /// `now` are forgotten on the way.
    async fn due(&self, signed_before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError>;

    /// What the document of a series is to say now; `None` if there is no such series (any more).
    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError>;

    /// At which revision [`Self::snapshot`] would be, without reading what it says: asked for again and again.
    async fn revision(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Revision>, StoreError> {
        Ok(self.snapshot(series, now).await?.map(|snapshot| snapshot.revision))
    }

    /// Publishes a signed document under the next place in the feed, unless one that is as new is published already or
    /// the series is gone; `true` if it was.
    async fn publish(&self, document: &Published) -> Result<bool, StoreError>;

    /// What was published after `from` and has not been replaced since, in order of the feed, at most `limit`.
    async fn feed(&self, scope: &FeedScope, from: u64, limit: u32) -> Result<Vec<FeedEntry>, StoreError>;

    /// Place of the newest document in the feed; 0 before the first.
    async fn feed_head(&self) -> Result<u64, StoreError>;

    /// Raises the version of the `trust` document: the certificate authorities have changed.
    async fn touch_trust(&self) -> Result<(), StoreError>;

    /// The epoch that a restore has begun, if that is not on record yet.
    async fn unrecorded_epoch(&self) -> Result<Option<u64>, StoreError>;

    /// The restore that has begun this epoch is on record.
    async fn epoch_recorded(&self, epoch: u64) -> Result<(), StoreError>;
}
