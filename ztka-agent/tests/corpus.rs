//! Replays the corpora of the fuzz targets.
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

#[test]
fn the_credential_in_the_secret() {
    replay::replay("credential_secret", 30, readings::secret::credential_secret);
}
