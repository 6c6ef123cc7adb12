//! The transparency log: events as leaves of a Merkle tree (RFC 9162 §2.1), so that nobody takes one away unseen.
//!
//! ```text
//! event ─► leaf: SHA-256(0 ‖ salt ‖ source and event) ─► tiles of 32 hashes, level upon level ─► root ─► signed head
//! ```
//!
//! Pure: a store ([`LogStore`](crate::LogStore)) keeps [tiles](Tiles), events and [heads](SignedHead), and whoever verifies
//! needs none of it. Proofs ([`InclusionProof`], [`ConsistencyProof`]) take O(log n) hashes, and as many tiles to make them
//! of. An [`export`] carries every hash between head and leaves, so that what was changed is found to the leaf.
//! `docs/audit.md` has the forms on the wire.
pub mod export;
mod head;
mod leaf;
mod proof;
mod tile;
mod tree;

pub use self::{
    head::{HeadError, SignedHead, TreeHead},
    leaf::{Leaf, LeafContent, NotASalt, Salt, entry, leaf_hash, one_line},
    proof::{ConsistencyProof, EventProof, InclusionProof, LogProof, NotProven},
    tile::{Grown, TILE_BITS, TILE_WIDTH, TileId, Tiles, edge, grow},
    tree::{consistency_path, empty_root, inclusion_path, leaf_data_hash, node_hash},
};
