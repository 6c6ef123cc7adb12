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
fn one_reading_of_http1() {
    replay("http1_guard", 200, readings::http1::http1_guard);
}

#[test]
fn one_count_of_http2_frames() {
    replay("http2_guard", 200, readings::http2::http2_guard);
}

#[test]
fn proxy_protocol_as_specified() {
    replay("proxy_protocol", 200, readings::proxy_protocol::proxy_protocol);
}

#[test]
fn the_name_in_a_client_hello() {
    replay("client_hello", 100, readings::hello::client_hello);
}
