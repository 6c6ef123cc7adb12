//! Groups of a document, within each other: who is in which of them, by however many others.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use ztka_core::{GroupName, Principal, UserName};

use crate::{PolicyDocument, Subject};

/// Somebody who is in a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member<'a> {
    User(&'a UserName),
    Group(&'a GroupName),
}

/// The groups of a document, by number in its order, with who is in them.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    names: Vec<&'a GroupName>,
    numbers: HashMap<&'a GroupName, u32>,
    /// By number, those that it is a member of itself.
    around: Vec<Vec<u32>>,
    /// Groups that sessions alone name, and what they are members of.
    others: HashMap<&'a GroupName, Vec<u32>>,
    users: HashMap<&'a UserName, Vec<u32>>,
}

impl<'a> Groups<'a> {
    pub(crate) fn of(document: &'a PolicyDocument) -> Self {
        let names: Vec<_> = document.groups.iter().map(|group| &group.name).collect();
        let numbers: HashMap<_, _> = names.iter().copied().zip(0..).collect();
        let (mut around, mut others, mut users) = (vec![Vec::new(); names.len()], HashMap::new(), HashMap::new());
        for (group, number) in document.groups.iter().zip(0..) {
            for member in &group.members {
                let into: Option<&mut Vec<u32>> = match member {
                    Subject::User(name) => Some(users.entry(name).or_default()),
                    Subject::Group(name) => match numbers.get(name) {
                        Some(inner) => around.get_mut(*inner as usize),
                        None => Some(others.entry(name).or_default()),
                    },
                };
                // Who is listed twice is listed twice in a row here.
                if let Some(into) = into.filter(|into| into.last() != Some(&number)) {
                    into.push(number);
                }
            }
        }
        Self { names, numbers, around, others, users }
    }

    /// The numbers of all of them.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.names).map(|(number, _)| number)
    }

    pub(crate) fn number(&self, name: &GroupName) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Shows each member with the groups that it is in by however many others, each once: first the groups of the document, in
    /// order and each with itself, then all others. The last argument is how many steps were gone to find them.
    pub(crate) fn each<B>(&self, mut visit: impl FnMut(Member<'a>, &[u32], usize) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut walk = Walk { groups: self, marks: vec![0; self.names.len()], mark: 0, found: Vec::new() };
        for (name, number) in self.names.iter().zip(0..) {
            let steps = walk.from(&[number]);
            visit(Member::Group(name), &walk.found, steps)?;
        }
        for (name, groups) in &self.others {
            let steps = walk.from(groups);
            visit(Member::Group(name), &walk.found, steps)?;
        }
        for (name, groups) in &self.users {
            let steps = walk.from(groups);
            visit(Member::User(name), &walk.found, steps)?;
        }
        ControlFlow::Continue(())
    }
}

/// From group to group, outwards.
struct Walk<'g, 'a> {
    groups: &'g Groups<'a>,
    /// Of which walk each was found last.
    marks: Vec<u32>,
    mark: u32,
    found: Vec<u32>,
}

impl Walk<'_, '_> {
    fn from(&mut self, start: &[u32]) -> usize {
        self.mark = self.mark.wrapping_add(1);
        self.found.clear();
        let mut steps = self.come_to(start);
        let mut at = 0;
        let groups = self.groups;
        while let Some(number) = self.found.get(at) {
            let around = groups.around.get(*number as usize).map(Vec::as_slice).unwrap_or_default();
            steps += self.come_to(around);
            at += 1;
        }
        steps
    }

    fn come_to(&mut self, numbers: &[u32]) -> usize {
        for number in numbers {
            if let Some(mark) = self.marks.get_mut(*number as usize).filter(|mark| **mark != self.mark) {
                *mark = self.mark;
                self.found.push(*number);
            }
        }
        numbers.len()
    }
}

/// Somebody, with all groups that they are in: those of their session, and those of a document around them.
#[derive(Debug)]
pub struct Membership<'p> {
    who: &'p Principal,
    groups: HashSet<&'p GroupName>,
}

impl<'p> Membership<'p> {
    /// Who it is.
    pub fn who(&self) -> &'p Principal {
        self.who
    }

    /// True if they are among `subjects`, by name or by one of the groups.
    pub fn is_among(&self, subjects: &[Subject]) -> bool {
        subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == self.who.name(),
            Subject::Group(name) => self.groups.contains(name),
        })
    }
}

impl PolicyDocument {
    /// What `who` is in, looked up once for any number of questions.
    pub fn membership<'p>(&'p self, who: &'p Principal) -> Membership<'p> {
        Membership { who, groups: self.outwards(who.groups(), |user| user == who.name()) }
    }

    /// The groups of the policy that any of these is in, by however many others, and these.
    pub fn groups_around<'p>(&'p self, groups: &'p [GroupName]) -> HashSet<&'p GroupName> {
        self.outwards(groups, |_| false)
    }

    /// These groups and those around them, and those around a user.
    fn outwards<'p>(&'p self, begin: &'p [GroupName], is: impl Fn(&UserName) -> bool) -> HashSet<&'p GroupName> {
        let mut around: HashMap<&GroupName, Vec<&GroupName>> = HashMap::new();
        let mut open: Vec<_> = begin.iter().collect();
        for group in &self.groups {
            for member in &group.members {
                match member {
                    Subject::User(name) if is(name) => open.push(&group.name),
                    Subject::User(_) => {}
                    Subject::Group(name) => around.entry(name).or_default().push(&group.name),
                }
            }
        }
        let mut found = HashSet::new();
        while let Some(group) = open.pop() {
            // What was found before is not gone on from again: circles end here.
            if found.insert(group) {
                open.extend(around.get(group).into_iter().flatten());
            }
        }
        found
    }
}
