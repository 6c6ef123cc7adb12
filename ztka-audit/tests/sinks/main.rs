//! The suite of every sink that needs no more than this crate's light features, and what is particular to each.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy.toml does not reach the helpers of a test"
)]

#[path = "../places/mod.rs"]
mod places;

mod file;
mod memory;
#[cfg(feature = "otlp")]
mod otlp;
mod syslog;
mod webhook;
