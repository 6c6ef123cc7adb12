//! Bindings, or denials, by who is meant: what a decision looks through.

use std::ops::ControlFlow;

use ztka_core::{GroupName, Principal, UserName};

use crate::{
    Subject,
    compile::{Reach, Table, Within},
    groups::{Groups, Member},
    words::{self, NONE},
};

/// The bindings, or denials, that name one subject.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// Those of few clusters, by cluster, in the order of the document.
    listed: Vec<(u32, u32)>,
    /// All others.
    wide: Vec<u32>,
    /// Both again by where they count: by cluster, or [`ANYWHERE`], and by namespace, or [`ANYWHERE`].
    placed: Vec<(u32, u32, u32)>,
}

/// A binding of more clusters, or namespaces, is looked at wherever somebody asks.
pub(crate) const FEW: usize = 16;

/// No cluster has this number, and no namespace is this word.
const ANYWHERE: u32 = NONE;

impl Candidates {
    fn add(&mut self, number: u32, reach: &Reach, within: &Within) {
        let namespaces: &[u32] = match within {
            Within::Namespaces(names) if names.len() <= FEW => names,
            _ => &[ANYWHERE],
        };
        let clusters: &[u32] = match reach {
            Reach::Some(clusters) if clusters.len() <= FEW => {
                self.listed.extend(clusters.iter().map(|cluster| (*cluster, number)));
                clusters
            }
            _ => {
                self.wide.push(number);
                &[ANYWHERE]
            }
        };
        let places =
            clusters.iter().flat_map(|cluster| namespaces.iter().map(move |namespace| (*cluster, *namespace, number)));
        self.placed.extend(places);
    }

    fn finish(&mut self) {
        self.listed.sort_unstable();
        self.listed.dedup();
        self.listed.shrink_to_fit();
        self.placed.sort_unstable();
        self.placed.dedup();
        self.placed.shrink_to_fit();
        self.wide.dedup();
        self.wide.shrink_to_fit();
    }

    pub(crate) fn on(&self, cluster: u32) -> impl Iterator<Item = u32> + '_ {
        let from = self.listed.partition_point(|(other, _)| *other < cluster);
        let listed = self.listed.get(from..).unwrap_or_default().iter();
        let listed = listed.take_while(move |(other, _)| *other == cluster).map(|(_, number)| *number);
        listed.chain(self.wide.iter().copied())
    }

    /// Of [`Self::on`], in the same order, those that may count in `namespace` ([`NONE`]: outside of all).
    pub(crate) fn at(&self, cluster: u32, namespace: u32) -> impl Iterator<Item = u32> + '_ {
        // As wide ones come last there.
        [cluster, ANYWHERE].into_iter().flat_map(move |cluster| {
            let everywhere = self.run(cluster, ANYWHERE);
            let here: &[_] = if namespace == ANYWHERE { &[] } else { self.run(cluster, namespace) };
            merged(everywhere, here)
        })
    }

    fn run(&self, cluster: u32, namespace: u32) -> &[(u32, u32, u32)] {
        let from = self.placed.partition_point(|(of, at, _)| (*of, *at) < (cluster, namespace));
        let rest = self.placed.get(from..).unwrap_or_default();
        let length = rest.iter().take_while(|(of, at, _)| (*of, *at) == (cluster, namespace)).count();
        rest.get(..length).unwrap_or_default()
    }
}

/// The numbers of both, in order.
fn merged<'a>(mut a: &'a [(u32, u32, u32)], mut b: &'a [(u32, u32, u32)]) -> impl Iterator<Item = u32> + 'a {
    std::iter::from_fn(move || {
        let next = match (a.first(), b.first()) {
            (Some((_, _, one)), Some((_, _, other))) if other < one => &mut b,
            (Some(_), _) => &mut a,
            (None, _) => &mut b,
        };
        let ((_, _, number), rest) = next.split_first()?;
        *next = rest;
        Some(*number)
    })
}

/// A part of [`ByWho::around`].
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    from: u32,
    length: u32,
}

/// What names one user or group, and the groups of the document that they are in.
#[derive(Debug, Default)]
struct Named {
    own: Candidates,
    around: Part,
}

