//! What a controller keeps, as traits, so that any number of controllers can share one store.
//!
//! A change and the new version of every document that it touches are one transaction. Controllers then sign what is
//! due: whoever comes first publishes, the others find it done.
mod authorities;
mod changes;
mod documents;
mod findings;
mod members;
mod resources;
mod revocations;

use std::sync::Arc;

use ztka_audit::{EventStore, ReceiptStore};
use ztka_identity::IdentityStore;
use ztka_pki::{EnrolmentStore, KeyStore};

pub use ztka_identity::StoreError;

pub use self::{
    authorities::AuthorityStore,
    changes::{Action, Change, ChangeStore, Changes, Conditional, Listed, Listing, ResourceKind, UnknownWord},
    documents::{Content, DocumentStore, FeedEntry, FeedScope, Published, RevokedFacts, Snapshot},
    findings::{FindingStore, Found},
    members::{Acknowledgement, LiveCredential, LiveMember, LiveToken, MemberStore},
    resources::{Cluster, Instance, LARGEST_POLICY, Overdue, Proxy, ResourceStore},
    revocations::{Certificate, Revocable, Revocation, RevocationStore, StoredCrl},
};

/// Every store that a controller needs. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Stores {
    pub identity: Arc<dyn IdentityStore>,
    pub resources: Arc<dyn ResourceStore>,
    pub documents: Arc<dyn DocumentStore>,
    pub revocations: Arc<dyn RevocationStore>,
    pub changes: Arc<dyn ChangeStore>,
    pub authorities: Arc<dyn AuthorityStore>,
    pub enrolment: Arc<dyn EnrolmentStore>,
    pub events: Arc<dyn EventStore>,
    pub receipts: Arc<dyn ReceiptStore>,
    pub findings: Arc<dyn FindingStore>,
    pub members: Arc<dyn MemberStore>,
    pub keys: Arc<dyn KeyStore>,
}

impl Stores {
    /// One store for everything but keys.
    pub fn of<S>(store: Arc<S>, keys: Arc<dyn KeyStore>) -> Self
    where
        S: IdentityStore
            + ResourceStore
            + DocumentStore
            + RevocationStore
            + ChangeStore
            + AuthorityStore
            + EnrolmentStore
            + EventStore
            + ReceiptStore
            + FindingStore
            + MemberStore
            + 'static,
    {
        Self {
            identity: store.clone(),
            resources: store.clone(),
            documents: store.clone(),
            revocations: store.clone(),
            changes: store.clone(),
            authorities: store.clone(),
            enrolment: store.clone(),
            events: store.clone(),
            receipts: store.clone(),
            findings: store.clone(),
            members: store,
            keys,
        }
    }
}
