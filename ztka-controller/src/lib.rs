//! The controller as a library: documents, change feed, enrolment, REST.
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod store;
