//! Addresses that can be dialled, what became of them so far, and which one is next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ztka_core::ProxyId;

use super::{
    KnownProxy,
    pace::{Jitter, Pace, bound},
};
use crate::{DialSettings, ProxyAddress};

/// A shared name by which no proxy is held is tried so often before one by which one is.
const FRESH: u32 = 4;
/// A shared name is redialled so often for another proxy, if nobody says whether there is one.
const TRIES: u32 = 3;
/// The same, if the directory says that there is one.
const TRIES_FOR_KNOWN: u32 = 10;
/// Then it is tried ever more rarely, up to this.
const MAX_SEARCH: Duration = Duration::from_secs(15 * 60);

/// One address and its history.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: ProxyAddress,
    /// The proxy whose own it is; any may be behind a shared one.
    pub(super) of: Option<ProxyId>,
    pace: Pace,
    /// So often in a row it has led to a proxy of no use to us.
    repeats: u32,
    /// Whoever seeks another proxy does not try it before.
    search_at: Instant,
    /// For turns: larger is later.
    tried: u64,
}

/// All of them, and what is known of proxies.
#[derive(Debug)]
pub(super) struct Targets {
    all: Vec<Target>,
    known: BTreeMap<ProxyId, Option<String>>,
    turn: u64,
    bounds: (Duration, Duration),
    search: Duration,
}

/// What tunnels there are, as far as it matters for the next one.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// Proxies that are held, or are about to be.
    pub(super) taken: BTreeSet<ProxyId>,
    /// Proxies that are to be left.
    pub(super) draining: BTreeSet<ProxyId>,
    /// Zones of those in `taken`.
    pub(super) zones: BTreeSet<String>,
    /// Addresses by which those in `taken` were reached, or are about to be.
    pub(super) ways: Vec<ProxyAddress>,
}

/// What an address is needed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// So many attempts in a row have failed.
    pub(super) failures: u32,
    /// Only one that is certain to lead into a zone where there is no tunnel.
    pub(super) improve: bool,
    /// The proxy that is held already is as good as another.
    pub(super) renew: bool,
}

/// Which address is next, or when there will be one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    Now(usize),
    At(Instant),
    Never,
}

impl Targets {
    pub(super) fn new(shared: impl IntoIterator<Item = ProxyAddress>, settings: &DialSettings, now: Instant) -> Self {
        let mut all: Vec<Target> = Vec::new();
        for address in shared {
            if all.iter().all(|target| target.address != address) {
                all.push(Target { address, of: None, pace: Pace::new(now), repeats: 0, search_at: now, tried: 0 });
            }
        }
        let bounds = (settings.first_retry, settings.max_retry);
        Self { all, known: BTreeMap::new(), turn: 0, bounds, search: settings.search }
    }

    /// The directory is now `proxies`. What became of an address is remembered as long as it is the same proxy's.
    pub(super) fn learn(&mut self, proxies: &[KnownProxy], now: Instant) {
        let known: BTreeMap<_, _> = proxies.iter().map(|proxy| (proxy.id.clone(), proxy.zone.clone())).collect();
        if known.keys().any(|id| !self.known.contains_key(id)) {
            self.forget_repeats(now);
        }
        self.known = known;
        let is = |target: &Target| {
            let of = target.of.as_ref();
            of.is_none_or(|id| {
                proxies.iter().any(|known| known.id == *id && known.address.as_ref() == Some(&target.address))
            })
        };
        self.all.retain(is);
        for KnownProxy { id, address, .. } in proxies {
            let Some(address) = address else { continue };
            if self.all.iter().all(|target| target.of.as_ref() != Some(id)) {
                let (address, of) = (address.clone(), Some(id.clone()));
                self.all.push(Target { address, of, pace: Pace::new(now), repeats: 0, search_at: now, tried: 0 });
            }
        }
    }

