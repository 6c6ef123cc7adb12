//! What is kept of a tree: its nodes in tiles, of which a tree of any size has few at its right edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::tree::{empty_root, fold, perfect, subtrees};
use crate::Hash;

/// Levels of the tree in one level of tiles.
pub const TILE_BITS: u32 = 5;
/// Hashes of a whole tile: a kilobyte, so that appending one event rewrites no more.
pub const TILE_WIDTH: usize = 1 << TILE_BITS;
const WIDTH: u64 = TILE_WIDTH as u64;

/// A tile: 32 nodes beside each other, at the height of 5 × `level`. Level 0 has leaves.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TileId {
    /// Its level, from the leaves upwards.
    pub level: u8,
    /// Its place on the level.
    pub index: u64,
}

/// Tiles of one tree, and what follows from them. A tile at the right edge may have fewer hashes, or more than a smaller
/// tree had: what there is once stays.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tiles(BTreeMap<TileId, Vec<Hash>>);

impl Tiles {
    /// Adds a tile, or replaces it.
    pub fn insert(&mut self, id: TileId, hashes: Vec<Hash>) {
        self.0.insert(id, hashes);
    }

    /// The hashes of a tile; none if it is not there.
    pub fn hashes(&self, id: TileId) -> &[Hash] {
        self.0.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The root of the tree that the first `size` leaves are; none if a tile that it needs is not there.
    pub fn root(&self, size: u64) -> Option<Hash> {
        if size == 0 { Some(empty_root()) } else { self.range(0..size) }
    }

    /// The root over these leaves, which are a subtree of RFC 9162's; none if a tile that it needs is not there.
    pub fn range(&self, range: Range<u64>) -> Option<Hash> {
        let nodes = subtrees(range).into_iter().map(|(height, index)| self.node(height, index));
        fold(nodes.collect::<Option<Vec<_>>>()?.into_iter())
    }

    fn node(&self, height: u32, index: u64) -> Option<Hash> {
        let (id, first, count) = place(height, index);
        perfect(self.hashes(id).get(first..first + count)?)
    }

    /// The tiles that the roots over these leaves are made of.
    pub fn needed(ranges: &[Range<u64>]) -> BTreeSet<TileId> {
        let nodes = ranges.iter().cloned().flat_map(subtrees);
        nodes.map(|(height, index)| place(height, index).0).collect()
    }

    /// These tiles alone.
    #[cfg(test)]
    pub(super) fn only(&self, ids: &BTreeSet<TileId>) -> Self {
        Self(self.0.iter().filter(|(id, _)| ids.contains(id)).map(|(id, hashes)| (*id, hashes.clone())).collect())
    }
}

impl FromIterator<(TileId, Vec<Hash>)> for Tiles {
    fn from_iter<T: IntoIterator<Item = (TileId, Vec<Hash>)>>(tiles: T) -> Self {
        Self(tiles.into_iter().collect())
    }
}

/// In which tile a node is, from which of its hashes on, and of how many of them it is the root.
fn place(height: u32, index: u64) -> (TileId, usize, usize) {
    let (level, within) = (height / TILE_BITS, height % TILE_BITS);
    let first = index << within;
    let id = TileId { level: u8::try_from(level).unwrap_or(u8::MAX), index: first / WIDTH };
    (id, usize::try_from(first % WIDTH).unwrap_or_default(), 1 << within)
}

/// Nodes at the height of a level of tiles, in a tree of this size.
pub(super) fn nodes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * TILE_BITS).unwrap_or(0)
}

/// The tiles at the right edge of a tree that are not whole, from the leaves upwards, each with how many hashes it has: its
/// root is made of these alone.
pub fn edge(size: u64) -> Vec<(TileId, usize)> {
    let levels = (0..).map_while(|level| Some((level, nodes_at(level, size))).filter(|(_, nodes)| *nodes > 0));
    let last = levels.map(|(level, nodes)| (TileId { level, index: nodes / WIDTH }, nodes % WIDTH));
    last.filter(|(_, count)| *count > 0).map(|(id, count)| (id, usize::try_from(count).unwrap_or_default())).collect()
}

/// What a level of tiles becomes by new nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grown {
    /// The tiles that are new or have more hashes, by their place on the level; only the last may not be whole.
    pub tiles: Vec<(u64, Vec<Hash>)>,
    /// New nodes of the level above.
    pub above: Vec<Hash>,
}

/// Appends `new` nodes to a level that has `size` of them; `partial` are those of its last tile, if that is not whole.
pub fn grow(size: u64, partial: Vec<Hash>, new: &[Hash]) -> Grown {
    let (mut index, mut tile) = (size / WIDTH, partial);
    let mut grown = Grown { tiles: Vec::new(), above: Vec::new() };
    for node in new {
        tile.push(*node);
        if tile.len() == TILE_WIDTH {
            grown.above.extend(perfect(&tile));
            grown.tiles.push((index, std::mem::take(&mut tile)));
            index += 1;
        }
    }
    if !tile.is_empty() {
        grown.tiles.push((index, tile));
    }
    grown
}
