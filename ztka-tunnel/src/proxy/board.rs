//! Documents that every agent is to have: the latest of each name, by organisation or for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;
use ztka_core::OrgId;

use super::tunnel::Tunnel;
use crate::{DOCUMENT, DOCUMENTS_PATH, TunnelError};

#[derive(Clone, Debug)]
struct Notice {
    number: u64,
    name: Arc<str>,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Scope {
    latest: Mutex<HashMap<Arc<str>, Notice>>,
    changed: watch::Sender<()>,
}

impl Scope {
    fn latest(&self) -> MutexGuard<'_, HashMap<Arc<str>, Notice>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be known, and where.
#[derive(Debug, Default)]
pub(super) struct Board {
    scopes: Mutex<HashMap<Option<OrgId>, Arc<Scope>>>,
    count: Mutex<u64>,
}

impl Board {
    fn scope(&self, org: Option<OrgId>) -> Arc<Scope> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).entry(org).or_default().clone()
    }

    pub(super) fn publish(&self, org: Option<OrgId>, name: &str, body: Bytes) {
        let scope = self.scope(org);
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        let name: Arc<str> = name.into();
        scope.latest().insert(name.clone(), Notice { number: *count, name, body });
        drop(count);
        scope.changed.send_replace(());
    }

    pub(super) fn withdraw(&self, org: Option<OrgId>, name: &str) {
        self.scope(org).latest().remove(name);
    }

    /// What concerns an agent of `org`, from its beginning.
    pub(super) fn follow(&self, org: &OrgId) -> Following {
        let scopes = [self.scope(None), self.scope(Some(org.clone()))];
        let changes = scopes.each_ref().map(|scope| scope.changed.subscribe());
        Following { scopes, changes, delivered: HashMap::new() }
    }
}

/// One tunnel's place in the board.
#[derive(Debug)]
pub(super) struct Following {
    scopes: [Arc<Scope>; 2],
    changes: [watch::Receiver<()>; 2],
    delivered: HashMap<(usize, Arc<str>), u64>,
}

impl Following {
    /// Returns when something may be new. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let [all, org] = &mut self.changes;
        // The senders live as long as the scopes, which we hold.
        tokio::select! {
            _ = all.changed() => {}
            _ = org.changed() => {}
        }
    }

    /// Sends what is new, one after the other and in the order in which it was published.
    ///
    /// What the agent refuses is offered once more if something after it was taken, for it may have been signed by a
    /// key that came later; after that it is offered again when it is published again.
    pub(super) async fn deliver(&mut self, tunnel: &Tunnel) -> Result<(), TunnelError> {
        self.changes.iter_mut().for_each(|change| change.mark_unchanged());
        let mut due = self.due();
        for round in 0..2 {
            let (mut taken, mut refused) = (false, Vec::new());
            for (place, notice) in due {
                let name = HeaderValue::from_str(&notice.name).ok();
                let headers = name.map(|name| (DOCUMENT.clone(), name)).into_iter().collect::<HeaderMap>();
                let answer = tunnel.own(DOCUMENTS_PATH, headers, notice.body.clone()).await?;
                self.delivered.insert((place, notice.name.clone()), notice.number);
                if answer.status().is_success() {
                    taken = true;
                } else {
                    let (cluster, status) = (&tunnel.peer.cluster, answer.status());
                    tracing::warn!(%cluster, name = %notice.name, %status, round, "the agent refused a document");
                    refused.push((place, notice));
                }
            }
            if !taken {
                break;
            }
            due = refused;
        }
        Ok(())
    }

    fn due(&self) -> Vec<(usize, Notice)> {
        let mut due = Vec::new();
        for (place, scope) in self.scopes.iter().enumerate() {
            let latest = scope.latest();
            let new = latest.values().filter(|notice| {
                self.delivered.get(&(place, notice.name.clone())).is_none_or(|number| *number < notice.number)
            });
            due.extend(new.map(|notice| (place, notice.clone())));
        }
        due.sort_by_key(|(_, notice)| notice.number);
        due
    }
}
