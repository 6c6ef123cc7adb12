//! Held against the vectors that implementations of Certificate Transparency share, and against ct-merkle.

use ct_merkle::{RootHash, mem_backed_tree::MemoryBackedTree};

use super::*;
use crate::log::{TILE_WIDTH, TileId, Tiles, edge, grow};

fn hash(text: &str) -> Hash {
    text.to_owned().try_into().unwrap()
}

/// All tiles of a tree with these leaves, grown in pieces of this size.
fn tiles(leaves: &[Hash], at_once: usize) -> Tiles {
    let mut tiles = Tiles::default();
    let mut before = 0;
    for piece in leaves.chunks(at_once.max(1)) {
        let (mut size, mut new, mut level) = (before, piece.to_vec(), 0);
        while !new.is_empty() {
            let last = TileId { level, index: size / TILE_WIDTH as u64 };
            let held = usize::try_from(size % TILE_WIDTH as u64).unwrap();
            let partial = tiles.hashes(last).get(..held).unwrap_or_default().to_vec();
            let grown = grow(size, partial, &new);
            for (index, hashes) in grown.tiles {
                tiles.insert(TileId { level, index }, hashes);
            }
            (size, new, level) = (size / TILE_WIDTH as u64, grown.above, level + 1);
        }
        before += piece.len() as u64;
    }
    tiles
}

#[test]
fn the_vectors_of_certificate_transparency() {
    let leaves: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let hashes: Vec<_> = leaves.iter().map(|data| leaf_data_hash(data)).collect();
    for (size, root) in roots.into_iter().enumerate() {
        assert_eq!(tiles(&hashes, 3).root(size as u64), Some(hash(root)), "{size}");
    }
}

/// Every size up to three tiles and a bit, every leaf, every pair of sizes; ct-merkle makes each root and each proof too.
#[test]
fn every_size_and_every_pair_as_ct_merkle_has_it() {
    const MOST: u64 = 70;
    let data = |leaf: u64| leaf.to_be_bytes().to_vec();
    let leaves: Vec<_> = (0..MOST).map(|leaf| leaf_data_hash(&data(leaf))).collect();
    let tiles = tiles(&leaves, 7);
    let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut roots: Vec<RootHash<Sha256>> = vec![theirs.root()];
    let ours = |range: Range<u64>| tiles.range(range).unwrap();
    for size in 1..=MOST {
        theirs.push(data(size - 1));
        let their_root = theirs.root();
        let root = tiles.root(size).unwrap();
        assert_eq!(root.as_bytes()[..], their_root.as_bytes()[..], "{size}");
        for leaf in 0..size {
            let path: Vec<_> = inclusion_path(leaf, size).into_iter().map(ours).collect();
            let theirs = theirs.prove_inclusion(usize::try_from(leaf).unwrap());
            assert_eq!(path.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<_>>(), theirs.as_bytes());
            let hash = leaves[usize::try_from(leaf).unwrap()];
            assert!(is_included(leaf, size, &hash, &path, &root));
            // Nothing else is proven by it.
            let other = leaves[usize::try_from((leaf + 1) % MOST).unwrap()];
            assert!(!is_included(leaf, size, &other, &path, &root));
            assert!(!is_included(leaf + 1, size, &hash, &path, &root) || path.is_empty());
            assert!(size == 1 || !is_included(leaf, size, &hash, &path[1..], &root));
            assert!(!is_included(leaf, size, &hash, &[path.as_slice(), &[root]].concat(), &root));
        }
        for first in 1..size {
            let path: Vec<_> = consistency_path(first, size).into_iter().map(ours).collect();
            let added = usize::try_from(size - first).unwrap();
            let proof = theirs.prove_consistency(added);
            assert_eq!(path.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<_>>(), proof.as_bytes());
            let old = tiles.root(first).unwrap();
            assert_eq!(old.as_bytes()[..], roots[usize::try_from(first).unwrap()].as_bytes()[..]);
            assert!(is_consistent((first, &old), (size, &root), &path));
            assert!(!is_consistent((first, &root), (size, &root), &path), "{first} {size}");
            assert!(!is_consistent((first, &old), (size, &old), &path), "{first} {size}");
            assert!(!is_consistent((first, &old), (size, &root), &[path.as_slice(), &[old]].concat()));
        }
        assert!(is_consistent((size, &root), (size, &root), &[]));
        assert!(is_consistent((0, &empty_root()), (size, &root), &[]));
        roots.push(their_root);
    }
}

#[test]
fn a_tree_of_several_levels_however_it_grew() {
    const MOST: usize = 2_100; // two levels of tiles, and a third with two hashes
    let leaves: Vec<_> = (0..MOST as u64).map(|leaf| leaf_data_hash(&leaf.to_le_bytes())).collect();
    let at_once = tiles(&leaves, MOST);
    assert_eq!(at_once, tiles(&leaves, 1));
    assert_eq!(at_once, tiles(&leaves, 33));
    for size in [1, 31, 32, 33, 1023, 1024, 1025, 2047, 2048, 2100] {
        let direct = fold(subtrees(0..size).into_iter().map(|(height, index)| {
            let start = usize::try_from(index << height).unwrap();
            perfect(&leaves[start..start + (1 << height)]).unwrap()
        }));
        assert_eq!(at_once.root(size), direct, "{size}");
        // The right edge alone has the root.
        let mut only = Tiles::default();
        for (id, count) in edge(size) {
            only.insert(id, at_once.hashes(id)[..count].to_vec());
        }
        assert_eq!(only.root(size), direct, "{size}");
        // And a proof needs few tiles.
        let (needed, leaf) = (Tiles::needed(&inclusion_path(size / 2, size)), size / 2);
        assert!(needed.len() <= 2 * 3, "{size}: {needed:?}");
        let path: Vec<_> =
            inclusion_path(leaf, size).into_iter().map(|range| at_once.only(&needed).range(range).unwrap()).collect();
        let at = usize::try_from(leaf).unwrap();
        assert!(is_included(leaf, size, &leaves[at], &path, &direct.unwrap()));
    }
}
