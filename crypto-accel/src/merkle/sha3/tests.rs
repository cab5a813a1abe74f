use sha3::{Digest, Sha3_256};

use super::*;

/// By another hand, and by the recursive definition of the RFC.
fn reference(leaves: &[Hash]) -> Hash {
    match leaves {
        [only] => *only,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            let hash = Sha3_256::new().chain_update([1]).chain_update(reference(left)).chain_update(reference(right));
            hash.finalize().into()
        }
    }
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|index| TreeHash::Sha3_256.leaf(&[7; 16], &index.to_le_bytes())).collect()
}

#[test]
fn a_leaf_is_sha3_256_over_domain_salt_and_envelope() {
    let expect: Hash = Sha3_256::new().chain_update([0]).chain_update([7; 16]).chain_update(b"abc").finalize().into();
    assert_eq!(TreeHash::Sha3_256.leaf(&[7; 16], b"abc"), expect);
    assert_ne!(TreeHash::Sha256.leaf(&[7; 16], b"abc"), expect);
}

#[test]
fn every_root_is_that_of_the_rfc_and_every_path_leads_to_it() {
    let (mut tree, mut path) = (Tree::new(), Vec::new());
    for count in 1..=70 {
        let leaves = leaves(count);
        TreeHash::Sha3_256.rebuild(&mut tree, &leaves);
        assert_eq!(tree.root(), reference(&leaves), "{count} leaves");
        for (index, leaf) in (0..).zip(&leaves) {
            tree.path(index, &mut path);
            assert_eq!(TreeHash::Sha3_256.root_from_path(*leaf, index, tree.size(), &path), Ok(tree.root()));
        }
    }
}

#[test]
fn a_path_of_one_hash_is_none_of_the_other() {
    let (mut tree, mut path) = (Tree::new(), Vec::new());
    let leaves = leaves(5);
    TreeHash::Sha3_256.rebuild(&mut tree, &leaves);
    tree.path(2, &mut path);
    assert_ne!(TreeHash::Sha256.root_from_path(leaves[2], 2, 5, &path), Ok(tree.root()));
    let root = tree.root();
    TreeHash::Sha256.rebuild(&mut tree, &leaves);
    assert_ne!(tree.root(), root);
}
