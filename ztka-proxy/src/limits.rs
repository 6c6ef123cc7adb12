//! How much one user, one network and all together may have going on. Beyond it is an answer at once, never a queue that
//! grows; only handshakes wait for their turn, no longer than they may last.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};
use ztka_core::{ClusterId, UserId};

/// Limits of one proxy. Each has a default that suits a few thousand users.
///
/// What counts by address counts an IPv6 /64 as one. Behind a balancer that sends no PROXY protocol header, all
/// connections come from its address: there these have to be as high as those of all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once, of all kinds. Default 20,000.
    pub connections: usize,
    /// Of these, from one address. Default 1,000.
    pub address_connections: usize,
    /// TLS handshakes of users under way at once, and as many of agents; further ones wait. Default 4,096.
    pub handshakes: usize,
    /// Of these, from one address; further ones wait. Default 64.
    pub address_handshakes: usize,
    /// How long a user's connection without a client certificate lasts, whatever it asks, with a unit as in `15s`.
    /// Default 15 s.
    pub without_certificate: SignedDuration,
    /// New connections in a row from one address. Default 1,000.
    pub new_connections_burst: u32,
    /// And from then on per second. Default 200.
    pub new_connections_per_second: u32,
    /// Requests of all users without a body that wait for the head of their answer. Default 4,096.
    pub requests: usize,
    /// The same of those with a body, which a client may send as slowly as it likes. Default 4,096.
    pub requests_with_body: usize,
    /// A request's body comes at least this fast, or stays away for 30 s at most; what goes to a pod, a service or a node
    /// (`proxy`) may take its time. 0 is no limit. Default 500.
    pub body_bytes_per_second: u32,
    /// Connections of one user. Default 500.
    pub user_connections: usize,
    /// New connections in a row of one user. Default 500.
    pub user_new_connections_burst: u32,
    /// And from then on per second. Default 50.
    pub user_new_connections_per_second: u32,
    /// Requests that one user begins and gives up before they have ended, in a row, on all connections: by a reset of
    /// HTTP/2 or with a connection. Each is a reset in the cluster's tunnel too, which ends at 20,000 in a row or 4,000 in
    /// a second, so that this has to be far less. Beyond it connections are closed, or answered 429. Default 4,000.
    pub user_resets_burst: u32,
    /// And from then on per second. Default 200.
    pub user_resets_per_second: u32,
    /// Requests of one user that end by themselves, at once. Default 400.
    pub user_requests: usize,
    /// Watches, followed logs, exec, attach and port-forward sessions of one user, at once. Default 2,000.
    pub user_streams: usize,
    /// Memory for what one user's clients have sent and nobody has read yet, and as much for what clusters have sent that the
    /// user does not read, in MiB; beyond it connections have small windows, and streams end that nobody reads. Default 192.
    pub user_memory_mib: usize,
    /// Requests to one cluster that end by themselves, at once, of all users. Default 2,000.
    pub cluster_requests: usize,
    /// Watches, followed logs and sessions of one cluster, at once, of all users. Default 10,000.
    pub cluster_streams: usize,
    /// New tunnels in a row of one cluster's agents. Default 64.
    pub cluster_new_tunnels_burst: u32,
    /// And from then on per second. Default 2.
    pub cluster_new_tunnels_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            address_connections: 1_000,
            handshakes: 4_096,
            address_handshakes: 64,
            without_certificate: SignedDuration::from_secs(15),
            new_connections_burst: 1_000,
            new_connections_per_second: 200,
            requests: 4_096,
            requests_with_body: 4_096,
            body_bytes_per_second: 500,
            user_connections: 500,
            user_new_connections_burst: 500,
            user_new_connections_per_second: 50,
            user_resets_burst: 4_000,
            user_resets_per_second: 200,
            user_requests: 400,
            user_streams: 2_000,
            user_memory_mib: 192,
            cluster_requests: 2_000,
            cluster_streams: 10_000,
            cluster_new_tunnels_burst: 64,
            cluster_new_tunnels_per_second: 2,
        }
    }
}

/// Room for so many; a number beyond what is counted means no limit.
pub(crate) fn places(most: usize) -> Semaphore {
    Semaphore::new(most.min(Semaphore::MAX_PERMITS))
}

/// What of a user is counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    Connection,
    Request,
    Stream,
}

/// Counts by some key. A handle: clones share the counts.
#[derive(Debug)]
pub(crate) struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

/// Counts by user and kind.
pub(crate) type UserCounts = Counts<(UserId, Kind)>;
/// Something of a user, counted.
pub(crate) type CountedUser = Counted<(UserId, Kind)>;
/// Counts by cluster and kind.
pub(crate) type ClusterCounts = Counts<(ClusterId, Kind)>;
/// Something of a cluster, counted.
pub(crate) type CountedCluster = Counted<(ClusterId, Kind)>;

/// One that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted<K: Eq + Hash> {
    counts: Counts<K>,
    key: K,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    /// Counts one more of `key`; `None` if there are `most` already.
    pub(crate) fn enter(&self, key: K, most: usize) -> Option<Counted<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&key).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Counted { counts: self.clone(), key })
    }
}

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

/// Keys that are remembered; beyond it those that have recovered are forgotten, then strangers share one bucket.
const KEYS: usize = 65_536;

/// What was left in a bucket, and when. Without a key is the one that strangers share.
type Levels<K> = HashMap<Option<K>, (f64, Instant)>;

