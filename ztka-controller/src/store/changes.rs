//! The change feed: what has changed in an organisation, version by version.

use std::{fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use ztka_core::{OrgId, Revision};
use ztka_identity::IdentityStore;

use super::{PolicyStore, ResourceStore, StoreError};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word for it, in stores and on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord),
                }
            }
        }
    };
}

/// A word that is none of those known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a kind of resource or change")]
pub struct UnknownWord;

words! {
    /// What a change is of.
    ResourceKind {
        /// The organisation itself, by id; also in the installation's feed.
        Org = "org",
        /// A user, by id.
        User = "user",
        /// A group with its members, by name.
        Group = "group",
        /// A credential with its session, by id.
        Credential = "credential",
        /// A cluster, by id.
        Cluster = "cluster",
        /// A role, by name.
        Role = "role",
        /// A binding, by name.
        Binding = "binding",
        /// A project of clusters, by name.
        Project = "project",
        /// A group that policy itself has, by name.
        PolicyGroup = "policygroup",
        /// A denial, by name.
        Denial = "denial",
        /// What no role reaches, of which there is one.
        Guardrails = "guardrails",
        /// What applies to the organisation as a whole, of which there is one.
        Settings = "settings",
        /// A proxy of the installation, by id.
        Proxy = "proxy",
        /// Something that is revoked, by kind and name; such as are revoked are listed at `…/revocations`.
        Revocation = "revocation",
        /// The certificate authorities of the installation.
        Authority = "authority",
    }
}

words! {
    /// What has become of a resource.
    Action {
        /// It is new.
        Created = "created",
        /// It says something else.
        Updated = "updated",
        /// It is gone.
        Deleted = "deleted",
    }
}

/// A version of an organisation, and what it has that the one before had not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    /// The version; the one before is smaller by one.
    pub version: u64,
    /// What kind of resource.
    pub kind: ResourceKind,
    /// Which: its id or name, as [`ResourceKind`] says.
    pub name: String,
    /// What has become of it.
    pub action: Action,
}

/// Some changes, in order and without a gap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changes {
    /// Those after the version asked for.
    pub changes: Vec<Change>,
    /// The newest revision when they were read.
    pub head: Revision,
}

/// A resource and the version of its last change; 0 if that was before there were versions of resources.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Listed {
    /// What kind of resource.
    pub kind: ResourceKind,
    /// Its id or name.
    pub name: String,
    /// The version of the organisation that has changed it last.
    pub version: u64,
}

/// Everything that an organisation has, as it was at one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// That revision: watching goes on from here.
    pub revision: Revision,
    /// By kind and name.
    pub resources: Vec<Listed>,
}

/// Stores that change a thing only if nobody else has; see [`ChangeStore::at_version`].
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Conditional {
    pub identity: Arc<dyn IdentityStore>,
    pub resources: Arc<dyn ResourceStore>,
    pub policy: Arc<dyn PolicyStore>,
}

/// Tells who has changed what.
///
/// Each organisation, and the installation (`None`), has versions of its own, counted without gaps: a change and its
/// version are one transaction, and no version is seen before a smaller one. So whoever lists at a revision and reads on
/// from there, as often and as slowly as they like, sees every change once. `conformance::changes` (feature
/// `conformance`) says all of this as tests.
#[async_trait]
pub trait ChangeStore: Send + Sync + fmt::Debug + 'static {
    /// Everything there is, at one revision. [`StoreError::NotFound`] without such an organisation.
    async fn list(&self, org: Option<&OrgId>) -> Result<Listing, StoreError>;

    /// The changes after a revision, at most `limit`. [`StoreError::Compacted`] if some of them are not kept any more, or
    /// the revision is of another history: list again.
    async fn changes(&self, org: Option<&OrgId>, after: Revision, limit: u32) -> Result<Changes, StoreError>;

    /// The stores of organisations, users and resources, whose changes and deletions of something that is there are
    /// refused with [`StoreError::Changed`] unless it is at `version`, as [`Listed`] says it. Somebody who does the same at
    /// the same moment is refused, or finds this one refused. It makes no difference to what creates something.
    fn at_version(&self, version: u64) -> Conditional;

    /// Moves when something may have changed, here or in another process. Only a hint: it may be late, missing, or
    /// about nothing; whoever waits for it looks from time to time as well.
    fn hint(&self) -> watch::Receiver<u64>;
}
