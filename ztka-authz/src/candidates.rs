//! Bindings, or denials, by who is meant: what a decision looks through.

mod places;

use std::ops::ControlFlow;

use ztka_core::{GroupName, Principal, UserName};

pub(crate) use self::places::{Entry, FEW, Run, exactly};
use self::places::{Places, Raw};
use crate::{
    Subject,
    compile::{Reach, Within},
    groups::{Groups, Member},
    names::{Name, Names, Slot},
    words,
};

/// A part of [`ByWho::around`].
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    from: u32,
    length: u32,
}

/// Somebody who is named, or everybody: whom bindings, or denials, are found by.
#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    /// A bit for each cluster on which there are some for it, shared by many.
    clusters: u64,
    /// There are some by no cluster of their own.
    wide: bool,
    /// Groups of the document that it is in, itself left out.
    around: Part,
}

/// A name in its slot: one cache line says who that is and whether there is anything for them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Seat {
    name: Name,
    clusters: u64,
}

impl Slot for Seat {
    fn name(&self) -> &Name {
        &self.name
    }

    fn name_mut(&mut self) -> &mut Name {
        &mut self.name
    }
}

/// Set in the number of a seat: there is something for it by no cluster of its own.
const WIDE: u32 = 1 << 31;
/// Set in the number of a seat: it is in groups of the document.
const AROUND: u32 = 1 << 30;
/// Where the number of a holder is in that of a seat.
const HOLDER: u32 = AROUND - 1;

/// Holders are looked for in the places this many at a time, so that one is not waited for before the next is begun.
const AT_ONCE: usize = 16;

/// Candidates by who is meant.
///
/// Groups of the document are not written out: there are as many entries as subjects are written down, and whoever asks is
/// looked for in the groups that they are in, by however many others.
#[derive(Debug, Default)]
pub(crate) struct ByWho {
    users: Names<Seat>,
    groups: Names<Seat>,
    /// By the number of a holder; those of the document's groups come first and have the same numbers as these.
    named: Vec<Subject>,
    holders: Vec<Holder>,
    of_document: u32,
    /// Numbers of groups of the document, for each of their members in a row.
    around: Vec<u32>,
    everybody: Holder,
    places: Places,
    raw: Vec<Raw>,
}

/// No holder has this number.
const EVERYBODY: u32 = HOLDER;

impl ByWho {
    /// Without candidates, for people who are in these groups.
    pub(crate) fn of(groups: &Groups<'_>) -> Self {
        let mut new = Self { of_document: number(groups.numbers().count()), ..Self::default() };
        let _: ControlFlow<()> = groups.each(|member, numbers, _| {
            let at = new.hold(&match member {
                Member::User(name) => Subject::User(name.clone()),
                Member::Group(name) => Subject::Group(name.clone()),
            });
            let from = number(new.around.len());
            new.around.extend(numbers.iter().filter(|number| **number != at));
            if let Some(holder) = new.holders.get_mut(at as usize) {
                holder.around = Part { from, length: number(new.around.len()) - from };
            }
            ControlFlow::Continue(())
        });
        new
    }

    /// The number of the holder of that name, from now on if not before.
    fn hold(&mut self, subject: &Subject) -> u32 {
        let (names, name) = match subject {
            Subject::User(name) => (&mut self.users, name.as_str()),
            Subject::Group(name) => (&mut self.groups, name.as_str()),
        };
        if let Some(seat) = names.find(name, |at| text(&self.named, at)) {
            return seat.name.number;
        }
        let new = number(self.holders.len());
        names.insert(name, new);
        self.named.push(subject.clone());
        self.holders.push(Holder::default());
        new
    }

    /// One more of what is looked for, with what else is to be found beside its number.
    pub(crate) fn add(&mut self, entry: (u32, u32), reach: &Reach, within: &Within, subjects: &[Subject]) {
        for subject in subjects {
            let holder = self.hold(subject);
            self.place(holder, entry, reach, within);
        }
    }

    pub(crate) fn add_for_everybody(&mut self, entry: (u32, u32), reach: &Reach, within: &Within) {
        self.place(EVERYBODY, entry, reach, within);
    }

    fn place(&mut self, holder: u32, entry: (u32, u32), reach: &Reach, within: &Within) {
        let clusters = places::raw(holder, entry, reach, within, &mut self.raw);
        let known = match holder {
            EVERYBODY => Some(&mut self.everybody),
            holder => self.holders.get_mut(holder as usize),
        };
        if let Some(known) = known {
            known.wide |= clusters.is_none();
            known.clusters |= clusters.unwrap_or_default();
        }
    }

    pub(crate) fn finish(&mut self) {
        self.places = Places::of(std::mem::take(&mut self.raw));
        for (subject, holder) in self.named.iter().zip(&self.holders) {
            let (names, name) = match subject {
                Subject::User(name) => (&mut self.users, name.as_str()),
                Subject::Group(name) => (&mut self.groups, name.as_str()),
            };
            if let Some(seat) = names.find_mut(name, |at| text(&self.named, at & HOLDER)) {
                seat.clusters = holder.clusters;
                let marks = [(holder.wide, WIDE), (holder.around.length > 0, AROUND)];
                marks.into_iter().filter(|(is, _)| *is).for_each(|(_, mark)| seat.name.number |= mark);
            }
        }
        self.named.shrink_to_fit();
        self.holders.shrink_to_fit();
        self.around.shrink_to_fit();
    }

    /// Users that are named, or in a group of the document.
    pub(crate) fn users(&self) -> impl Iterator<Item = &UserName> {
        self.named.iter().filter_map(|subject| match subject {
            Subject::User(name) => Some(name),
            Subject::Group(_) => None,
        })
    }

