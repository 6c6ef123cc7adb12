//! Expressions of Cedar as conditions, with the feature `cedar`; without it none of them holds.
//!
//! An expression is a part of its binding: only those are evaluated whose binding names the user, reaches the cluster and
//! the namespace, and whose role covers the verb and the resource. What a decision costs depends on them alone, however
//! many there are.

#[cfg(feature = "cedar")]
mod expression;

use std::{collections::HashMap, sync::Arc};

#[cfg(feature = "cedar")]
use self::expression::Expression;
use crate::{
    Unmet,
    condition::{Holds, Request},
};

/// Without the feature nothing can be read.
#[cfg(not(feature = "cedar"))]
#[derive(Debug)]
enum Expression {}

#[cfg(not(feature = "cedar"))]
impl Expression {
    fn read(_: &str) -> Result<Self, String> {
        Err("this program was built without Cedar; use the built-in conditions".into())
    }

    fn check(text: &str) -> Result<(), String> {
        Self::read(text).map(drop)
    }

    fn hold(&self, _: &Request<'_>) -> Holds<'static> {
        match *self {}
    }
}

/// One expression; none where it cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Condition(Option<Arc<Expression>>);

impl Condition {
    /// What cannot be evaluated, for whatever reason, is not known to hold.
    pub(crate) fn hold(&self, request: &Request<'_>) -> Holds<'static> {
        self.0.as_ref().map_or(Holds::Unknown(Unmet::CedarError), |expression| expression.hold(request))
    }
}

/// The expressions of a policy, each read once.
#[derive(Debug, Default)]
pub(crate) struct Conditions(HashMap<String, Condition>);

impl Conditions {
    pub(crate) fn read(&mut self, text: &str) -> Condition {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let condition = Condition(Expression::read(text).ok().map(Arc::new));
        self.0.insert(text.to_owned(), condition.clone());
        condition
    }
}

/// Checks an expression that somebody writes: whether it can be read, and against the schema of what it may look at.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(text: &str) -> Result<(), String> {
    Expression::check(text)
}
