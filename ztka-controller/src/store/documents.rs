//! Versions of documents, the facts they are made from, and the feed of signed ones.

use std::{any::Any, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_authz::PolicyDocument;
use ztka_core::{ClusterId, CredentialId, InstanceId, OrgId, ProxyId, Revision, SeriesKey, Session, UserId};

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

/// That somebody has a policy to sign to themselves, for as long as it is held.
#[derive(Default)]
pub struct Claim(#[expect(dead_code, reason = "it is to be dropped")] Option<Box<dyn Any + Send>>);

impl Claim {
    /// Held with this.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Some(Box::new(held)))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// Which documents a follower is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FeedScope {
    /// All of the installation but projections: what controllers themselves go by.
    Installation,
    /// All of the installation: proxies, which hand projections on.
    Proxies,
    /// Trust, revocations of one organisation, and the projection of its policy to one cluster: the agents of that cluster.
    Cluster(OrgId, ClusterId),
}

/// Keeps which version each document is at, and what was signed last.
///
/// The series are: `trust` and `revocations` of the installation, `policy` and `revocations` of each organisation, a
/// projection of that policy for each of its clusters, a `session` for each credential whose certificate has not expired.
/// A projection is made with its cluster, is at the version of its policy always, and goes with its cluster. A document's version is that of the organisation (or
/// the installation) with the newest change in it, so that a version is never used twice. `conformance::documents` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait DocumentStore: Send + Sync + std::fmt::Debug + 'static {
    /// Series that have changed since they were published, were never published, or were signed before
    /// `signed_before`; those that have changed first, at most `limit`. In the place of [projections](Self::projections), which
    /// come last, their policy is named, once. Sessions of certificates that have expired at
    /// `now` are forgotten on the way.
    async fn due(&self, signed_before: Timestamp, now: Timestamp, limit: u32) -> Result<Vec<SeriesKey>, StoreError>;

    /// The clusters of `org` whose projections have changed since they were published, were never published, or were signed
    /// before `signed_before`.
    async fn projections(&self, org: &OrgId, signed_before: Timestamp) -> Result<Vec<ClusterId>, StoreError>;

    /// Has the policy of `org` and its projections to itself as far as other controllers ask as well, until the claim is dropped
    /// or its holder is cut off; none if another one has. It saves work, and nothing depends on it: [`Self::publish`] takes each
    /// version once.
    async fn claim(&self, _org: &OrgId) -> Result<Option<Claim>, StoreError> {
        Ok(Some(Claim::default()))
    }

    /// What the document of a series is to say now; `None` if there is no such series (any more).
    async fn snapshot(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Snapshot>, StoreError>;

    /// At which revision [`Self::snapshot`] would be, without reading what it says: asked for again and again.
    async fn revision(&self, series: &SeriesKey, now: Timestamp) -> Result<Option<Revision>, StoreError> {
        Ok(self.snapshot(series, now).await?.map(|snapshot| snapshot.revision))
    }

    /// Publishes a signed document under the next place in the feed, unless one that is as new is published already or
    /// the series is gone; `true` if it was.
    async fn publish(&self, document: &Published) -> Result<bool, StoreError>;

    /// Publishes documents of one organisation in this order, in one transaction; tells how many were, and the others are not as
    /// new as what is published, or gone.
    async fn publish_all(&self, documents: &[Published]) -> Result<usize, StoreError>;

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
