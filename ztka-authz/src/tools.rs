//! Policy for people: as YAML with errors that point at the line, explained, compared, simulated, tested.

mod compare;
mod expect;
mod explain;
mod permissions;
mod question;
mod recorded;
mod simulate;
mod source;
mod write;

pub use self::{
    compare::{Change, compare},
    expect::{Expectations, Outcome, junit},
    explain::{Explanation, Finding, Looked, Step},
    permissions::{Permission, Place, WhoCan},
    question::{InvalidQuestion, Question},
    recorded::{EventsError, Recorded, recorded},
    simulate::{Difference, Simulation},
    source::{SourceError, line_at, policy_from_yaml, schema},
    write::document_to_yaml,
};