/// Token buckets by some key. A handle: clones share them.
#[derive(Debug)]
struct Buckets<K> {
    levels: Arc<Mutex<Levels<K>>>,
    burst: f64,
    per_second: f64,
}

impl<K> Clone for Buckets<K> {
    fn clone(&self) -> Self {
        Self { levels: self.levels.clone(), ..*self }
    }
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    fn new(burst: u32, per_second: u32) -> Self {
        Self { levels: Arc::default(), burst: burst.into(), per_second: per_second.into() }
    }

    /// Whether one more of `key` may come now.
    fn admit(&self, key: K) -> bool {
        let Self { levels, burst, per_second } = self;
        let (now, mut key) = (Instant::now(), Some(key));
        let filled =
            |(left, at): (f64, Instant)| (left + now.duration_since(at).as_secs_f64() * per_second).min(*burst);
        let mut buckets = levels.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEYS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| filled(*bucket) < *burst);
            if buckets.len() >= KEYS {
                key = None;
            }
        }
        let bucket = buckets.entry(key).or_insert((*burst, now));
        *bucket = (filled(*bucket), now);
        if bucket.0 < 1.0 {
            return false;
        }
        bucket.0 -= 1.0;
        true
    }

    /// Takes `count` of `key`, which cannot be refused any more; false if there were not as many, which are owed then.
    fn charge(&self, key: K, count: u32) -> bool {
        let mut buckets = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = Some(key);
        let key = if buckets.len() < KEYS || buckets.contains_key(&known) { known } else { None };
        let (left, at) = buckets.get(&key).copied().unwrap_or((self.burst, now));
        let left = (left + now.duration_since(at).as_secs_f64() * self.per_second).min(self.burst) - f64::from(count);
        // What is owed is paid back in bearable time.
        buckets.insert(key, (left.max(-self.burst), now));
        left >= 0.0
    }
}

/// New connections by network address.
#[derive(Debug)]
pub(crate) struct Arrivals(Buckets<IpAddr>);

impl Arrivals {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Buckets::new(limits.new_connections_burst, limits.new_connections_per_second))
    }

    /// Whether one more connection from `address` may come now.
    pub(crate) fn admit(&self, address: IpAddr) -> bool {
        self.0.admit(network(address))
    }
}

/// New connections by user.
#[derive(Clone, Debug)]
pub(crate) struct UserArrivals(Buckets<UserId>);

impl UserArrivals {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Buckets::new(limits.user_new_connections_burst, limits.user_new_connections_per_second))
    }

    pub(crate) fn admit(&self, user: &UserId) -> bool {
        self.0.admit(user.clone())
    }
}

/// What users give up before it has ended, by user.
#[derive(Clone, Debug)]
pub(crate) struct UserResets(Buckets<UserId>);

impl UserResets {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Buckets::new(limits.user_resets_burst, limits.user_resets_per_second))
    }

    /// Whether `user` has given up more than may be.
    pub(crate) fn is_owing(&self, user: &UserId) -> bool {
        !self.0.charge(user.clone(), 0)
    }
}

/// What one connection charges to its user.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) resets: UserResets,
    pub(crate) user: UserId,
}

impl Account {
    /// The user has given up one more; false if that is too much.
    pub(crate) fn charge(&self) -> bool {
        self.resets.0.charge(self.user.clone(), 1)
    }
}

/// New tunnels by cluster.
#[derive(Clone, Debug)]
pub(crate) struct TunnelArrivals(Buckets<ClusterId>);

impl TunnelArrivals {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Buckets::new(limits.cluster_new_tunnels_burst, limits.cluster_new_tunnels_per_second))
    }

    pub(crate) fn admit(&self, cluster: &ClusterId) -> bool {
        self.0.admit(cluster.clone())
    }
}

/// An IPv6 host has a /64 to choose addresses from.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & (u128::MAX << 64))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_is_counted_until_the_end() {
        let counts = UserCounts::default();
        let enter = |user: &str, kind| counts.enter((user.parse().unwrap(), kind), 1);
        let first = enter("u1", Kind::Request);
        assert!(first.is_some() && enter("u1", Kind::Request).is_none());
        assert!(enter("u1", Kind::Stream).is_some() && enter("u2", Kind::Request).is_some());
        assert!(counts.enter(("u1".parse().unwrap(), Kind::Request), 2).is_some());
        drop(first);
        assert!(enter("u1", Kind::Request).is_some());
        assert!(counts.enter(("u3".parse().unwrap(), Kind::Request), 0).is_none());
        assert!(counts.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_table_names_what_differs_with_units() {
        let read = |text: &str| serde_json::from_str::<Limits>(text);
        assert_eq!(read("{}").unwrap(), Limits::default());
        let limits = read(r#"{"address_connections": 5, "without_certificate": "1m 30s"}"#).unwrap();
        let without_certificate = SignedDuration::from_secs(90);
        assert_eq!(limits, Limits { address_connections: 5, without_certificate, ..Limits::default() });
        for bad in [r#"{"without_certificate": 15}"#, r#"{"address_connection": 5}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_recovers() {
        let limits = Limits { new_connections_burst: 2, new_connections_per_second: 1, ..Limits::default() };
        let arrivals = Arrivals::new(&limits);
        let admit = |address: &str| arrivals.admit(address.parse().unwrap());
        assert!(admit("2001:db8::1") && admit("2001:db8::2") && !admit("2001:db8::3"));
        assert!(admit("192.0.2.1"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(admit("2001:db8::1") && !admit("2001:db8::1"));
    }
}
