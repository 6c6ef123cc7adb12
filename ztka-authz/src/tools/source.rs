//! A policy as its administrator writes it, and where it is wrong.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::yaml::Source;
use crate::{InvalidPolicy, PolicyDocument, validate};

/// What is wrong in a file, and on which line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SourceError {
    line: usize,
    problem: String,
}

impl SourceError {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What is wrong, without the line.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// Reads a policy from YAML (of which JSON is a part) and checks it.
///
/// # Errors
/// The first problem, with its line.
pub fn policy_from_yaml(text: &str) -> Result<PolicyDocument, SourceError> {
    let source = Source::read(text)?;
    let document: PolicyDocument = read(&source)?;
    document.validate().map_err(|invalid| located(&source, &invalid))?;
    Ok(document)
}

/// The line of a part of a file by its JSON pointer, or of what is around it; 1 if the file cannot be read.
pub fn line_at(text: &str, pointer: &str) -> usize {
    Source::read(text).map_or(1, |source| source.line(pointer))
}

/// Reads any structure, with the line of what does not fit.
pub(super) fn read<T: DeserializeOwned>(source: &Source) -> Result<T, SourceError> {
    let value = match &source.value {
        Value::Null => Value::Object(serde_json::Map::new()),
        value => value.clone(),
    };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } => pointer.push_str(&format!("/{key}")),
                Segment::Enum { variant } => pointer.push_str(&format!("/{variant}")),
                Segment::Unknown => {}
            }
        }
        let problem = error.inner().to_string();
        SourceError { line: line_of(source, &pointer, &problem), problem }
    })
}

/// The line of the field that a message names, if it names one; otherwise of what is around it.
fn line_of(source: &Source, pointer: &str, problem: &str) -> usize {
    let named = problem.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    named.and_then(|field| source.field(pointer, field)).unwrap_or_else(|| source.line(pointer))
}

fn located(source: &Source, invalid: &InvalidPolicy) -> SourceError {
    let mut pointer = String::new();
    for step in &invalid.path {
        match step {
            validate::Step::Field(field) => pointer.push_str(&format!("/{field}")),
            validate::Step::Number(number) => pointer.push_str(&format!("/{number}")),
        }
    }
    let inner = invalid.problem().split_once("understood: ").map_or(invalid.problem(), |(_, inner)| inner);
    SourceError { line: line_of(source, &pointer, inner), problem: invalid.to_string() }
}

/// The JSON Schema (draft 2020-12) of a policy file, for editors. What a policy has to mean is more than a schema says.
pub fn schema() -> &'static str {
    include_str!("policy.schema.json")
}
