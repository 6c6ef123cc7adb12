//! Expressions that say no more than most do, as a row of small steps.
//!
//! Cedar's own evaluator wants everything that an expression may look at as values of its own first, which takes longer than all
//! the rest of a decision. What is made of texts, sets of texts, numbers, `has` and the logic between them is evaluated here, to the
//! same answers (a test holds both against each other); everything else is left to Cedar.

mod parse;

use ztka_core::GroupName;

use super::Fact;
use crate::condition::Request;

/// Texts of the expression, by where they are in all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    from: u32,
    length: u32,
}

/// A step; others by their place in the row.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bool(bool),
    Long(i64),
    Text(Part),
    /// Of the members.
    Set(Part),
    Fact(Fact),
    Has(Fact),
    Not(u32),
    And(u32, u32),
    Or(u32, u32),
    If(u32, u32, u32),
    Equal(u32, u32),
    Less(u32, u32),
    AtMost(u32, u32),
    Contains(u32, u32),
    ContainsAll(u32, u32),
    ContainsAny(u32, u32),
    IsEmpty(u32),
    Like(u32, Part),
}

/// An expression that is evaluated here.
#[derive(Debug)]
pub(super) struct Plain {
    steps: Box<[Step]>,
    members: Box<[Part]>,
    texts: Box<str>,
    first: u32,
}

/// What a step comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Long(i64),
    Text(&'a str),
    Set(Set<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Set<'a> {
    Written(&'a Plain, Part),
    Groups(&'a [GroupName]),
}

impl Set<'_> {
    fn any(&self, mut is: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::Written(plain, part) => plain.members(*part).any(is),
            Self::Groups(groups) => groups.iter().any(|group| is(group.as_str())),
        }
    }

    fn has(&self, text: &str) -> bool {
        self.any(|member| member == text)
    }

    fn has_all(&self, of: &Self) -> bool {
        !of.any(|member| !self.has(member))
    }
}

impl Plain {
    /// Reads one that Cedar has read; none if it is for Cedar to evaluate.
    pub(super) fn read(text: &str) -> Option<Self> {
        parse::read(text)
    }

    /// The answer; none where it is an error, or no answer.
    pub(super) fn holds(&self, request: &Request<'_>) -> Option<bool> {
        self.bool(self.first, request)
    }

    fn text(&self, part: Part) -> &str {
        self.texts.get(part.from as usize..(part.from + part.length) as usize).unwrap_or_default()
    }

    fn members(&self, part: Part) -> impl Iterator<Item = &str> {
        let members = self.members.get(part.from as usize..(part.from + part.length) as usize).unwrap_or_default();
        members.iter().map(|member| self.text(*member))
    }

    fn bool(&self, at: u32, request: &Request<'_>) -> Option<bool> {
        match self.value(at, request)? {
            Value::Bool(is) => Some(is),
            _ => None,
        }
    }

    fn set<'a>(&'a self, at: u32, request: &Request<'a>) -> Option<Set<'a>> {
        match self.value(at, request)? {
            Value::Set(set) => Some(set),
            _ => None,
        }
    }

    fn longs(&self, a: u32, b: u32, request: &Request<'_>) -> Option<(i64, i64)> {
        match (self.value(a, request)?, self.value(b, request)?) {
            (Value::Long(a), Value::Long(b)) => Some((a, b)),
            _ => None,
        }
    }

    /// What is an error is none. That what is not known of the request is not looked at, the caller has seen to.
    fn value<'a>(&'a self, at: u32, request: &Request<'a>) -> Option<Value<'a>> {
        let is = match *self.steps.get(at as usize)? {
            Step::Long(number) => return Some(Value::Long(number)),
            Step::Text(part) => return Some(Value::Text(self.text(part))),
            Step::Set(part) => return Some(Value::Set(Set::Written(self, part))),
            Step::Fact(fact) => return fact.value(request),
            Step::Bool(is) => is,
            Step::Has(fact) => fact.is_there(request),
            Step::Not(a) => !self.bool(a, request)?,
            Step::And(a, b) => self.bool(a, request)? && self.bool(b, request)?,
            Step::Or(a, b) => self.bool(a, request)? || self.bool(b, request)?,
            Step::If(is, a, b) => return self.value(if self.bool(is, request)? { a } else { b }, request),
            Step::Equal(a, b) => match (self.value(a, request)?, self.value(b, request)?) {
                (Value::Bool(a), Value::Bool(b)) => a == b,
                (Value::Long(a), Value::Long(b)) => a == b,
                (Value::Text(a), Value::Text(b)) => a == b,
                (Value::Set(a), Value::Set(b)) => a.has_all(&b) && b.has_all(&a),
                _ => false,
            },
            Step::Less(a, b) => self.longs(a, b, request).map(|(a, b)| a < b)?,
            Step::AtMost(a, b) => self.longs(a, b, request).map(|(a, b)| a <= b)?,
            Step::Contains(a, b) => match (self.set(a, request)?, self.value(b, request)?) {
                (set, Value::Text(text)) => set.has(text),
                _ => false,
            },
            Step::ContainsAll(a, b) => self.set(a, request)?.has_all(&self.set(b, request)?),
            Step::ContainsAny(a, b) => {
                let (a, b) = (self.set(a, request)?, self.set(b, request)?);
                a.any(|member| b.has(member))
            }
            Step::IsEmpty(a) => !self.set(a, request)?.any(|_| true),
            Step::Like(a, pattern) => match self.value(a, request)? {
                Value::Text(text) => is_like(text, self.text(pattern)),
                _ => return None,
            },
        };
        Some(Value::Bool(is))
    }
}

/// True if `text` is `pattern` with anything for each star.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return text == pattern };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_prefix(begin).and_then(|text| text.strip_suffix(end)) else { return false };
    // Each as early as it can be leaves the most for those after it.
    let mut pieces = middle.split('*');
    pieces.try_fold(text, |text, piece| text.split_once(piece).map(|(_, after)| after)).is_some()
}

#[cfg(test)]
mod tests;
