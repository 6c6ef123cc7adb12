//! Watching changes: one reader of the store for all who watch an organisation.
//!
//! A watcher goes on from a revision. What it has missed it reads from the store; what comes from then on it is handed by
//! the organisation's reader, which looks at the store when a hint says so and from time to time. A watcher takes nothing
//! but the version after its own: whatever gets lost on the way (a slow watcher, a reader that had to begin again) sends
//! it back to the store. So how it learns of a change never matters for what it sees.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};
use ztka_core::{OrgId, Revision};

use crate::{
    Controller,
    store::{Change, ChangeStore, StoreError},
};

/// Changes read at once.
const PAGE: u32 = 200;
/// Pages that a watcher may be behind its reader before it reads for itself.
const BEHIND: usize = 64;
/// Another controller's changes are seen after this long at the latest, should a hint get lost.
const POLL: Duration = Duration::from_millis(500);

type Pages = broadcast::Sender<Arc<[Change]>>;

/// The readers, one for each organisation that is watched.
#[derive(Clone)]
pub(crate) struct Watched {
    store: Arc<dyn ChangeStore>,
    readers: Arc<Mutex<HashMap<OrgId, Pages>>>,
}

/// Somebody who sees every change of an organisation once, in order.
#[derive(Debug)]
pub struct ChangeWatch {
    watched: Watched,
    org: OrgId,
    at: Revision,
    pages: broadcast::Receiver<Arc<[Change]>>,
    /// There may be changes that no page will bring.
    missed: bool,
}

impl Watched {
    pub(crate) fn new(store: Arc<dyn ChangeStore>) -> Self {
        Self { store, readers: Arc::default() }
    }

    /// Watches an organisation from `from` on. Nothing is read yet.
    pub(crate) fn watch(&self, org: OrgId, from: Revision) -> ChangeWatch {
        let pages = self.subscribe(&org, from);
        ChangeWatch { watched: self.clone(), org, at: from, pages, missed: true }
    }

    fn subscribe(&self, org: &OrgId, from: Revision) -> broadcast::Receiver<Arc<[Change]>> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pages) = readers.get(org) {
            return pages.subscribe();
        }
        let (pages, first) = broadcast::channel(BEHIND);
        readers.insert(org.clone(), pages.clone());
        tokio::spawn(self.clone().read(org.clone(), from, pages));
        first
    }

    /// Reads for everybody, until nobody is there or the history is another one.
    async fn read(self, org: OrgId, mut at: Revision, pages: Pages) {
        let mut hint = self.store.hint();
        while !self.is_left(&org, &pages) {
            hint.mark_unchanged();
            match self.store.changes(Some(&org), at, PAGE).await {
                Ok(page) if !page.changes.is_empty() => {
                    at.version = page.changes.last().map_or(at.version, |last| last.version);
                    let _ = pages.send(page.changes.into());
                    continue;
                }
                Ok(_) | Err(StoreError::Unavailable(_)) => {}
                Err(_) => break,
            }
            let _ = timeout(POLL, hint.changed()).await;
        }
        self.end(&org, &pages, |_| true);
    }

    /// Nobody watches any more; whoever comes after this gets a new reader.
    fn is_left(&self, org: &OrgId, pages: &Pages) -> bool {
        self.end(org, pages, |pages| pages.receiver_count() == 0)
    }

    /// Takes a reader's place away if `over`; tells whether it was.
    fn end(&self, org: &OrgId, pages: &Pages, over: impl FnOnce(&Pages) -> bool) -> bool {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let over = over(pages);
        if over && readers.get(org).is_some_and(|current| current.same_channel(pages)) {
            readers.remove(org);
        }
        over
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Controller {
    /// Watches an organisation from a revision on, as a listing or an earlier watch has told it.
    pub fn watch_changes(&self, org: OrgId, from: Revision) -> ChangeWatch {
        self.0.watched.watch(org, from)
    }
}

impl ChangeWatch {
    /// The revision up to which everything was seen.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// The next changes, at least one; waits for them.
    ///
    /// Cancellation-safe: what was not returned is returned by the next call.
    ///
    /// # Errors
    /// [`StoreError::Compacted`]: list again. [`StoreError::Unavailable`]: the watch may go on when the store is back.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            if self.missed {
                let page = self.watched.store.changes(Some(&self.org), self.at, PAGE).await?;
                self.missed = page.changes.len() >= PAGE as usize;
                if !page.changes.is_empty() {
                    return Ok(self.seen(page.changes));
                }
            }
            match self.pages.recv().await {
                Ok(page) => {
                    let new: Vec<_> = page.iter().filter(|change| change.version > self.at.version).cloned().collect();
                    match new.first() {
                        None => {}
                        Some(first) if first.version == self.at.version + 1 => return Ok(self.seen(new)),
                        Some(_) => self.missed = true,
                    }
                }
                Err(RecvError::Lagged(_)) => self.missed = true,
                Err(RecvError::Closed) => {
                    self.pages = self.watched.subscribe(&self.org, self.at);
                    self.missed = true;
                }
            }
        }
    }

    fn seen(&mut self, changes: Vec<Change>) -> Vec<Change> {
        self.at.version = changes.last().map_or(self.at.version, |last| last.version);
        changes
    }
}
