//! Users' connections, and the watch over them: a certificate that has expired or is revoked takes them with it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use ztka_authz::Sessions as _;

use crate::{Connection, Directory, connection::WeakConnection};

/// Ends of certificates are looked for this often.
const TICK: Duration = Duration::from_secs(1);

/// Every user's connection of this proxy. A handle: clones share it.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: Directory,
    next: AtomicU64,
    connections: Mutex<HashMap<u64, WeakConnection>>,
}

impl Connections {
    /// None is there; trust and revocations are those of `directory`.
    pub fn new(directory: Directory) -> Self {
        Self(Arc::new(Shared { directory, next: AtomicU64::new(0), connections: Mutex::default() }))
    }

    /// How many there are now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Ends those whose certificate is no longer valid, whenever something changes or one expires, until it is dropped.
    pub async fn enforce(self) {
        let mut changes = self.0.directory.changes();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.review(true); // what changed before anybody listened
        loop {
            let all = tokio::select! {
                _ = changes.changed() => true,
                _ = tick.tick() => false,
            };
            self.review(all);
        }
    }

    fn review(&self, all: bool) {
        let (now, trust) = (self.0.directory.clock().now(), self.0.directory.trust());
        // Collected first: the last handle to a connection takes it off the list, which needs the lock.
        let connections: Vec<_> = self.lock().values().filter_map(WeakConnection::upgrade).collect();
        for connection in connections {
            let over = connection.certificate().is_some_and(|certificate| {
                certificate.peer.not_after <= now || all && trust.is_revoked(&certificate.peer)
            });
            if over {
                connection.cut().cancel();
            }
        }
    }

    /// Watches over `connection`, which keeps the returned guard.
    pub(crate) fn watch(&self, connection: &Connection) -> Watched {
        let id = self.0.next.fetch_add(1, Relaxed);
        self.lock().insert(id, connection.downgrade());
        Watched { connections: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, WeakConnection>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of [`Connections::watch`].
#[derive(Debug)]
pub(crate) struct Watched {
    connections: Connections,
    id: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}
