//! What is asked: method and target of a request, read once into Kubernetes' terms.

mod attributes;
mod class;
mod impersonation;
mod malformed;
mod path;
mod percent;
mod query;
mod selector;
mod target;
#[cfg(test)]
mod tests;
mod verb;

pub use self::{
    attributes::RequestAttributes,
    impersonation::{Impersonation, InvalidImpersonation},
    malformed::Malformed,
    target::RequestTarget,
    verb::Verb,
};
