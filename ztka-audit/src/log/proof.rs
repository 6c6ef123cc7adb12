//! Proofs as they are on the wire, and what they prove.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    Salt, SignedHead, TreeHead, leaf_hash,
    tree::{consistency_path, inclusion_path, is_consistent, is_included},
};
use crate::{Hash, log::Tiles};

/// A proof that does not prove what it is given for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proof does not lead to the root of the tree head")]
pub struct NotProven;

/// That a leaf is in a tree (RFC 9162 §2.1.3).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    /// The leaf.
    pub leaf: u64,
    /// The size of the tree.
    pub size: u64,
    /// Roots of the subtrees beside its way, from the leaf upwards.
    pub path: Vec<Hash>,
}

/// That a smaller tree became a larger one by new leaves alone (RFC 9162 §2.1.4).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    /// The smaller size.
    pub first: u64,
    /// The larger size.
    pub second: u64,
    /// As RFC 9162 §2.1.4.1 has it.
    pub path: Vec<Hash>,
}

/// The leaves of a request, each with its proof, and the head that they lead to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogProof {
    /// The head.
    pub head: SignedHead,
    /// The leaves.
    pub events: Vec<EventProof>,
}

/// A leaf with its proof.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventProof {
    /// The leaf's salt, 32 hexadecimal digits.
    pub salt: String,
    /// Its [`entry`](super::entry): exactly these bytes are the leaf's.
    pub entry: String,
    /// Where it is.
    pub proof: InclusionProof,
}

impl InclusionProof {
    /// What it is made of: these subtrees.
    pub fn ranges(leaf: u64, size: u64) -> Vec<Range<u64>> {
        inclusion_path(leaf, size)
    }

    /// Makes it of tiles; none if one is missing, or the leaf is not in a tree of this size.
    pub fn of(tiles: &Tiles, leaf: u64, size: u64) -> Option<Self> {
        let path = inclusion_path(leaf, size).into_iter().map(|range| tiles.range(range)).collect::<Option<_>>()?;
        (leaf < size).then_some(Self { leaf, size, path })
    }

    /// Whether it leads from this hash of a leaf to the root of `head`.
    ///
    /// # Errors
    /// [`NotProven`]
    pub fn check(&self, hash: &Hash, head: &TreeHead) -> Result<(), NotProven> {
        let included = self.size == head.size && is_included(self.leaf, self.size, hash, &self.path, &head.root);
        if included { Ok(()) } else { Err(NotProven) }
    }
}

impl EventProof {
    /// Whether the event is the leaf that it is said to be.
    ///
    /// # Errors
    /// [`NotProven`]
    pub fn check(&self, head: &TreeHead) -> Result<(), NotProven> {
        let salt = Salt::parse(self.salt.as_bytes()).map_err(|_| NotProven)?;
        self.proof.check(&leaf_hash(&salt, self.entry.as_bytes()), head)
    }
}

impl ConsistencyProof {
    /// What it is made of: these subtrees.
    pub fn ranges(first: u64, second: u64) -> Vec<Range<u64>> {
        consistency_path(first, second)
    }

    /// Makes it of tiles; none if one is missing, or `first` is the larger one.
    pub fn of(tiles: &Tiles, first: u64, second: u64) -> Option<Self> {
        let path =
            consistency_path(first, second).into_iter().map(|range| tiles.range(range)).collect::<Option<_>>()?;
        (first <= second).then_some(Self { first, second, path })
    }

    /// Whether the log of `first` became that of `second` by new leaves alone.
    ///
    /// # Errors
    /// [`NotProven`]
    pub fn check(&self, first: &TreeHead, second: &TreeHead) -> Result<(), NotProven> {
        let sizes = first.org == second.org && (self.first, self.second) == (first.size, second.size);
        let proven = sizes && is_consistent((first.size, &first.root), (second.size, &second.root), &self.path);
        if proven { Ok(()) } else { Err(NotProven) }
    }
}
