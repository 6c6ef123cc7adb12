//! Replays the corpus of the fuzz target.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed test is to panic"
)]

mod readings;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn policies_mean_what_they_say() {
    replay::replay("policy", 10, readings::policy);
}

#[test]
fn policy_files_are_read_as_they_stand() {
    replay::replay("policy_file", 200, readings::policy_file);
}

#[test]
fn recorded_requests_are_read_once_each() {
    replay::replay("audit_events", 300, readings::audit_events);
}
