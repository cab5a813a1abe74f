//! The same tree over SHA3-256 (FIPS 202), for deployments that demand it. It shares nothing with the SHA-256 tree but
//! the shape, so whoever does not choose it pays nothing for the choice.

use super::{Hash, LEAF_DOMAIN, NODE_DOMAIN, PATH_LENGTH_MAX, PathError, Tree, climb, leaf_hash, root_from_path};
use crate::digest::sha3_256;

#[cfg(test)]
mod tests;

/// Which hash a tree is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TreeHash {
    /// SHA-256 (FIPS 180-4).
    #[default]
    Sha256,
    /// SHA3-256 (FIPS 202).
    Sha3_256,
}

impl TreeHash {
    /// Hash of one leaf: H(0x00 || salt || envelope).
    pub fn leaf(self, salt: &[u8; 16], envelope: &[u8]) -> Hash {
        match self {
            Self::Sha256 => leaf_hash(salt, envelope),
            Self::Sha3_256 => sha3_256(&[&[LEAF_DOMAIN], salt, envelope]),
        }
    }

    /// As [`Tree::rebuild`], over this hash.
    ///
    /// # Panics
    /// As [`Tree::rebuild`].
    pub fn rebuild(self, tree: &mut Tree, leaves: &[Hash]) {
        match self {
            Self::Sha256 => tree.rebuild(leaves),
            Self::Sha3_256 => rebuild(tree, leaves),
        }
    }

    /// As [`root_from_path`], over this hash.
    ///
    /// # Errors
    /// As [`root_from_path`].
    pub fn root_from_path(self, leaf: Hash, index: u32, size: u32, path: &[Hash]) -> Result<Hash, PathError> {
        match self {
            Self::Sha256 => root_from_path(leaf, index, size, path),
            Self::Sha3_256 => climb(leaf, index, size, path, node_hash),
        }
    }
}

/// Hash of an inner node: SHA3-256(0x01 || left || right).
fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha3_256(&[&[NODE_DOMAIN], left, right])
}

fn rebuild(tree: &mut Tree, leaves: &[Hash]) {
    assert!(u32::try_from(leaves.len()).is_ok(), "a tree has at most u32::MAX leaves");
    tree.nodes.clear();
    tree.level_starts.clear();
    tree.nodes.reserve(leaves.len() * 2 + PATH_LENGTH_MAX);
    tree.nodes.extend_from_slice(leaves);
    tree.level_starts.push(0);
    let mut start = 0;
    while tree.nodes.len() - start > 1 {
        let end = tree.nodes.len();
        for left in (start..end).step_by(2) {
            let parent = match left + 1 < end {
                true => node_hash(&tree.nodes[left], &tree.nodes[left + 1]),
                false => tree.nodes[left],
            };
            tree.nodes.push(parent);
        }
        tree.level_starts.push(end);
        start = end;
    }
    tree.level_starts.push(tree.nodes.len());
}
