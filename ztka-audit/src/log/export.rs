//! A part of a log in one file, or all of it, which proves itself: written by a controller, verified by anybody, offline.
//!
//! One JSON object to a line:
//!
//! | line | what it is |
//! |---|---|
//! | `{"format":"ztka.dev/audit-export/v1","org":…,"from":0,"to":70,"head":{…},"edge":[[…],…]}` | the first: which leaves, the signed head, and the hashes at the tree's right edge, level by level: the head's root is made of them |
//! | `{"tile":{"level":0,"index":0},"hashes":[…]}` | 32 hashes, whose root stands in the edge or in a tile of the level above, before the leaves that they are of |
//! | `{"leaf":0,"salt":"…","entry":{"source":…,"event":{…}}}` | a leaf: its hash, over salt and the exact bytes of the entry, stands in its tile or in the edge |
//! | `{"leaf":1,"gone":true}` | a leaf whose event is gone by retention, or with its key; its hash is there still |
//!
//! So every line is held against one that was verified before, down from the signature, and what is wrong is known to the
//! leaf. A part (`from`, `to`) has the tiles that lead to it. What is gone has to be covered by an event of a controller
//! with the verb `expire` or `shred` and the annotation `ztka.dev/leaves`: `<first>-<last>`.
mod fault;
mod line;
mod ranges;
mod verify;
mod write;

use serde::{Deserialize, Serialize};
use ztka_core::OrgId;

use super::SignedHead;
use crate::Hash;

pub use self::{
    fault::{Fault, NotAnExport},
    verify::{Report, verify},
    write::{Export, ExportError},
};

/// The first line says that it is one.
pub const FORMAT: &str = "ztka.dev/audit-export/v1";
/// Longest line: an event has at most 256 KiB.
const LONGEST: usize = 1 << 20;

/// The first line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    org: OrgId,
    from: u64,
    to: u64,
    head: SignedHead,
    edge: Vec<Vec<Hash>>,
}

/// A line of hashes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TileLine {
    tile: TilePlace,
    hashes: Vec<Hash>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TilePlace {
    level: u8,
    index: u64,
}

/// What a line with a leaf begins with, and the words in it.
const LEAF: &[u8] = br#"{"leaf":"#;
const SALT: &[u8] = br#","salt":""#;
const ENTRY: &[u8] = br#"","entry":"#;
const GONE: &[u8] = br#","gone":true}"#;

#[cfg(test)]
mod tests;
