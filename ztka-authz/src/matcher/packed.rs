//! Roles in one row of numbers: what a decision reads of them is next to each other.
//!
//! Each role is its number of rules, whether it is read-only, and its rules about resources. Each of these is the bits of its
//! verbs, how many words of each kind it has, and these. A rule that says more than that is asked as it is.

use std::sync::Arc;

use super::{About, Aim, Asked, Matcher, Object, Resources, Rules};
use crate::words::{self, AnyOf, Bits, NONE, STAR, UNKNOWN, Word};

/// How the words of a rule are to be read.
const ANY_GROUP: u8 = 1;
const ANY_RESOURCE: u8 = 2;
/// There is one word, the rule's number.
const AS_IT_IS: u8 = 4;

/// The roles of a policy, by number.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    roles: Vec<Arc<Rules>>,
    starts: Vec<u32>,
    row: Vec<u32>,
}

impl Packed {
    /// One more; its number.
    pub(crate) fn add(&mut self, role: Arc<Rules>) -> u32 {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        self.starts.push(number(self.row.len()));
        let about_resources = |rule: &&Matcher| matches!(rule.about, About::Resources { .. });
        self.row.push(number(role.matchers.iter().filter(about_resources).count()));
        self.row.push(u32::from(role.role.read_only));
        for (at, rule) in role.matchers.iter().enumerate() {
            if about_resources(&rule) && !pack(rule, &mut self.row) {
                self.row.extend([rule.bits(), u32::from_le_bytes([1, 0, 0, AS_IT_IS]), number(at)]);
            }
        }
        self.roles.push(role);
        number(self.roles.len() - 1)
    }

    pub(crate) fn finish(&mut self) {
        self.roles.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.row.shrink_to_fit();
    }

    pub(crate) fn role(&self, number: u32) -> Option<&Arc<Rules>> {
        self.roles.get(number as usize)
    }

    /// If one of its rules allows what is asked, whether it is read-only.
    #[inline]
    pub(crate) fn covers(&self, number: u32, asked: &Asked<'_>) -> Option<bool> {
        let start = *self.starts.get(number as usize)? as usize;
        let ([rules, read_only], row) = self.row.get(start..)?.split_first_chunk()?;
        let covers = match &asked.target {
            Aim::Resource(object) => self.one_covers(number, *rules, row, asked, object),
            Aim::Path(_) => self.role(number)?.covers(asked),
        };
        covers.then_some(*read_only != 0)
    }

    #[inline]
    fn one_covers(&self, number: u32, rules: u32, row: &[u32], asked: &Asked<'_>, object: &Object) -> bool {
        let mut row = row;
        for _ in 0..rules {
            let Some(([bits, lengths], rest)) = row.split_first_chunk() else { return false };
            let [groups, whole, parts, how] = lengths.to_le_bytes();
            let (groups, whole, parts) = (usize::from(groups), usize::from(whole), usize::from(parts));
            let Some((words, next)) = rest.split_at_checked(groups + whole + 2 * parts) else { return false };
            row = next;
            if bits & asked.bit == 0 {
                continue;
            }
            if how & AS_IT_IS != 0 {
                let rule =
                    |role: &Arc<Rules>| role.matchers.get(*words.first()? as usize).map(|rule| rule.covers(asked));
                if self.role(number).and_then(rule) == Some(true) {
                    return true;
                }
                continue;
            }
            let (groups, words) = words.split_at(groups);
            if (how & ANY_GROUP != 0 || groups.contains(&object.group))
                && (how & ANY_RESOURCE != 0 || is_among(words, whole, object))
            {
                return true;
            }
        }
        false
    }
}

#[inline]
fn is_among(words: &[Word], whole: usize, object: &Object) -> bool {
    let (whole, parts) = words.split_at(whole.min(words.len()));
    if object.subresource == NONE {
        return whole.contains(&object.resource);
    }
    let (parts, _) = parts.as_chunks();
    object.subresource != UNKNOWN
        && parts.iter().any(|[of, sub]| *sub == object.subresource && (*of == object.resource || *of == STAR))
}

/// Writes down a rule; false if it says too much for that.
fn pack(rule: &Matcher, row: &mut Vec<u32>) -> bool {
    let About::Resources { groups, resources, names: AnyOf::Any, ports } = &rule.about else { return false };
    let (bits, none): (Bits, &[Word]) = (rule.bits(), &[]);
    // Verbs without a bit of their own are compared one by one.
    let others = !matches!(rule.verbs, AnyOf::Any) && bits & words::bit(UNKNOWN) != 0;
    if !ports.is_empty() || others {
        return false;
    }
    let (groups, any_group) = match groups {
        AnyOf::Any => (none, ANY_GROUP),
        AnyOf::Of(groups) => (&**groups, 0),
    };
    let (whole, parts, any_resource): (_, &[(Word, Word)], _) = match resources {
        Resources::Any => (none, &[], ANY_RESOURCE),
        Resources::Of { whole, parts } => (&**whole, parts, 0),
    };
    let length = |length: usize| u8::try_from(length).ok();
    let (Some(g), Some(w), Some(p)) = (length(groups.len()), length(whole.len()), length(parts.len())) else {
        return false;
    };
    row.extend([bits, u32::from_le_bytes([g, w, p, any_group | any_resource])]);
    row.extend(groups.iter().chain(whole));
    row.extend(parts.iter().flat_map(|(of, sub)| [*of, *sub]));
    true
}
