//! Documents that agents are to have: the latest of each name, for those of a cluster, of an organisation, or for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;
use ztka_core::{ClusterId, OrgId};

use super::tunnel::{Tunnel, TunnelPeer};
use crate::{DOCUMENT, DOCUMENTS_PATH, TunnelError};

/// Whose agents a document is for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Audience {
    /// All.
    All,
    /// Those of every cluster of an organisation.
    Org(OrgId),
    /// Those of one cluster.
    Cluster(OrgId, ClusterId),
}

impl From<Option<OrgId>> for Audience {
    /// All for `None`.
    fn from(org: Option<OrgId>) -> Self {
        org.map_or(Self::All, Self::Org)
    }
}

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
    scopes: Mutex<HashMap<Audience, Arc<Scope>>>,
    count: Mutex<u64>,
}

impl Board {
    fn scopes(&self) -> MutexGuard<'_, HashMap<Audience, Arc<Scope>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, audience: Audience, name: &str, body: Bytes) {
        let mut scopes = self.scopes();
        let scope = scopes.entry(audience).or_default();
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        let name: Arc<str> = name.into();
        scope.latest().insert(name.clone(), Notice { number: *count, name, body });
        drop(count);
        scope.changed.send_replace(());
    }

    pub(super) fn withdraw(&self, audience: &Audience, name: &str) {
        let mut scopes = self.scopes();
        let Some(scope) = scopes.get(audience) else { return };
        let mut latest = scope.latest();
        latest.remove(name);
        let is_over = latest.is_empty() && scope.changed.receiver_count() == 0;
        drop(latest);
        if is_over {
            scopes.remove(audience);
        }
    }

    /// What concerns an agent of this cluster, from its beginning.
    pub(super) fn follow(&self, peer: &TunnelPeer) -> Following {
        let (org, cluster) = (peer.org.clone(), peer.cluster.clone());
        let audiences = [Audience::All, Audience::Org(org.clone()), Audience::Cluster(org, cluster)];
        // Followed before anybody can find that nobody does, and forget them.
        let mut known = self.scopes();
        let scopes = audiences.map(|audience| known.entry(audience).or_default().clone());
        let changes = scopes.each_ref().map(|scope| scope.changed.subscribe());
        drop(known);
        Following { scopes, changes, delivered: HashMap::new() }
    }
}

/// One tunnel's place in the board.
#[derive(Debug)]
pub(super) struct Following {
    scopes: [Arc<Scope>; 3],
    changes: [watch::Receiver<()>; 3],
    delivered: HashMap<(usize, Arc<str>), u64>,
}

impl Following {
    /// Returns when something may be new. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let [all, org, cluster] = &mut self.changes;
        // The senders live as long as the scopes, which we hold.
        tokio::select! {
            _ = all.changed() => {}
            _ = org.changed() => {}
            _ = cluster.changed() => {}
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
