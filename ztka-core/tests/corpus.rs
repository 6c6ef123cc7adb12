//! Replays the corpora of the fuzz targets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;

use std::{fs, path::Path};

/// Runs `target` on each file of its corpus; (files, those accepted).
fn replay(name: &str, target: fn(&[u8]) -> bool) -> (usize, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let accepted = files.iter().filter(|file| target(&fs::read(file).unwrap())).count();
    (files.len(), accepted)
}

#[test]
fn corpora_are_replayed() {
    type Target = fn(&[u8]) -> bool;
    let targets: [(&str, Target); 5] = [
        ("request_attributes", readings::request_attributes),
        ("signed_document", readings::signed_document),
        ("spiffe_id", readings::spiffe_id),
        ("spdy_frames", readings::spdy_frames),
        ("websocket_frames", readings::websocket_frames),
    ];
    for (name, target) in targets {
        let (files, accepted) = replay(name, target);
        // A corpus that is all one or the other shows little.
        assert!(accepted > 0 && accepted < files, "{name}: {accepted} of {files} accepted");
    }
}
