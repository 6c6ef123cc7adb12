//! RFC 9162 §2.1: hashes, and which subtrees a proof is made of.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::Hash;

/// What keeps leaves and nodes apart (RFC 9162 §2.1.1).
pub(super) const LEAF: u8 = 0;
const NODE: u8 = 1;

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Hash::of(&[])
}

/// The hash of a leaf with this data.
pub fn leaf_data_hash(data: &[u8]) -> Hash {
    let mut digest = Sha256::new_with_prefix([LEAF]);
    digest.update(data);
    digest.into()
}

/// The hash of a node with these children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [NODE; 65];
    for (to, from) in both.iter_mut().skip(1).zip(left.as_bytes().iter().chain(right.as_bytes())) {
        *to = *from;
    }
    Hash::of(&both)
}

/// The root of a perfect tree over these nodes, of which there are a power of two.
pub(super) fn perfect(nodes: &[Hash]) -> Option<Hash> {
    if !nodes.len().is_power_of_two() {
        return None;
    }
    let mut nodes = nodes.to_vec();
    while nodes.len() > 1 {
        nodes = nodes.chunks_exact(2).filter_map(|pair| Some(node_hash(pair.first()?, pair.get(1)?))).collect();
    }
    nodes.pop()
}

/// The complete subtrees that the leaves of `range` are, from left to right: each as height and place among those of its
/// height.
pub(super) fn subtrees(range: Range<u64>) -> Vec<(u32, u64)> {
    let (mut at, mut found) = (range.start, Vec::new());
    while at < range.end {
        let height = at.trailing_zeros().min((range.end - at).ilog2());
        found.push((height, at >> height));
        at += 1 << height;
    }
    found
}

/// The root over complete subtrees, from left to right.
pub(super) fn fold(subtrees: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    subtrees.rev().reduce(|right, left| node_hash(&left, &right))
}

/// The largest power of two below `size`, which is 2 or more.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The subtrees whose roots prove that `leaf` is in a tree of this size, from the leaf upwards (RFC 9162 §2.1.3.1). Nothing
/// if it is not in it.
pub fn inclusion_path(leaf: u64, size: u64) -> Vec<Range<u64>> {
    let (mut tree, mut path) = (0..size, Vec::new());
    while tree.contains(&leaf) && tree.end - tree.start > 1 {
        let middle = tree.start + split(tree.end - tree.start);
        if leaf < middle {
            path.push(middle..tree.end);
            tree.end = middle;
        } else {
            path.push(tree.start..middle);
            tree.start = middle;
        }
    }
    path.reverse();
    path
}

/// The subtrees whose roots prove that a tree of `first` leaves became one of `second` (RFC 9162 §2.1.4.1). Nothing if they
/// are the same, or there is nothing to prove of an empty one.
pub fn consistency_path(first: u64, second: u64) -> Vec<Range<u64>> {
    if first == 0 || first >= second {
        return Vec::new();
    }
    let (mut tree, mut path, mut whole) = (0..second, Vec::new(), true);
    while tree.end != first {
        let middle = tree.start + split(tree.end - tree.start);
        if first <= middle {
            path.push(middle..tree.end);
            tree.end = middle;
        } else {
            path.push(tree.start..middle);
            tree.start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(tree);
    }
    path.reverse();
    path
}

/// RFC 9162 §2.1.3.2
pub(super) fn is_included(leaf: u64, size: u64, hash: &Hash, path: &[Hash], root: &Hash) -> bool {
    if leaf >= size {
        return false;
    }
    let (mut at, mut last, mut sum) = (leaf, size - 1, *hash);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            sum = node_hash(sibling, &sum);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            sum = node_hash(&sum, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && sum == *root
}

/// RFC 9162 §2.1.4.2
pub(super) fn is_consistent(first: (u64, &Hash), second: (u64, &Hash), path: &[Hash]) -> bool {
    let ((first, old), (second, new)) = (first, second);
    if first == 0 || first >= second {
        let same = if first == 0 { *old == empty_root() } else { first == second && old == new };
        return same && path.is_empty();
    }
    let (mut at, mut last) = (first - 1, second - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (start, rest) = match path.split_first() {
        _ if first.is_power_of_two() => (*old, path),
        Some((start, rest)) => (*start, rest),
        None => return false,
    };
    let (mut before, mut after) = (start, start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (before, after) = (node_hash(sibling, &before), node_hash(sibling, &after));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            after = node_hash(&after, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && before == *old && after == *new
}

#[cfg(test)]
mod tests;
