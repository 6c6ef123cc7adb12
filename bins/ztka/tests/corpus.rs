//! Replays the corpora of the fuzz targets.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "readings/kubeconfig.rs"]
mod kubeconfig;
mod readings;
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn configuration_files() {
    replay::replay("server_config", 100, readings::server_config);
}

#[test]
fn kubeconfigs() {
    replay::replay("kubeconfig", 300, kubeconfig::read);
}
