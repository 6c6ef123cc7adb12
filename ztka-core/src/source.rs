//! What administrators write: YAML or JSON with the line of each part, so that an error can point at it.

mod yaml;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use self::yaml::Source;

/// What is wrong in a file, and on which line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SourceError {
    line: usize,
    problem: String,
}

impl SourceError {
    /// This problem on this line, counted from 1.
    pub fn new(line: usize, problem: impl Into<String>) -> Self {
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

impl Source {
    /// Reads any structure; an empty document is one without fields.
    ///
    /// # Errors
    /// What does not fit, with its line: of a field that is not known the field's own.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, SourceError> {
        let value = match self.value() {
            Value::Null => Value::Object(Map::new()),
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
            SourceError::new(self.line_of(&pointer, &problem), problem)
        })
    }

    /// The line of the field that a message of serde's names, if it names one; otherwise of what is around it.
    pub fn line_of(&self, pointer: &str, problem: &str) -> usize {
        let named = problem.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        named.and_then(|field| self.field(pointer, field)).unwrap_or_else(|| self.line(pointer))
    }
}