/// Candidates by who is meant.
///
/// Groups of the document are not written out: there are as many entries as subjects are written down, and whoever asks is
/// looked for in the groups that they are in, by however many others.
#[derive(Debug, Default)]
pub(crate) struct ByWho {
    users: Table<UserName, Named>,
    /// As sessions name them; what names a group of the document is in `within`.
    groups: Table<GroupName, Named>,
    /// By the number of a group of the document.
    within: Vec<Candidates>,
    /// Numbers of groups of the document, for each of their members in a row.
    around: Box<[u32]>,
    everybody: Candidates,
}

impl ByWho {
    /// Without candidates, for people who are in these groups.
    pub(crate) fn of(groups: &Groups<'_>) -> Self {
        let (mut users, mut named): (Table<UserName, Named>, Table<GroupName, Named>) = Default::default();
        let mut all: Vec<u32> = Vec::new();
        let _: ControlFlow<()> = groups.each(|member, numbers, _| {
            let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            let around = Part { from: number(all.len()), length: number(numbers.len()) };
            all.extend_from_slice(numbers);
            let own = Candidates::default();
            match member {
                Member::User(name) => drop(users.insert(name.clone(), Named { own, around })),
                Member::Group(name) => drop(named.insert(name.clone(), Named { own, around })),
            }
            ControlFlow::Continue(())
        });
        let within = groups.numbers().map(|_| Candidates::default()).collect();
        Self { users, groups: named, within, around: all.into(), everybody: Candidates::default() }
    }

    pub(crate) fn add(
        &mut self,
        groups: &Groups<'_>,
        number: u32,
        reach: &Reach,
        within: &Within,
        subjects: &[Subject],
    ) {
        for subject in subjects {
            let candidates = match subject {
                Subject::User(name) => Some(&mut self.users.entry(name.clone()).or_default().own),
                Subject::Group(name) => match groups.number(name) {
                    Some(known) => self.within.get_mut(known as usize),
                    None => Some(&mut self.groups.entry(name.clone()).or_default().own),
                },
            };
            candidates.into_iter().for_each(|candidates| candidates.add(number, reach, within));
        }
    }

    pub(crate) fn add_for_everybody(&mut self, number: u32, reach: &Reach, within: &Within) {
        self.everybody.add(number, reach, within);
    }

    pub(crate) fn finish(&mut self) {
        let named = self.users.values_mut().chain(self.groups.values_mut()).map(|named| &mut named.own);
        named.chain(&mut self.within).for_each(Candidates::finish);
        self.everybody.finish();
        self.users.shrink_to_fit();
        self.groups.shrink_to_fit();
    }

    /// Users that are named, or in a group of the document.
    pub(crate) fn users(&self) -> impl Iterator<Item = &UserName> {
        self.users.keys()
    }

    /// Groups that are named, or in one of the document, or of it.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.groups.keys()
    }

    /// Numbers of those that name the user, the user's own first, then those of groups, then those of everybody. Who is in
    /// several groups may come to see one several times.
    pub(crate) fn of_whom(&self, who: &Principal, cluster: u32) -> impl Iterator<Item = u32> {
        self.naming(who).flat_map(move |candidates| candidates.on(cluster))
    }

    /// The same without those that count in other namespaces alone.
    pub(crate) fn at(&self, who: &Principal, cluster: u32, namespace: u32) -> impl Iterator<Item = u32> {
        self.naming(who).flat_map(move |candidates| candidates.at(cluster, namespace))
    }

    fn naming<'s>(&'s self, who: &Principal) -> impl Iterator<Item = &'s Candidates> {
        let candidates = move |named: &'s Named| {
            let within = self.part(named.around).iter().filter_map(move |number| self.within.get(*number as usize));
            std::iter::once(&named.own).chain(within)
        };
        self.entries(who).flat_map(candidates).chain(std::iter::once(&self.everybody))
    }

    /// Numbers of the groups of the document that somebody is in.
    pub(crate) fn around(&self, who: &Principal) -> impl Iterator<Item = u32> {
        self.entries(who).flat_map(|named| self.part(named.around).iter().copied())
    }

    fn entries(&self, who: &Principal) -> impl Iterator<Item = &Named> {
        let user = self.users.get(who.name());
        let groups = who.groups().iter().filter_map(|group| self.groups.get(group));
        user.into_iter().chain(groups)
    }

    fn part(&self, part: Part) -> &[u32] {
        let from = part.from as usize;
        self.around.get(from..from + part.length as usize).unwrap_or_default()
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
