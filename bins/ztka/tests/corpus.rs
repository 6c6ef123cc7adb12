//! Replays the corpus of the fuzz target.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn configuration_files() {
    replay::replay("server_config", 100, readings::server_config);
}
