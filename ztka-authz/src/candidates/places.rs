//! Where what names somebody counts: by holder and cluster, and in each of these by namespace.

use std::ops::ControlFlow;

use crate::{
    compile::{Reach, Within},
    names::{Scatter, first},
    words::{NONE, Word},
};

/// What is on more clusters, or in more namespaces, is looked at wherever somebody asks.
pub(crate) const FEW: usize = 16;

/// No cluster has this number, and no namespace is this word.
pub(super) const ANYWHERE: u32 = NONE;

/// Instead of a word: in any namespace, but in one.
const INSIDE: Word = NONE - 1;

/// In more entries a namespace is searched for.
const LONG: usize = 16;

/// A binding, or a denial, where it counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Entry {
    /// Of the binding, or the denial.
    pub(crate) number: u32,
    namespace: Word,
    /// What whoever put it in wants to know before it is looked at.
    pub(crate) what: u32,
}

impl Entry {
    #[inline]
    fn counts_in(&self, namespace: Word) -> bool {
        self.namespace == namespace || self.namespace == ANYWHERE || (self.namespace == INSIDE && namespace != NONE)
    }
}

/// True for each of both that says all: whoever finds an entry knows that it reaches the cluster, and counts in the namespace.
pub(crate) fn exactly(reach: &Reach, within: &Within) -> (bool, bool) {
    let reach = match reach {
        Reach::All => true,
        Reach::Some(clusters) => clusters.len() <= FEW,
    };
    let within = match within {
        Within::Cluster | Within::AllNamespaces => true,
        Within::Namespaces(names) => names.len() <= FEW,
        Within::Labelled(_) => false,
    };
    (reach, within)
}

/// An entry, before there are places.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Raw {
    holder: u32,
    cluster: u32,
    entry: Entry,
}

/// Adds an entry for each place; the bits of its clusters, or none if it is by no cluster.
pub(super) fn raw(
    holder: u32,
    (number, what): (u32, u32),
    reach: &Reach,
    within: &Within,
    all: &mut Vec<Raw>,
) -> Option<u64> {
    let namespaces: &[u32] = match within {
        Within::Namespaces(names) if names.len() <= FEW => names,
        Within::Cluster => &[ANYWHERE],
        Within::AllNamespaces | Within::Namespaces(_) | Within::Labelled(_) => &[INSIDE],
    };
    let by_cluster = match reach {
        Reach::Some(clusters) if clusters.len() <= FEW => Some(&**clusters),
        _ => None,
    };
    for cluster in by_cluster.unwrap_or(&[ANYWHERE]) {
        let entries = namespaces.iter().map(|namespace| Entry { number, namespace: *namespace, what });
        all.extend(entries.map(|entry| Raw { holder, cluster: *cluster, entry }));
    }
    Some(by_cluster?.iter().fold(0, |bits, cluster| bits | 1 << (cluster % u64::BITS)))
}

/// Where the entries of a holder on a cluster are.
#[derive(Clone, Copy, Debug, Default)]
struct Spot {
    holder: u32,
    cluster: u32,
    from: u32,
    /// None: an empty spot.
    length: u32,
}

/// Set in the holder of a second spot, of each number once, where there are so many that the first is by namespace.
const LISTED: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Places {
    /// Two thirds of them taken, so that searches end soon.
    spots: Vec<Spot>,
    /// In a row for each spot: by number, but for many by namespace.
    entries: Vec<Entry>,
    scatter: Scatter,
}

impl Places {
    pub(super) fn of(mut raw: Vec<Raw>) -> Self {
        raw.sort_unstable();
        raw.dedup();
        let runs = || raw.chunk_by(|a, b| (a.holder, a.cluster) == (b.holder, b.cluster));
        let (mut spots, mut entries) = (0, 0);
        for run in runs() {
            let listed = if run.len() > LONG { once_each(run).count() } else { 0 };
            (spots, entries) = (spots + 1 + usize::from(listed > 0), entries + run.len() + listed);
        }
        let (spots, entries) = (vec![Spot::default(); spots * 3 / 2 + 1], Vec::with_capacity(entries));
        let mut new = Self { spots, entries, scatter: Scatter::default() };
        for run in runs() {
            let Some(Raw { holder, cluster, .. }) = run.first() else { continue };
            let from = new.entries.len();
            new.entries.extend(run.iter().map(|raw| raw.entry));
            new.mark(*holder, *cluster, from);
            if run.len() > LONG {
                let run_by_namespace = new.entries.get_mut(from..).unwrap_or_default();
                run_by_namespace.sort_unstable_by_key(|entry| (class(entry.namespace), entry.number));
                let from = new.entries.len();
                new.entries.extend(once_each(run));
                new.mark(*holder | LISTED, *cluster, from);
            }
        }
        new
    }

