//! The Merkle tree over a batch, in the shape and with the domain separation of RFC 6962 section 2.1.
//!
//! The tree is unbalanced and no leaf is ever repeated, so a root together with its tree size names exactly one list of
//! leaves. A node without a sibling moves up unchanged, which gives the same tree as the recursive definition of the RFC
//! (split at the largest power of two below the size).

use creto_sha_lanes::{Lanes, Message};

use crate::digest::{Hash, sha256};

mod sha3;
#[cfg(test)]
mod tests;
mod verifier;

pub use verifier::{PathVerifier, ProofError, REMEMBERED_LEAVES_MAX};

pub use sha3::TreeHash;

/// Longest path there is: a tree of `u32::MAX` leaves is 32 levels high.
pub const PATH_LENGTH_MAX: usize = 32;

const LEAF_DOMAIN: u8 = 0x00;
const NODE_DOMAIN: u8 = 0x01;

/// Hash of one leaf: SHA-256(0x00 || salt || envelope).
///
/// The salt is secret until the leaf is disclosed, so a path tells nothing about the neighbours' envelopes.
pub fn leaf_hash(salt: &[u8; 16], envelope: &[u8]) -> Hash {
    sha256(&[&leaf_head(salt), envelope])
}

/// Appends the leaf hash of each (salt, envelope), in order. As many at a time as the processor can: with AVX-512 in a
/// third of the time of [`leaf_hash`] one by one, with SHA instructions in two thirds.
pub fn leaf_hashes<'e>(
    leaves: impl IntoIterator<Item = (&'e [u8; 16], &'e [u8]), IntoIter: ExactSizeIterator>,
    out: &mut Vec<Hash>,
) {
    let leaves = leaves.into_iter();
    let Some(lanes) = Lanes::detect().filter(|_| leaves.len() > 1) else {
        out.extend(leaves.map(|(salt, envelope)| leaf_hash(salt, envelope)));
        return;
    };
    let begin = out.len();
    out.resize(begin + leaves.len(), [0; 32]);
    let messages = leaves.map(|(salt, envelope)| Message { head: leaf_head(salt), body: envelope });
    lanes.hash_each(messages, &mut out[begin..]);
}

fn leaf_head(salt: &[u8; 16]) -> [u8; 17] {
    let mut head = [LEAF_DOMAIN; 17];
    head[1..].copy_from_slice(salt);
    head
}

/// Hash of an inner node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&node_input(left, right)])
}

/// The nodes above these: one for each two children, and none for a child that is left over. As many at a time as the
/// processor can.
///
/// # Panics
/// If there are fewer or more places for parents than pairs of children.
pub fn node_hashes(children: &[Hash], parents: &mut [Hash]) {
    let (pairs, _) = children.as_chunks::<2>();
    assert_eq!(pairs.len(), parents.len(), "two children have one parent");
    match Lanes::detect() {
        Some(lanes) if pairs.len() > 1 => {
            lanes.hash_each(
                pairs.iter().map(|pair| Message { head: [NODE_DOMAIN], body: pair.as_flattened() }),
                parents,
            );
        }
        _ => parents.iter_mut().zip(pairs).for_each(|(parent, [left, right])| *parent = node_hash(left, right)),
    }
}

fn node_input(left: &Hash, right: &Hash) -> [u8; 65] {
    let mut input = [NODE_DOMAIN; 65];
    input[1..33].copy_from_slice(left);
    input[33..].copy_from_slice(right);
    input
}

/// A whole tree in memory, from which every path can be read. Reused from batch to batch without allocating.
#[derive(Debug, Default)]
pub struct Tree {
    /// All levels one after the other: the leaves first, the root last.
    nodes: Vec<Hash>,
    /// Where each level begins in `nodes`, and where the last one ends.
    level_starts: Vec<usize>,
}

impl Tree {
    /// An empty tree, without memory of its own yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the tree over `leaves` (their leaf hashes), forgetting the previous one and keeping its memory.
    ///
    /// # Panics
    /// If there are more than `u32::MAX` leaves: the batch format cannot express them.
    pub fn rebuild(&mut self, leaves: &[Hash]) {
        assert!(u32::try_from(leaves.len()).is_ok(), "a tree has at most u32::MAX leaves");
        self.nodes.clear();
        self.level_starts.clear();
        self.nodes.reserve(leaves.len() * 2 + PATH_LENGTH_MAX);
        self.nodes.extend_from_slice(leaves);
        self.level_starts.push(0);
        let mut start = 0;
        while self.nodes.len() - start > 1 {
            let end = self.nodes.len();
            let (pairs, is_odd) = ((end - start) / 2, (end - start) % 2 == 1);
            self.nodes.resize(end + pairs, [0; 32]);
            let (below, parents) = self.nodes.split_at_mut(end);
            node_hashes(&below[start..], parents);
            if is_odd {
                self.nodes.push(self.nodes[end - 1]);
            }
            self.level_starts.push(end);
            start = end;
        }
        self.level_starts.push(self.nodes.len());
    }

