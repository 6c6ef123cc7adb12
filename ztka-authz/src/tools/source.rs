//! A policy as its administrator writes it, and where it is wrong.

use ztka_core::source::Source;
pub use ztka_core::source::SourceError;

use crate::{InvalidPolicy, PolicyDocument, validate};

/// Reads a policy from YAML (of which JSON is a part) and checks it.
///
/// # Errors
/// The first problem, with its line.
pub fn policy_from_yaml(text: &str) -> Result<PolicyDocument, SourceError> {
    let source = Source::read(text)?;
    let document: PolicyDocument = source.to()?;
    document.validate().map_err(|invalid| located(&source, &invalid))?;
    Ok(document)
}

/// The line of a part of a file by its JSON pointer, or of what is around it; 1 if the file cannot be read.
pub fn line_at(text: &str, pointer: &str) -> usize {
    Source::read(text).map_or(1, |source| source.line(pointer))
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
    SourceError::new(source.line_of(&pointer, inner), invalid.to_string())
}

/// The JSON Schema (draft 2020-12) of a policy file, for editors. What a policy has to mean is more than a schema says.
pub fn schema() -> &'static str {
    include_str!("policy.schema.json")
}
