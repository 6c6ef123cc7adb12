//! Replays the corpus of the fuzz target.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn one_answer_in_protobuf_and_json() {
    replay::replay("self_review", 100, readings::self_review);
}