    /// Groups that are named, or in one of the document, or of it.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.named.iter().filter_map(|subject| match subject {
            Subject::User(_) => None,
            Subject::Group(name) => Some(name),
        })
    }

    /// Numbers of those that name the user, the user's own first, then those of groups, then those of everybody. Who is in
    /// several groups may come to see one several times.
    pub(crate) fn of_whom(&self, who: &Principal, cluster: u32) -> impl Iterator<Item = u32> + use<> {
        let mut found = Vec::new();
        let _: ControlFlow<()> = self.each_on(who, cluster, |entry| {
            found.push(entry.number);
            ControlFlow::Continue(())
        });
        found.into_iter()
    }

    /// Shows the same until it is told to stop.
    #[inline]
    pub(crate) fn each_on<B>(
        &self,
        who: &Principal,
        cluster: u32,
        mut visit: impl FnMut(&Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.each_run(who, cluster, |run| run.each(&mut visit))
    }

    /// Shows them by whom they name, in the same order.
    #[inline]
    pub(crate) fn each_run<B>(
        &self,
        who: &Principal,
        cluster: u32,
        mut visit: impl FnMut(Run<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut hits = Hits { those: [(0, 0); AT_ONCE], count: 0 };
        for seat in self.seats(who) {
            if hits.count + 2 > AT_ONCE {
                hits.run(&self.places, &mut visit)?;
            }
            let at = seat.name.number & HOLDER;
            hits.note(at, cluster, has(seat.clusters, cluster));
            hits.note(at, places::ANYWHERE, seat.name.number & WIDE != 0);
            if seat.name.number & AROUND == 0 {
                continue;
            }
            for at in self.around_of(at) {
                if hits.count + 2 > AT_ONCE {
                    hits.run(&self.places, &mut visit)?;
                }
                if let Some(holder) = self.holders.get(*at as usize) {
                    hits.note(*at, cluster, has(holder.clusters, cluster));
                    hits.note(*at, places::ANYWHERE, holder.wide);
                }
            }
        }
        if hits.count + 2 > AT_ONCE {
            hits.run(&self.places, &mut visit)?;
        }
        hits.note(EVERYBODY, cluster, has(self.everybody.clusters, cluster));
        hits.note(EVERYBODY, places::ANYWHERE, self.everybody.wide);
        hits.run(&self.places, &mut visit)
    }

    /// Numbers of the groups of the document that somebody is in.
    pub(crate) fn around(&self, who: &Principal) -> impl Iterator<Item = u32> {
        self.seats(who).flat_map(|seat| {
            let at = seat.name.number & HOLDER;
            Some(at).filter(|at| *at < self.of_document).into_iter().chain(self.around_of(at).iter().copied())
        })
    }

    #[inline]
    fn seats(&self, who: &Principal) -> impl Iterator<Item = &Seat> {
        let text = |at: u32| text(&self.named, at & HOLDER);
        let user = self.users.find(who.name().as_str(), text);
        let groups = who.groups().iter().filter_map(move |group| self.groups.find(group.as_str(), text));
        user.into_iter().chain(groups)
    }

    /// The groups of the document that a holder is in, itself left out.
    fn around_of(&self, holder: u32) -> &[u32] {
        let Part { from, length } = self.holders.get(holder as usize).map(|holder| holder.around).unwrap_or_default();
        self.around.get(from as usize..(from + length) as usize).unwrap_or_default()
    }
}

fn text(named: &[Subject], at: u32) -> &str {
    match named.get(at as usize) {
        Some(Subject::User(name)) => name.as_str(),
        Some(Subject::Group(name)) => name.as_str(),
        None => "",
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(EVERYBODY)
}

/// Each bit stands for every 64th cluster.
#[inline]
fn has(clusters: u64, cluster: u32) -> bool {
    clusters >> (cluster % u64::BITS) & 1 != 0
}

/// Holders, each with a cluster where there may be something for it.
struct Hits {
    those: [(u32, u32); AT_ONCE],
    count: usize,
}

impl Hits {
    #[inline]
    fn note(&mut self, holder: u32, cluster: u32, is: bool) {
        if let Some(slot) = self.those.get_mut(self.count) {
            *slot = (holder, cluster);
            self.count += usize::from(is);
        }
    }

    #[inline]
    fn run<B>(&mut self, places: &Places, visit: &mut impl FnMut(places::Run<'_>) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut spots = [(0, 0); AT_ONCE];
        let count = std::mem::take(&mut self.count);
        let those = self.those.iter().take(count);
        for (spot, (holder, cluster)) in spots.iter_mut().zip(those.clone()) {
            *spot = places.spot(*holder, *cluster);
        }
        for ((holder, cluster), spot) in those.zip(spots) {
            visit(places.run(*holder, *cluster, spot))?;
        }
        ControlFlow::Continue(())
    }
}

/// Some people and groups, and who is in those of the document.
#[derive(Debug)]
pub(crate) struct Those {
    named: Box<[Subject]>,
    /// Numbers of groups of the document, sorted.
    groups: Box<[u32]>,
}

impl Those {
    pub(crate) fn of(groups: &Groups<'_>, subjects: &[Subject]) -> Self {
        let number = |subject: &Subject| match subject {
            Subject::User(_) => None,
            Subject::Group(name) => groups.number(name),
        };
        Self { named: subjects.into(), groups: words::sorted(subjects.iter().filter_map(number).collect()) }
    }

    /// True if somebody is among them, `people` being of the same document.
    pub(crate) fn have(&self, who: &Principal, people: &ByWho) -> bool {
        let named = self.named.iter().any(|subject| match subject {
            Subject::User(name) => name == who.name(),
            Subject::Group(name) => who.groups().contains(name),
        });
        named || (!self.groups.is_empty() && people.around(who).any(|number| words::has(&self.groups, number)))
    }
}
