//! What a controller keeps, as traits, so that any number of controllers can share one store.
//!
//! A change and the new version of every document that it touches are one transaction. Controllers then sign what is
//! due: whoever comes first publishes, the others find it done.
//!
//! # Writing a backend
//!
//! A backend is a type with all of these traits, and those of `ztka-identity`, `ztka-pki` and `ztka-audit` that [`Stores::of`]
//! asks for. The traits' own pages say what each call does; what all of them have in common is this:
//!
//! * **One call is one transaction**, on the disk before it returns. After an error, also one in the middle of a `kill -9`,
//!   nothing of it has happened; only where the connection was cut nobody knows, and whoever calls looks again.
//! * **Changes of one organisation happen one after the other.** A change raises the version of its organisation (`None`: of
//!   the installation) by one, and has the organisation to itself until it ends: what it checks first is still so at its
//!   end, no version becomes visible before a smaller one, and what is undone takes its version back. Changes of two
//!   organisations need not wait for each other.
//! * **Every change is in the feed**: one [`Change`] with the version that it has made, in the same transaction. So is the
//!   next version of each document that says something new now; [`DocumentStore`] says which documents there are.
//! * **References are looked at**, in both directions, where a trait says so: a binding of a role that is not there, a role
//!   that a binding gives. Names are unique as they are compared: by their bytes, since their types are folded already.
//! * **What a call answers is of one moment**, also where it takes several questions.
//! * **Errors**: [`StoreError`] where the caller can do something about it; everything else is
//!   [`StoreError::Unavailable`], with a [`ztka_identity::Outage`] among its sources if it is one of those kinds, so that
//!   the API, the log and `/readyz` say what to do. A call gives up after seconds, not minutes.
//! * **Times are arguments.** A store never asks for the time, so one whose clock goes back forgets nothing early.
//! * **Cancellation**: a future that is dropped leaves a transaction undone, or done, and no lock behind.
//!
//! Each trait has a suite under `conformance` (feature `conformance`, here and in those three crates), which makes a fresh
//! store and holds it against all of that:
//!
//! | suite | of |
//! |---|---|
//! | `ztka_identity::conformance::identity` | `IdentityStore` |
//! | `conformance::{resources, documents, revocations, changes, compaction, conditions}` | [`ResourceStore`], [`DocumentStore`], [`RevocationStore`], [`ChangeStore`] |
//! | `conformance::pages` | [`PageStore`] |
//! | `conformance::policy` | [`PolicyStore`] |
//! | `conformance::recordings` | [`RecordingStore`] |
//! | `conformance::{members, live_tokens, controllers, authorities}` | [`MemberStore`], [`AuthorityStore`] |
//! | `ztka_pki::conformance::{key_store, enrolment_store}` | `KeyStore`, `EnrolmentStore` |
//! | `ztka_audit::conformance::{events, receipts, log}` | `EventStore`, `ReceiptStore`, `LogStore` |
//!
//! `ztka-store/tests/conformance.rs` runs them on both databases, and is the example to begin with: a new backend is a third
//! `Place` there. Beside them a backend is worth what `ztka-store/tests/feed.rs` (writers killed, connections cut),
//! `failures.rs` (full, read only, damaged, away) and `backup.rs` say of it.
mod authorities;
mod changes;
mod documents;
mod findings;
mod jobs;
mod members;
mod page;
mod pages;
mod policy;
mod recordings;
mod resources;
mod revocations;

use std::sync::Arc;

use ztka_audit::{EventStore, LogStore, ReceiptStore};
use ztka_identity::IdentityStore;
use ztka_pki::{EnrolmentStore, KeyStore};

pub use ztka_identity::StoreError;

pub use self::{
    authorities::AuthorityStore,
    changes::{Action, Change, ChangeStore, Changes, Conditional, Listed, Listing, ResourceKind, UnknownWord},
    documents::{Claim, Content, DocumentStore, FeedEntry, FeedScope, Published, RevokedFacts, Snapshot},
    findings::{FindingStore, Found},
    jobs::{DataKey, Deletion, Job, JobKind, JobStatus, JobStore, MasterKey, Step},
    members::{Acknowledgement, LiveCredential, LiveMember, LiveToken, MemberStore},
    page::{Page, Paged},
    pages::PageStore,
    policy::{POLICY_HISTORY, POLICY_VERSIONS, PolicyChange, PolicyEdit, PolicyStore, PolicyVersion},
    recordings::{KeptRecording, RecordingStore, TakenChunk},
    resources::{Cluster, Instance, LARGEST_POLICY, Overdue, Proxy, ResourceStore},
    revocations::{Certificate, Revocable, Revocation, RevocationStore, StoredCrl},
};

/// Every store that a controller needs. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Stores {
    pub identity: Arc<dyn IdentityStore>,
    pub resources: Arc<dyn ResourceStore>,
    pub policy: Arc<dyn PolicyStore>,
    pub documents: Arc<dyn DocumentStore>,
    pub revocations: Arc<dyn RevocationStore>,
    pub changes: Arc<dyn ChangeStore>,
    pub authorities: Arc<dyn AuthorityStore>,
    pub enrolment: Arc<dyn EnrolmentStore>,
    pub events: Arc<dyn EventStore>,
    pub receipts: Arc<dyn ReceiptStore>,
    pub log: Arc<dyn LogStore>,
    pub findings: Arc<dyn FindingStore>,
    pub recordings: Arc<dyn RecordingStore>,
    pub members: Arc<dyn MemberStore>,
    pub jobs: Arc<dyn JobStore>,
    pub pages: Arc<dyn PageStore>,
    pub keys: Arc<dyn KeyStore>,
}

impl Stores {
    /// One store for everything but keys.
    pub fn of<S>(store: Arc<S>, keys: Arc<dyn KeyStore>) -> Self
    where
        S: IdentityStore
            + ResourceStore
            + PolicyStore
            + DocumentStore
            + RevocationStore
            + ChangeStore
            + AuthorityStore
            + EnrolmentStore
            + EventStore
            + ReceiptStore
            + LogStore
            + FindingStore
            + RecordingStore
            + MemberStore
            + JobStore
            + PageStore
            + 'static,
    {
        Self {
            identity: store.clone(),
            resources: store.clone(),
            policy: store.clone(),
            documents: store.clone(),
            revocations: store.clone(),
            changes: store.clone(),
            authorities: store.clone(),
            enrolment: store.clone(),
            events: store.clone(),
            receipts: store.clone(),
            log: store.clone(),
            findings: store.clone(),
            recordings: store.clone(),
            members: store.clone(),
            jobs: store.clone(),
            pages: store,
            keys,
        }
    }
}