    /// Puts what comes after `from` there.
    fn mark(&mut self, holder: u32, cluster: u32, from: usize) {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (from, length) = (number(from), number(self.entries.len() - from));
        let at = first(self.scatter.hash(holder, cluster), self.spots.len());
        let (before, after) = self.spots.split_at_mut(at);
        let mut free = after.iter_mut().chain(before).filter(|spot| spot.length == 0);
        if let Some(free) = free.next() {
            *free = Spot { holder, cluster, from, length };
        }
    }

    /// From where on, and how many, there are for a holder on a cluster.
    #[inline]
    pub(super) fn spot(&self, holder: u32, cluster: u32) -> (u32, u32) {
        let from = first(self.scatter.hash(holder, cluster), self.spots.len());
        let Some((before, after)) = self.spots.split_at_checked(from) else { return (0, 0) };
        for spot in after.iter().chain(before) {
            if (spot.holder, spot.cluster) == (holder, cluster) || spot.length == 0 {
                return (spot.from, spot.length);
            }
        }
        (0, 0)
    }

    /// What is at a spot.
    #[inline]
    pub(super) fn run(&self, holder: u32, cluster: u32, spot: (u32, u32)) -> Run<'_> {
        let entries = self.part(spot);
        let listed = if entries.len() > LONG { self.part(self.spot(holder | LISTED, cluster)) } else { entries };
        Run { entries, listed }
    }

    #[inline]
    fn part(&self, (from, length): (u32, u32)) -> &[Entry] {
        self.entries.get(from as usize..(from + length) as usize).unwrap_or_default()
    }
}

/// Of each number the first, by number.
fn once_each(run: &[Raw]) -> impl Iterator<Item = Entry> {
    run.chunk_by(|a, b| a.entry.number == b.entry.number).filter_map(|same| same.first()).map(|raw| raw.entry)
}

/// What counts wherever somebody asks comes last.
fn class(namespace: Word) -> Word {
    namespace.min(INSIDE)
}

/// The entries of one holder on one cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run<'p> {
    /// By number, but for many by namespace.
    entries: &'p [Entry],
    /// By number; of many each number once.
    listed: &'p [Entry],
}

impl Run<'_> {
    /// Shows each number once, in order.
    #[inline]
    pub(crate) fn each<B>(self, visit: &mut impl FnMut(&Entry) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut last = None;
        for entry in self.listed {
            if last.replace(entry.number) != Some(entry.number) {
                visit(entry)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Shows those that may count in `namespace` ([`NONE`]: outside of all), in order.
    #[inline]
    pub(crate) fn each_at<B>(
        self,
        namespace: Word,
        visit: &mut impl FnMut(&Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self.entries.len() {
            0..=LONG => self.entries.iter().filter(|entry| entry.counts_in(namespace)).try_for_each(visit),
            _ => self.search(namespace, visit),
        }
    }

    fn search<B>(self, namespace: Word, visit: &mut impl FnMut(&Entry) -> ControlFlow<B>) -> ControlFlow<B> {
        let split = self.entries.partition_point(|entry| class(entry.namespace) < INSIDE);
        let (named, mut everywhere) = self.entries.split_at(split);
        let named = named.get(named.partition_point(|entry| entry.namespace < namespace)..).unwrap_or_default();
        let mut here = named.get(..named.partition_point(|entry| entry.namespace == namespace)).unwrap_or_default();
        loop {
            let next = match (here.first(), everywhere.first()) {
                (Some(one), Some(other)) if one.number < other.number => &mut here,
                (_, Some(_)) => &mut everywhere,
                (_, None) => &mut here,
            };
            let Some((entry, rest)) = next.split_first() else { return ControlFlow::Continue(()) };
            *next = rest;
            if entry.counts_in(namespace) {
                visit(entry)?;
            }
        }
    }
}
