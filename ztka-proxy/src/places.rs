//! Who has a place: connections and handshakes, counted by network, so that no one network can take them all.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Limits,
    limits::{Arrivals, Counted, Counts, network, places},
};

/// A connection's place among all, and among those of its network; free when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Place {
    _held: Arc<(OwnedSemaphorePermit, Option<Own>)>,
}

/// A place among those of one network.
pub(crate) type Own = Counted<IpAddr>;

impl Place {
    pub(crate) fn new(of_all: OwnedSemaphorePermit, of_network: Option<Own>) -> Self {
        Self { _held: Arc::new((of_all, of_network)) }
    }
}

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    arrivals: Arrivals,
    networks: Counts<IpAddr>,
    each: usize,
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        let all = Arc::new(places(limits.connections));
        Self { all, arrivals: Arrivals::new(limits), networks: Counts::default(), each: limits.address_connections }
    }

    /// A place among all.
    pub(crate) fn of_all(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().try_acquire_owned().ok()
    }

    /// A place among those of the network of `client`, which may not come too fast either.
    pub(crate) fn of_network(&self, client: IpAddr) -> Option<Own> {
        let own = self.networks.enter(network(client), self.each)?;
        self.arrivals.admit(client).then_some(own)
    }
}

/// Turns for handshakes. Whoever stalls one keeps only others of the same network waiting.
#[derive(Debug)]
pub(crate) struct Handshakes {
    all: Semaphore,
    each: usize,
    networks: Mutex<HashMap<IpAddr, Queue>>,
}

/// The handshakes of one network.
#[derive(Debug)]
struct Queue {
    places: Arc<Semaphore>,
    /// Those under way and those that wait.
    members: usize,
}

impl Handshakes {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (all, each) = (places(limits.handshakes), limits.address_handshakes);
        Self { all, each, networks: Mutex::default() }
    }

    /// Waits for the turn of a client; it lasts until the returned guard is dropped. Cancel safe.
    pub(crate) async fn turn(&self, client: IpAddr) -> io::Result<Turn<'_>> {
        let member = self.join(network(client));
        // First the network's own: whoever waits for it takes nothing from others.
        let own = member.places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let of_all = self.all.acquire().await.map_err(io::Error::other)?;
        Ok(Turn { _own: own, _of_all: of_all, _member: member })
    }

    fn join(&self, network: IpAddr) -> Member<'_> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = networks.entry(network);
        let queue = queue.or_insert_with(|| Queue { places: Arc::new(places(self.each)), members: 0 });
        queue.members += 1;
        Member { handshakes: self, network, places: queue.places.clone() }
    }
}

/// The turn of one handshake.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _own: OwnedSemaphorePermit,
    _of_all: tokio::sync::SemaphorePermit<'a>,
    _member: Member<'a>,
}

/// Keeps a network's queue as long as somebody is in it.
#[derive(Debug)]
struct Member<'a> {
    handshakes: &'a Handshakes,
    network: IpAddr,
    places: Arc<Semaphore>,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut networks = self.handshakes.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut queue) = networks.entry(self.network) {
            queue.get_mut().members -= 1;
            if queue.get().members == 0 {
                queue.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_network_waits_for_itself_only_and_is_forgotten() {
        let limits = Limits { handshakes: 3, address_handshakes: 2, ..Limits::default() };
        let handshakes = Handshakes::new(&limits);
        let turn = |address: &str| handshakes.turn(address.parse().unwrap());
        let mut held: Vec<_> = ["2001:db8::1", "2001:db8::2"].map(|at| turn(at).now_or_never().unwrap()).into();
        let mut third = Box::pin(turn("2001:db8::3"));
        assert!(third.as_mut().now_or_never().is_none());
        // Another network has its turn; a third one finds all taken.
        let other = turn("2001:db8:0:1::1").now_or_never().unwrap();
        let mut late = Box::pin(turn("192.0.2.1"));
        assert!(late.as_mut().now_or_never().is_none());
        drop(other);
        assert!(late.now_or_never().is_some());
        held.pop();
        assert!(third.now_or_never().is_some());
        held.clear();
        assert!(handshakes.networks.lock().unwrap().is_empty());
    }

    #[test]
    fn a_network_has_so_many_connections() {
        let places = Places::new(&Limits { address_connections: 2, ..Limits::default() });
        let of = |address: &str| places.of_network(address.parse().unwrap());
        let held = [of("2001:db8::1"), of("2001:db8::ffff:0:0:2")];
        assert!(held.iter().all(Option::is_some) && of("2001:db8::3").is_none());
        assert!(of("2001:db8:0:1::1").is_some() && of("::ffff:192.0.2.1").is_some());
        drop(held);
        assert!(of("2001:db8::3").is_some());
    }
}
