use proptest::prelude::*;

use super::*;
use crate::merkle::{Tree, leaf_hash};

const SALT: [u8; 16] = [7; 16];

/// The envelopes of a tree are their numbers.
fn envelope(index: usize) -> [u8; 8] {
    (index as u64).to_le_bytes()
}

fn tree(size: usize) -> (Tree, Vec<Hash>) {
    let leaves: Vec<Hash> = (0..size).map(|index| leaf_hash(&SALT, &envelope(index))).collect();
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    (tree, leaves)
}

fn path_of(tree: &Tree, index: u32) -> Vec<Hash> {
    let mut path = Vec::new();
    tree.path(index, &mut path);
    path
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap()
}

/// The verdict by the definition: climb to the root, compare.
fn by_definition(root: &Hash, size: u32, leaf: Hash, index: u32, path: &[Hash]) -> Result<(), ProofError> {
    match root_from_path(leaf, index, size, path)? == *root {
        true => Ok(()),
        false => Err(ProofError::OtherRoot),
    }
}

/// Asks a verifier that knows whatever it knows by now, and holds it against the definition.
#[track_caller]
fn check(verifier: &mut PathVerifier, leaf: Hash, index: u32, path: &[Hash]) -> Result<(), ProofError> {
    let expected = by_definition(&verifier.root, verifier.size, leaf, index, path);
    let known = verifier.known.clone();
    assert_eq!(verifier.verify(leaf, index, path), expected, "leaf {index} of {}", verifier.size);
    if expected.is_err() {
        assert_eq!(verifier.known, known, "what is refused leaves nothing behind");
    }
    expected
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Every single bit of leaf, salt, envelope, path, index and size, one after the other; and paths that are too short or too
/// long at every place.
fn check_every_flip(verifier: &mut PathVerifier, index: u32, leaf: Hash, path: &[Hash]) {
    for bit in 0..256 {
        let mut changed = leaf;
        flip(&mut changed, bit);
        check(verifier, changed, index, path).unwrap_err();
    }
    for bit in 0..128 {
        let mut salt = SALT;
        flip(&mut salt, bit);
        check(verifier, leaf_hash(&salt, &envelope(index as usize)), index, path).unwrap_err();
    }
    for bit in 0..64 {
        let mut changed = envelope(index as usize);
        flip(&mut changed, bit);
        check(verifier, leaf_hash(&SALT, &changed), index, path).unwrap_err();
    }
    for bit in 0..path.len() * 256 {
        let mut changed = path.to_vec();
        flip(changed.as_flattened_mut(), bit);
        check(verifier, leaf, index, &changed).unwrap_err();
    }
    for bit in 0..32 {
        check(verifier, leaf, index ^ 1 << bit, path).unwrap_err();
        // Another size may have the same root over the same path (that is why it is signed): only the verdict must agree.
        let _ = check(&mut PathVerifier::new(&verifier.root.clone(), verifier.size ^ 1 << bit), leaf, index, path);
    }
    for place in 0..=path.len() {
        let mut longer = path.to_vec();
        longer.insert(place, path.get(place).copied().unwrap_or(leaf));
        check(verifier, leaf, index, &longer).unwrap_err();
        if place < path.len() {
            let mut shorter = path.to_vec();
            shorter.remove(place);
            check(verifier, leaf, index, &shorter).unwrap_err();
        }
    }
    check(verifier, leaf, index, path).unwrap();
}

#[test]
fn every_path_of_every_tree_up_to_300_leaves_has_the_verdict_of_the_definition_in_any_order() {
    for size in 1..=300 {
        let (tree, leaves) = tree(size);
        let forward = 0..size;
        let scattered: Vec<_> = (0..size).map(|step| (step * 7_919 + 13) % size).collect();
        for order in [forward.clone().collect::<Vec<_>>(), forward.rev().collect(), scattered] {
            let mut verifier = PathVerifier::new(&tree.root(), count(size));
            for index in order {
                let path = path_of(&tree, count(index));
                check(&mut verifier, leaves[index], count(index), &path).unwrap();
                // The path of one leaf is not that of another.
                let other = (index + 1) % size;
                if other != index {
                    check(&mut verifier, leaves[other], count(index), &path).unwrap_err();
                    check(&mut verifier, leaves[index], count(other), &path).unwrap_err();
                }
            }
            assert!(verifier.node_hashes <= 3 * size, "{} node hashes for {size} leaves", verifier.node_hashes);
        }
    }
}

#[test]
fn any_flipped_bit_is_refused_whatever_is_known_already() {
    for size in 1..=300 {
        let (tree, leaves) = tree(size);
        let indices: Vec<usize> = match size <= 16 || [31, 32, 33, 255, 257].contains(&size) {
            true => (0..size).collect(),
            false => vec![0, size / 2, size - 1],
        };
        // In one pass flips meet a verifier that knows nothing of the leaf, in the other one that knows the whole tree.
        let mut fresh = PathVerifier::new(&tree.root(), count(size));
        for &index in &indices {
            fresh.restart(&tree.root(), count(size));
            check_every_flip(&mut fresh, count(index), leaves[index], &path_of(&tree, count(index)));
        }
        for (index, leaf) in leaves.iter().enumerate() {
            fresh.verify(*leaf, count(index), &path_of(&tree, count(index))).unwrap();
        }
        for &index in &indices {
            check_every_flip(&mut fresh, count(index), leaves[index], &path_of(&tree, count(index)));
        }
    }
}

#[test]
fn leaves_in_order_cost_one_node_hash_each() {
    for size in [1, 2, 3, 64, 255, 256, 1_024] {
        let (tree, leaves) = tree(size);
        let mut verifier = PathVerifier::new(&tree.root(), count(size));
        for (index, leaf) in leaves.iter().enumerate() {
            verifier.verify(*leaf, count(index), &path_of(&tree, count(index))).unwrap();
        }
        assert_eq!(verifier.node_hashes, size - 1, "each inner node once");
    }
}

#[test]
fn a_verifier_forgets_one_tree_with_the_next_and_keeps_its_memory() {
    let mut verifier = PathVerifier::new(&[0; 32], 0);
    assert_eq!(verifier.verify([1; 32], 0, &[]), Err(PathError::IndexOutOfTree { index: 0, size: 0 }.into()));
    let mut capacity = 0;
    for size in [300, 7, 300, 1, 256] {
        let (tree, leaves) = tree(size);
        verifier.restart(&tree.root(), count(size));
        for (index, leaf) in leaves.iter().enumerate() {
            check(&mut verifier, *leaf, count(index), &path_of(&tree, count(index))).unwrap();
        }
        // The same paths prove nothing about another root.
        verifier.restart(&[9; 32], count(size));
        check(&mut verifier, leaves[0], 0, &path_of(&tree, 0)).unwrap_err();
        assert!(capacity == 0 || capacity == verifier.nodes.capacity(), "the first tree was the largest");
        capacity = verifier.nodes.capacity();
    }
}

#[test]
fn a_tree_too_large_to_remember_is_checked_all_the_same() {
    let size = REMEMBERED_LEAVES_MAX as usize + 1;
    let (tree, leaves) = tree(size);
    let mut verifier = PathVerifier::new(&tree.root(), count(size));
    assert_eq!(verifier.nodes.capacity(), 0);
    for index in [0, 1, size / 2, size - 1] {
        let path = path_of(&tree, count(index));
        check(&mut verifier, leaves[index], count(index), &path).unwrap();
        check(&mut verifier, leaves[(index + 1) % size], count(index), &path).unwrap_err();
    }
    let largest = PathVerifier::new(&[9; 32], u32::MAX);
    assert_eq!(largest.nodes.capacity(), 0);
    let (tree, leaves) = self::tree(REMEMBERED_LEAVES_MAX as usize);
    let mut verifier = PathVerifier::new(&tree.root(), REMEMBERED_LEAVES_MAX);
    for index in [0, 1, REMEMBERED_LEAVES_MAX - 1] {
        check(&mut verifier, leaves[index as usize], index, &path_of(&tree, index)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Honest and forged paths in any mixture: siblings from elsewhere in the same tree are what a forger has.
    #[test]
    fn a_mixture_of_honest_and_forged_paths_has_the_verdicts_of_the_definition(
        size in 1..200usize,
        asked in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6u8), 1..80),
    ) {
        let (tree, leaves) = tree(size);
        let mut verifier = PathVerifier::new(&tree.root(), count(size));
        for (index, other, place, how) in asked {
            let (index, other) = (index.index(size), other.index(size));
            let mut path = path_of(&tree, count(index));
            let foreign = path_of(&tree, count(other));
            let place = place.index(path.len().max(1));
            match how {
                0 if !path.is_empty() && !foreign.is_empty() => path[place] = foreign[place % foreign.len()],
                1 if !path.is_empty() => path[place] = leaves[other],
                2 => path = foreign,
                _ => {}
            }
            let _ = check(&mut verifier, leaves[index], count(index), &path);
            let _ = check(&mut verifier, leaves[other], count(index), &path);
        }
    }
}
