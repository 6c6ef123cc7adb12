//! Fields that an operator wants out of recorded bodies.

use std::{iter::Peekable, str::Chars};

use serde_json::Value;

use crate::ObjectRef;

/// What stands where something was taken out.
pub(super) const REDACTED: &str = "REDACTED";

/// Fields of some resources, under a name.
#[derive(Clone, Debug)]
pub(crate) struct FieldRule {
    name: String,
    resources: Vec<String>,
    paths: Vec<Vec<Step>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    Member(String),
    /// Every member, or every element.
    Every,
    Element(usize),
}

/// A path of a field that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path:?} names no field; write it as spec.containers[*].env[*].value")]
pub struct InvalidField {
    path: String,
}

impl FieldRule {
    pub(crate) fn new(name: &str, resources: &[String], paths: &[String]) -> Result<Self, InvalidField> {
        let read = |path: &String| parse(path).ok_or_else(|| InvalidField { path: path.clone() });
        let paths = paths.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), resources: resources.to_vec(), paths })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_about(&self, object: &ObjectRef) -> bool {
        let is = |resource: &String| match resource.split_once('.') {
            None => *resource == object.resource && object.api_group.is_empty(),
            Some((plural, group)) => plural == object.resource && group == object.api_group,
        };
        self.resources.is_empty() || self.resources.iter().any(is)
    }

    /// True if something was taken out: of the object itself, and of those of a list.
    pub(super) fn apply(&self, value: &mut Value) -> bool {
        let mut any = false;
        for path in &self.paths {
            any |= take_out(value, path);
            for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                any |= take_out(item, path);
            }
        }
        any
    }
}

fn take_out(value: &mut Value, path: &[Step]) -> bool {
    let Some((step, rest)) = path.split_first() else {
        let changes = *value != Value::Null && *value != REDACTED;
        if changes {
            *value = REDACTED.into();
        }
        return changes;
    };
    match (step, value) {
        (Step::Member(name), Value::Object(members)) => {
            members.get_mut(name).is_some_and(|member| take_out(member, rest))
        }
        (Step::Element(number), Value::Array(list)) => {
            list.get_mut(*number).is_some_and(|element| take_out(element, rest))
        }
        (Step::Every, Value::Object(members)) => {
            members.values_mut().fold(false, |any, member| take_out(member, rest) | any)
        }
        (Step::Every, Value::Array(list)) => list.iter_mut().fold(false, |any, element| take_out(element, rest) | any),
        _ => false,
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.strip_prefix('$').unwrap_or(path);
    let mut rest = path.strip_prefix('.').unwrap_or(path).chars().peekable();
    let mut steps = Vec::new();
    while rest.peek().is_some() {
        steps.push(step(&mut rest)?);
        while rest.next_if_eq(&'[').is_some() {
            steps.push(element(&mut rest)?);
        }
        if rest.peek().is_some() {
            rest.next_if_eq(&'.')?;
            rest.peek()?;
        }
    }
    (!steps.is_empty() && steps.len() <= 64).then_some(steps)
}

fn step(rest: &mut Peekable<Chars<'_>>) -> Option<Step> {
    if rest.next_if_eq(&'[').is_some() {
        return element(rest);
    }
    let mut name = String::new();
    while let Some(character) = rest.next_if(|character| !matches!(*character, '.' | '[' | ']')) {
        name.push(character);
    }
    match name.as_str() {
        "" => None,
        "*" => Some(Step::Every),
        _ => Some(Step::Member(name)),
    }
}

/// Behind `[`.
fn element(rest: &mut Peekable<Chars<'_>>) -> Option<Step> {
    let quote = rest.next_if(|character| matches!(*character, '\'' | '"'));
    let mut inside = String::new();
    let end = quote.unwrap_or(']');
    loop {
        match rest.next()? {
            character if character == end => break,
            character => inside.push(character),
        }
    }
    if quote.is_some() {
        rest.next_if_eq(&']')?;
        return (!inside.is_empty()).then_some(Step::Member(inside));
    }
    if inside == "*" { Some(Step::Every) } else { inside.parse().ok().map(Step::Element) }
}
