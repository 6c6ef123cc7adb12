//! What a controller counts, for whoever exports it. No name of a user, an organisation or a cluster is in it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ztka_audit::Ingested;
use ztka_core::{ClusterId, ProxyId};
use ztka_identity::{OutageKind, StoreError};
use ztka_pki::{EnrolmentOutcome, RenewalStatus};

use crate::{Controller, Route, store::Overdue};

/// A controller's counts at one moment. Of several controllers over one store, each has its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// Clusters of which an agent follows this controller's feed.
    pub clusters_connected: usize,
    /// Agents' connections that follow the feed.
    pub following_agents: usize,
    /// Proxies' connections that follow the feed.
    pub following_proxies: usize,
    /// Requests to the API by route and status, refused ones included.
    pub requests: Vec<(Route, StatusCode, u64)>,
    /// Enrolments and renewals by what came of them: `enrolled`, `waiting`, `repeated`, `renewed`, `refused`, `failed`.
    pub enrolments: BTreeMap<&'static str, u64>,
    /// Reports of proxies.
    pub events: Records,
    /// Reports of agents.
    pub receipts: Records,
    /// Calls of a store that failed.
    pub store_errors: u64,
    /// The controller's own certificates by name: seconds until each expires, and whether its renewal is overdue.
    pub certificates: BTreeMap<&'static str, (i64, bool)>,
}

/// Records that came in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Records {
    /// New ones, durable now.
    pub stored: u64,
    /// Those that were there already.
    pub known: u64,
}

/// Who follows the feed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Follows {
    Cluster(ClusterId),
    Proxy(ProxyId),
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    followers: Mutex<HashMap<Follows, usize>>,
    requests: Mutex<HashMap<(Route, StatusCode), u64>>,
    enrolments: Mutex<BTreeMap<&'static str, u64>>,
    events: Mutex<Records>,
    receipts: Mutex<Records>,
    store_errors: AtomicU64,
    failing: Mutex<Option<StoreFailing>>,
}

/// The store has not done as asked for some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoreFailing {
    /// Since when.
    pub since: Timestamp,
    /// In which way, the last time.
    pub kind: OutageKind,
}

impl StoreFailing {
    /// For how long; nothing if the clock was set back.
    pub fn age(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.since).max(SignedDuration::ZERO)
    }
}

/// Counted as long as it lives.
pub(crate) struct Following(Controller, Follows);

impl Drop for Following {
    fn drop(&mut self) {
        let mut followers = held(&self.0.0.counts.followers);
        if let Some(count) = followers.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                followers.remove(&self.1);
            }
        }
    }
}

fn held<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    pub(crate) fn request(&self, route: Route, status: StatusCode) {
        *held(&self.requests).entry((route, status)).or_default() += 1;
    }

    pub(crate) fn enrolment(&self, outcome: &EnrolmentOutcome) {
        let name = match outcome {
            EnrolmentOutcome::Enrolled => "enrolled",
            EnrolmentOutcome::Waiting => "waiting",
            EnrolmentOutcome::Repeated => "repeated",
            EnrolmentOutcome::Renewed => "renewed",
            EnrolmentOutcome::Refused(_) => "refused",
            EnrolmentOutcome::Failed(_) => "failed",
        };
        *held(&self.enrolments).entry(name).or_default() += 1;
    }

    /// A proxy's events, or an agent's receipts.
    pub(crate) fn reported(&self, ingested: &Ingested, receipts: bool) {
        let count = |records: usize| u64::try_from(records).unwrap_or(u64::MAX);
        let mut records = held(if receipts { &self.receipts } else { &self.events });
        records.stored = records.stored.saturating_add(count(ingested.stored));
        records.known = records.known.saturating_add(count(ingested.known));
    }

    /// What came of the look at the store that the controller takes all the time.
    pub(crate) fn store_looked_at(&self, failed: Option<OutageKind>, now: Timestamp) {
        let mut failing = held(&self.failing);
        let since = failing.map_or(now, |failing| failing.since);
        let next = failed.map(|kind| StoreFailing { since, kind });
        match (*failing, next) {
            (None, Some(_)) => tracing::warn!("the store fails; proxies and agents go on with what they hold"),
            (Some(_), None) => tracing::info!(%since, "the store does as asked again"),
            _ => {}
        }
        *failing = next;
    }

    pub(crate) fn store_failed(&self) {
        self.store_errors.fetch_add(1, Relaxed);
    }
}

impl Controller {
    /// What was counted since this controller was opened.
    pub fn figures(&self) -> Figures {
        let counts = &self.0.counts;
        let mut figures = Figures {
            requests: held(&counts.requests).iter().map(|((route, status), count)| (*route, *status, *count)).collect(),
            enrolments: held(&counts.enrolments).clone(),
            events: *held(&counts.events),
            receipts: *held(&counts.receipts),
            store_errors: counts.store_errors.load(Relaxed),
            ..Figures::default()
        };
        let now = self.now();
        let left = |status: RenewalStatus| (status.not_after.duration_since(now).as_secs(), status.overdue);
        figures.certificates = self.own_certificates().into_iter().map(|(name, status)| (name, left(status))).collect();
        for (who, connections) in &*held(&counts.followers) {
            match who {
                Follows::Cluster(_) => {
                    figures.clusters_connected += 1;
                    figures.following_agents += connections;
                }
                Follows::Proxy(_) => figures.following_proxies += connections,
            }
        }
        figures
    }

    /// Since when the store fails, and how; `None` while it does as asked. Looked at twice a second.
    pub fn store_failing(&self) -> Option<StoreFailing> {
        *held(&self.0.counts.failing)
    }

    /// Clusters of all organisations.
    ///
    /// # Errors
    /// The store cannot be used now.
    pub async fn clusters_known(&self) -> Result<usize, StoreError> {
        let mut known = 0;
        for org in self.0.stores.identity.orgs().await? {
            known += self.0.stores.resources.clusters(&org.id).await?.len();
        }
        Ok(known)
    }

    /// Members whose certificates are not renewed, though they ought to be.
    ///
    /// # Errors
    /// The store cannot be used now.
    pub async fn overdue(&self) -> Result<Overdue, StoreError> {
        self.0.stores.resources.overdue(self.now()).await
    }

    /// Findings of the last day: journals of proxies and agents in which records are missing or changed.
    ///
    /// # Errors
    /// The store cannot be used now.
    pub async fn findings_of_a_day(&self) -> Result<u64, StoreError> {
        let since = self.now().checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN);
        self.0.stores.findings.count_findings(since).await
    }

    pub(crate) fn following(&self, who: Follows) -> Following {
        *held(&self.0.counts.followers).entry(who.clone()).or_default() += 1;
        Following(self.clone(), who)
    }
}
