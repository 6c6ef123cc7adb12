//! What must hold for whatever is found in the directory of a spool: shared by the replay of corpora and the fuzz targets.

#![allow(dead_code, reason = "each test binary and fuzz target uses its part")]

pub(crate) mod batch;
pub(crate) mod body;
pub(crate) mod cursor;
pub(crate) mod export;
pub(crate) mod policy;
pub(crate) mod recording;
pub(crate) mod segments;

use std::path::Path;

use jiff::Timestamp;
use ztka_audit::{Event, Stage};
use ztka_core::AuditId;

fn event() -> Event {
    Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH)
}

fn write(dir: &Path, number: u64, bytes: &[u8]) {
    std::fs::write(dir.join(format!("{number:020}.segment")), bytes).unwrap();
}
