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

use replay::replay;

#[test]
fn spoilt_segments() {
    replay("spool_segments", 10, readings::segments::spool_segments);
}

#[test]
fn batches_from_the_network() {
    replay("audit_batch", 3, readings::batch::audit_batch);
}

#[test]
fn exports_of_the_log() {
    replay("audit_export", 20, readings::export::audit_export);
}

#[test]
fn spoilt_cursors() {
    replay("spool_cursor", 3, readings::cursor::spool_cursor);
}

#[test]
fn sessions_that_are_recorded() {
    replay("recording", 4, readings::recording::recording);
}

#[test]
fn audit_policies() {
    replay("audit_policy", 30, readings::policy::audit_policy);
}

#[test]
fn bodies_that_go_by() {
    replay("audit_body", 30, readings::body::audit_body);
}
