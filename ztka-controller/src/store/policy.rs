//! The whole of a policy: changed as one, with who has changed what.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{OrgId, UserId};

use super::{Action, ResourceKind, StoreError};

/// One object of a policy before and after a change, as JSON.
///
/// Its kind is one of [`PolicyEdit::KINDS`]. Clusters go by their id, and are neither made nor deleted by an edit: only what
/// policy looks at in them is changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyEdit {
    /// What kind of object.
    pub kind: ResourceKind,
    /// Its name; the id of a cluster; [`PolicyEdit::ONE`] of what there is one of.
    pub name: String,
    /// What it was; none if it was not there.
    pub before: Option<String>,
    /// What it is then; none if it goes.
    pub after: Option<String>,
}

impl PolicyEdit {
    /// What a policy is made of, in an order in which nothing refers to what comes later.
    pub const KINDS: [ResourceKind; 8] = [
        ResourceKind::Project,
        ResourceKind::Cluster,
        ResourceKind::PolicyGroup,
        ResourceKind::Role,
        ResourceKind::Binding,
        ResourceKind::Denial,
        ResourceKind::Guardrails,
        ResourceKind::Settings,
    ];

    /// The name of guardrails and settings.
    pub const ONE: &str = "default";

    /// What becomes of the object.
    pub fn action(&self) -> Action {
        match (&self.before, &self.after) {
            (_, None) => Action::Deleted,
            (None, Some(_)) => Action::Created,
            (Some(_), Some(_)) => Action::Updated,
        }
    }
}

/// A change of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyChange {
    /// The version of the policy that it was made from; with another one in the store it is refused.
    pub basis: u64,
    /// What is changed; never empty, and no object twice.
    pub edits: Vec<PolicyEdit>,
    /// Who changes it.
    pub author: UserId,
    /// How, in a word or two: `apply`, `rollback 17`.
    pub act: String,
    /// When.
    pub at: Timestamp,
}

/// A version of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyVersion {
    /// The version that the change has made.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// Who has made it; none of what there was when the first change was recorded.
    pub author: Option<UserId>,
    /// How.
    pub act: String,
    /// How many objects it is of.
    pub edits: u64,
    /// The first [`PolicyVersion::SHOWN`] of these.
    pub first: Vec<(ResourceKind, String, Action)>,
}

impl PolicyVersion {
    /// So many objects of each change are listed.
    pub const SHOWN: usize = 20;
}

/// So many versions of a policy are kept,
pub const POLICY_VERSIONS: usize = 1000;
/// of which the older ones go as soon as what they say takes more than this, in characters of JSON: 64 MiB.
pub const POLICY_HISTORY: u64 = 64 << 20;

/// Changes policies as a whole, and remembers how they were.
///
/// `conformance::policy` (feature `conformance`) says all of this as tests.
#[async_trait]
pub trait PolicyStore: Send + Sync + std::fmt::Debug + 'static {
    /// Makes a change, in one transaction: everything in it, a change in the feed for each object, the next version of the
    /// `policy` document, and the entry in the history. Returns the new version of the policy.
    ///
    /// [`StoreError::Changed`] if the policy is at another version than `basis`, [`StoreError::NotFound`] without the
    /// organisation or a cluster, [`StoreError::Refused`] if it would be larger than
    /// [`LARGEST_POLICY`](super::LARGEST_POLICY).
    async fn change_policy(&self, org: &OrgId, change: &PolicyChange) -> Result<u64, StoreError>;

    /// The versions of a policy before `before` (of all, if it is none), newest first, at most `limit`.
    async fn policy_history(
        &self,
        org: &OrgId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<PolicyVersion>, StoreError>;

    /// What leads from the policy at version `until` back to the one at `to`, in the order in which to do it: each edit has
    /// what the object was in `after`. [`StoreError::Compacted`] if some of it is not kept any more.
    async fn policy_back(&self, org: &OrgId, until: u64, to: u64) -> Result<Vec<PolicyEdit>, StoreError>;
}