    /// Number of leaves.
    pub fn size(&self) -> u32 {
        let leaf_count = self.level_starts.get(1).copied().unwrap_or(0);
        u32::try_from(leaf_count).expect("rebuild refuses more leaves")
    }

    /// The root. That of an empty tree is SHA-256 of nothing (RFC 6962 section 2.1).
    pub fn root(&self) -> Hash {
        self.nodes.last().copied().unwrap_or_else(|| sha256(&[]))
    }

    /// Writes the audit path of leaf `index` into `out` (which is cleared first), from the leaf's sibling upwards.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn path(&self, index: u32, out: &mut Vec<Hash>) {
        out.clear();
        out.extend(self.path_nodes(index));
    }

    /// Appends the bytes of the audit path of leaf `index` to `out`: many paths go into one piece of memory.
    ///
    /// # Panics
    /// If there is no such leaf.
    pub fn append_path(&self, index: u32, out: &mut Vec<u8>) {
        self.path_nodes(index).for_each(|node| out.extend_from_slice(node));
    }

    /// Most bytes that [`Tree::append_path`] appends for any leaf.
    pub fn path_bytes_max(&self) -> usize {
        self.level_starts.len().saturating_sub(2) * size_of::<Hash>()
    }

    fn path_nodes(&self, index: u32) -> impl Iterator<Item = &Hash> {
        assert!(index < self.size(), "leaf {index} of a tree of {} leaves", self.size());
        let mut position = index as usize;
        self.level_starts.windows(2).filter_map(move |level| {
            let nodes = &self.nodes[level[0]..level[1]];
            let sibling = nodes.get(position ^ 1);
            position /= 2;
            sibling
        })
    }
}

/// Number of nodes in the path of leaf `index` of a tree of `size` leaves.
///
/// # Errors
/// [`PathError::IndexOutOfTree`] if the tree has no such leaf.
pub fn path_length(index: u32, size: u32) -> Result<u8, PathError> {
    if index >= size {
        return Err(PathError::IndexOutOfTree { index, size });
    }
    let (mut position, mut width, mut length) = (index, size, 0);
    while width > 1 {
        length += u8::from(position ^ 1 < width);
        position /= 2;
        width = width.div_ceil(2);
    }
    Ok(length)
}

/// The root that `path` proves for the leaf hash `leaf` at `index` in a tree of `size` leaves (RFC 9162 section 2.1.3.2).
/// The caller compares it with the signed root.
///
/// # Errors
/// When the tree has no such leaf, or when the path is not exactly as long as index and size demand.
pub fn root_from_path(leaf: Hash, index: u32, size: u32, path: &[Hash]) -> Result<Hash, PathError> {
    climb(leaf, index, size, path, node_hash)
}

/// From the leaf to the root, with the hash of an inner node given.
#[inline]
fn climb(
    leaf: Hash,
    index: u32,
    size: u32,
    path: &[Hash],
    node_hash: impl Fn(&Hash, &Hash) -> Hash,
) -> Result<Hash, PathError> {
    let expected = usize::from(path_length(index, size)?);
    if path.len() != expected {
        return Err(PathError::WrongLength { expected, found: path.len() });
    }
    let mut siblings = path.iter();
    let (mut hash, mut position, mut width) = (leaf, index, size);
    while width > 1 {
        if position ^ 1 < width {
            let sibling = siblings.next().expect("the length was checked above");
            hash = match position & 1 {
                0 => node_hash(&hash, sibling),
                _ => node_hash(sibling, &hash),
            };
        }
        position /= 2;
        width = width.div_ceil(2);
    }
    assert!(siblings.next().is_none(), "a path of the right length is used up exactly");
    Ok(hash)
}

/// Why a path proves nothing. Always the fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// leaf {index} does not exist in a tree of {size} leaves: take index and size from the same signed batch
    #[error("leaf {index} does not exist in a tree of {size} leaves: take index and size from the same signed batch")]
    IndexOutOfTree {
        /// Index that was asked for.
        index: u32,
        /// Leaves in the tree.
        size: u32,
    },
    /// path has {found} nodes where index and tree size demand {expected}: send the path as the tree gives it
    #[error("path has {found} nodes where index and tree size demand {expected}: send the path as the tree gives it")]
    WrongLength {
        /// Nodes that index and size demand.
        expected: usize,
        /// Nodes that were given.
        found: usize,
    },
}
