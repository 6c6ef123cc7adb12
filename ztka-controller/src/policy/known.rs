//! Policies as they were read last: who asks again reads no more than which version there is.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use ztka_authz::{InvalidPolicy, PolicyDocument, PolicySet};
use ztka_core::{DocumentKind, OrgId, Revision, SeriesKey};
use ztka_identity::StoreError;

use crate::{
    Controller,
    store::{Content, Snapshot},
};

/// So many organisations' policies are kept,
const MOST: usize = 64;
/// and less of them if they are large: bytes of JSON of all of them together, which take some ten times as much memory.
const LARGEST: usize = 24 << 20;

/// The policy of an organisation at a revision, published or not.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) document: PolicyDocument,
    compiled: OnceLock<Result<PolicySet, InvalidPolicy>>,
}

impl Known {
    /// The version to change it from.
    pub(crate) fn version(&self) -> u64 {
        self.revision.version
    }

    /// The policy ready to be asked; compiled once, by the first who asks. Takes up to seconds: for threads that may wait.
    pub(crate) fn compiled(&self, org: &OrgId) -> Result<&PolicySet, InvalidPolicy> {
        let compile = || PolicySet::candidate(org.clone(), self.document.clone());
        self.compiled.get_or_init(compile).as_ref().map_err(Clone::clone)
    }

    /// Bytes of its JSON.
    fn size(&self) -> usize {
        let mut size = Size(0);
        match serde_json::to_writer(&mut size, &self.document) {
            Ok(()) => size.0,
            Err(_) => usize::MAX,
        }
    }
}

/// Counts what is written, and keeps nothing.
struct Size(usize);

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the policy of one organisation is kept; whoever reads it anew has it to themselves meanwhile, so that it is read
/// once and not by all who wait for it.
type Slot = Arc<AsyncMutex<Option<Arc<Known>>>>;

#[derive(Debug)]
struct Entry {
    org: OrgId,
    slot: Slot,
    size: usize,
}

/// The policies that were asked for last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct KnownPolicies(Mutex<Vec<Entry>>);

impl KnownPolicies {
    fn slot(&self, org: &OrgId) -> Slot {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match entries.iter().position(|entry| entry.org == *org) {
            Some(place) => entries.remove(place),
            None => Entry { org: org.clone(), slot: Slot::default(), size: 0 },
        };
        let slot = entry.slot.clone();
        entries.push(entry);
        slot
    }

    /// Notes how large one is, and forgets those that were asked for longest ago while there is too much.
    fn note(&self, org: &OrgId, size: usize) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter_mut().filter(|entry| entry.org == *org).for_each(|entry| entry.size = size);
        let mut sum = entries.iter().fold(0_usize, |sum, entry| sum.saturating_add(entry.size));
        while entries.len() > 1 && (entries.len() > MOST || sum > LARGEST) {
            sum = sum.saturating_sub(entries.remove(0).size);
        }
    }

    fn forget(&self, org: &OrgId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|entry| entry.org != *org);
    }
}

impl Controller {
    /// The policy of an organisation as it is now, published or not. Cancel safe.
    pub(crate) async fn policy(&self, org: &OrgId) -> Result<Arc<Known>, StoreError> {
        let series = SeriesKey { kind: DocumentKind::Policy, org: Some(org.clone()), subject: String::new() };
        let documents = &self.0.stores.documents;
        let missing = || {
            self.0.policies.forget(org);
            StoreError::not_found("organisation", org)
        };
        let revision = documents.revision(&series, self.now()).await?.ok_or_else(missing)?;
        let slot = self.0.policies.slot(org);
        let mut held = slot.lock().await;
        // A newer one was read by somebody else who came later and was faster.
        if let Some(known) = held.as_ref().filter(|known| known.revision >= revision) {
            return Ok(known.clone());
        }
        let Snapshot { revision, content } = documents.snapshot(&series, self.now()).await?.ok_or_else(missing)?;
        let Content::Policy(document) = content else {
            return Err(StoreError::unavailable("the store gave another document than the policy asked for"));
        };
        let known = Arc::new(Known { revision, document, compiled: OnceLock::new() });
        *held = Some(known.clone());
        drop(held);
        self.0.policies.note(org, known.size());
        Ok(known)
    }
}