    pub(super) fn zone(&self, id: &ProxyId) -> Option<&String> {
        self.known.get(id)?.as_ref()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Target> {
        self.all.get(index)
    }

    fn find(&mut self, address: &ProxyAddress, of: Option<&ProxyId>) -> Option<&mut Target> {
        self.all.iter_mut().find(|target| target.address == *address && target.of.as_ref() == of)
    }

    /// Something has changed: shared names may lead to somebody new.
    pub(super) fn forget_repeats(&mut self, now: Instant) {
        for target in self.all.iter_mut().filter(|target| target.repeats > 0) {
            target.repeats = 0;
            target.search_at = target.search_at.min(now + self.bounds.0);
        }
    }

    pub(super) fn dialled(&mut self, index: usize) {
        self.turn += 1;
        if let Some(target) = self.all.get_mut(index) {
            target.tried = self.turn;
        }
    }

    pub(super) fn failed(&mut self, address: &ProxyAddress, of: Option<&ProxyId>, now: Instant, jitter: &mut Jitter) {
        let bounds = self.bounds;
        if let Some(target) = self.find(address, of) {
            target.pace.failed(now, bounds, jitter);
        }
    }

    pub(super) fn succeeded(&mut self, address: &ProxyAddress, of: Option<&ProxyId>) {
        if let Some(target) = self.find(address, of) {
            target.pace.succeeded();
            target.repeats = 0;
        }
    }

    /// A shared name has led to a proxy of no use; says how often in a row.
    pub(super) fn repeated(&mut self, address: &ProxyAddress, others: bool, now: Instant, jitter: &mut Jitter) {
        let ((first, cap), search) = (self.bounds, self.search);
        let Some(target) = self.find(address, None) else { return };
        target.pace.succeeded();
        target.repeats = target.repeats.saturating_add(1);
        let tries = if others { TRIES_FOR_KNOWN } else { TRIES };
        target.search_at = now
            + match target.repeats.checked_sub(tries) {
                None => jitter.within(bound(target.repeats, first, cap)),
                Some(more) => {
                    let wait = search.saturating_mul(2_u32.saturating_pow(more)).min(MAX_SEARCH);
                    wait / 2 + jitter.within(wait / 2)
                }
            };
    }

    /// True while a proxy that would do, but not well, is still to be refused.
    pub(super) fn is_choosy(&self, address: &ProxyAddress) -> bool {
        self.all.iter().any(|target| target.of.is_none() && target.address == *address && target.repeats < TRIES)
    }

    /// True if the directory knows a proxy that there is no tunnel to.
    pub(super) fn has_others(&self, holding: &Holding) -> bool {
        self.known.keys().any(|id| !holding.taken.contains(id) && !holding.draining.contains(id))
    }

    /// True if the directory knows one in another zone than those that are held.
    pub(super) fn has_other_zone(&self, holding: &Holding) -> bool {
        self.known.iter().any(|(id, zone)| {
            let is_other = zone.as_ref().is_some_and(|zone| !holding.zones.contains(zone));
            is_other && !holding.taken.contains(id) && !holding.draining.contains(id)
        })
    }

    /// The next address for `need`.
    pub(super) fn next(&self, holding: &Holding, need: Need, now: Instant, jitter: &mut Jitter) -> Next {
        let Need { failures, improve, renew } = need;
        // Nobody else is there, and whoever comes is announced.
        let complete = !self.known.is_empty() && !holding.taken.is_empty() && !self.has_others(holding);
        // A shared name by which one is held is likely to lead there again: first those by which none is.
        let is_way = |target: &Target| target.of.is_none() && holding.ways.contains(&target.address);
        let is_fresh = |target: &Target| {
            target.of.is_none() && !is_way(target) && target.pace.failures.saturating_add(target.repeats) < FRESH
        };
        let fresh = !renew && self.all.iter().any(is_fresh);
        let (mut best, mut soonest) = (None, None);
        for (index, target) in self.all.iter().enumerate() {
            // From best to worst: certain to be another zone, anybody, another proxy of the same zone. After a failure a
            // shared name comes first: who is behind it has been looked at by others.
            let rank = match &target.of {
                None if complete || improve || (fresh && is_way(target)) => continue,
                None => 1,
                Some(id) if holding.taken.contains(id) || holding.draining.contains(id) => continue,
                Some(id) => {
                    let is_other = self.zone(id).is_some_and(|zone| !holding.zones.contains(zone));
                    match is_other {
                        true => 2 * (failures % 2),
                        false if improve => continue,
                        false => 3,
                    }
                }
            };
            let not_before = if renew { target.pace.not_before } else { target.pace.not_before.max(target.search_at) };
            if not_before > now {
                soonest = Some(soonest.map_or(not_before, |at: Instant| at.min(not_before)));
                continue;
            }
            let score = (target.pace.failures > 0 && target.of.is_some(), rank, target.pace.failures, target.tried);
            let score = (score, jitter.toss());
            if best.as_ref().is_none_or(|(lowest, _)| score < *lowest) {
                best = Some((score, index));
            }
        }
        match (best, soonest) {
            (Some((_, index)), _) => Next::Now(index),
            (None, Some(at)) => Next::At(at),
            (None, None) => Next::Never,
        }
    }
}
