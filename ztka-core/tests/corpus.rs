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
fn corpora_are_replayed() {
    type Target = fn(&[u8]) -> bool;
    let targets: [(&str, Target); 7] = [
        ("request_attributes", readings::request_attributes),
        ("signed_document", readings::signed_document),
        ("spiffe_id", readings::spiffe_id),
        ("trace_context", readings::trace::trace_context),
        ("spdy_frames", readings::spdy_frames),
        ("port_forward", readings::port_forward),
        ("websocket_frames", readings::websocket_frames),
    ];
    for (name, target) in targets {
        replay::replay(name, 100, target);
    }
}
