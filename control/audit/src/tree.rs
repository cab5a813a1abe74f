//! The Merkle tree of the log: RFC 6962 section 2.1, up to 2^64 leaves, never whole in memory.
//!
//! [`Frontier`] takes leaves and knows the root. What lies behind it is read as complete subtrees ([`Nodes`]), of which
//! [`inclusion_proof`] and [`consistency_proof`] are made; [`root_of_inclusion`] and [`check_consistency`] check them exactly:
//! the length of a path follows from index and size, and nothing may be left over.

use std::ops::Range;

use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::merkle::{node_hash, node_hashes};
use thiserror::Error;

pub use creto_crypto_accel::digest::Hash;

#[cfg(test)]
mod tests;

/// Levels of a tile: it holds 256 hashes.
pub const TILE_HEIGHT: u8 = 8;

/// The complete subtrees that a tree ends with: all that is needed to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// By level: the subtree of 2^level leaves, if `size` has that bit.
    pending: Vec<Option<Hash>>,
    row: Vec<Hash>,
    coming: Vec<Hash>,
}

impl Frontier {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of the first `size` leaves, its complete subtrees read from `nodes`.
    ///
    /// # Errors
    /// Those of `nodes`.
    pub fn read<N: Nodes>(nodes: &mut N, size: u64) -> Result<Self, N::Error> {
        let mut pending = Vec::new();
        for level in 0..u8::try_from(64 - size.leading_zeros()).expect("at most 64") {
            let has_subtree = size >> level & 1 == 1;
            pending.push(if has_subtree { Some(nodes.complete(level, (size >> level) - 1)?) } else { None });
        }
        Ok(Self { size, pending, ..Self::default() })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The complete subtrees that the tree ends with, the smallest first: with the size, all that is needed to go on.
    pub fn subtrees(&self) -> impl Iterator<Item = &Hash> {
        self.pending.iter().flatten()
    }

    /// The tree of `size` leaves with these [`Frontier::subtrees`]; `None` when it has not so many.
    #[must_use]
    pub fn from_subtrees(size: u64, subtrees: &[Hash]) -> Option<Self> {
        let mut left = subtrees.iter();
        let pending = (0..64 - size.leading_zeros()).map(|level| match size >> level & 1 {
            1 => left.next().map(|hash| Some(*hash)),
            _ => Some(None),
        });
        let pending = pending.collect::<Option<Vec<_>>>()?;
        left.next().is_none().then(|| Self { size, pending, ..Self::default() })
    }

    /// Appends leaf hashes, and tells of each subtree of 256 leaves that they complete, in order: those are the hashes of the
    /// tiles one level up.
    ///
    /// # Panics
    /// At 2^64 leaves.
    pub fn append(&mut self, leaves: &[Hash], mut tile: impl FnMut(Hash)) {
        self.size = self.size.checked_add(leaves.len() as u64).expect("no log has 2^64 leaves");
        self.coming.clear();
        self.coming.extend_from_slice(leaves);
        let mut level = 0;
        while !self.coming.is_empty() {
            if self.pending.len() == level {
                self.pending.push(None);
            }
            self.row.clear();
            self.row.extend(self.pending[level].take());
            self.row.extend_from_slice(&self.coming);
            if self.row.len() % 2 == 1 {
                self.pending[level] = self.row.pop();
            }
            self.coming.clear();
            self.coming.resize(self.row.len() / 2, [0; 32]);
            node_hashes(&self.row, &mut self.coming);
            level += 1;
            if level == usize::from(TILE_HEIGHT) {
                self.coming.iter().for_each(|hash| tile(*hash));
            }
        }
    }

    /// The root. That of an empty tree is SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let subtrees = self.pending.iter().flatten();
        subtrees.copied().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(|| sha256(&[]))
    }
}

/// What is behind a [`Frontier`].
pub trait Nodes {
    /// Why a node cannot be read.
    type Error;

    /// The root of the complete subtree of 2^level leaves that begins at leaf `index` x 2^level.
    ///
    /// # Errors
    /// When it is not there.
    fn complete(&mut self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// Tells of every complete subtree that the leaf `index` completes, itself first: all that a store of [`Nodes`] must add when
/// this leaf is appended. What is to the left is read from `nodes`.
///
/// # Errors
/// Those of `nodes`, and those of `each`.
pub fn completed_by<N: Nodes>(
    nodes: &mut N,
    index: u64,
    leaf: Hash,
    mut each: impl FnMut(&mut N, u8, u64, Hash) -> Result<(), N::Error>,
) -> Result<(), N::Error> {
    let (mut hash, mut at, mut level) = (leaf, index, 0);
    loop {
        each(nodes, level, at, hash)?;
        if at & 1 == 0 {
            return Ok(());
        }
        hash = node_hash(&nodes.complete(level, at - 1)?, &hash);
        (at, level) = (at >> 1, level + 1);
    }
}

/// MTH(D\[range\]) of RFC 6962: `range.start` is a multiple of the largest power of two that is below the length.
fn range_hash<N: Nodes>(nodes: &mut N, range: Range<u64>) -> Result<Hash, N::Error> {
    // From the right, so that each step joins two neighbours: the smallest complete subtree ends the range.
    let (mut left, mut end) = (range.end - range.start, range.end);
    let mut hash = None;
    while left > 0 {
        let level = left.trailing_zeros();
        let subtree = nodes.complete(u8::try_from(level).expect("below 64"), (end >> level) - 1)?;
        hash = Some(match hash {
            None => subtree,
            Some(right) => node_hash(&subtree, &right),
        });
        (left, end) = (left & (left - 1), end - (1 << level));
    }
    Ok(hash.unwrap_or_else(|| sha256(&[])))
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// Those of `nodes`.
pub fn root_at<N: Nodes>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    range_hash(nodes, 0..size)
}

/// The largest power of two below `size`, which is at least two.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// PATH(index, D\[0:size\]) of RFC 6962 section 2.1.1, from the leaf's sibling upwards.
///
/// # Errors
/// Those of `nodes`.
///
/// # Panics
/// If the tree has no such leaf.
pub fn inclusion_proof<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "leaf {index} of a tree of {size} leaves");
    let (mut ranges, mut within) = (Vec::new(), 0..size);
    while within.end - within.start > 1 {
        let middle = within.start + split(within.end - within.start);
        let (left, right) = (within.start..middle, middle..within.end);
        (within, _) = if index < middle { (left, ranges.push(right)) } else { (right, ranges.push(left)) };
    }
    ranges.into_iter().rev().map(|range| range_hash(nodes, range)).collect()
}

/// PROOF(old, D\[0:size\]) of RFC 6962 section 2.1.2.
///
/// # Errors
/// Those of `nodes`.
///
/// # Panics
/// If the old tree is larger.
pub fn consistency_proof<N: Nodes>(nodes: &mut N, old: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(old <= size, "a tree of {old} leaves does not come before one of {size}");
    let (mut ranges, mut within) = (Vec::new(), 0..size);
    if old == 0 || old == size {
        return Ok(Vec::new());
    }
    while old != within.end {
        let middle = within.start + split(within.end - within.start);
        let (left, right) = (within.start..middle, middle..within.end);
        (within, _) = if old <= middle { (left, ranges.push(right)) } else { (right, ranges.push(left)) };
    }
    if within.start != 0 {
        ranges.push(within);
    }
    ranges.into_iter().rev().map(|range| range_hash(nodes, range)).collect()
}

/// The root that `path` proves for the leaf hash `leaf` at `index` in a tree of `size` leaves (RFC 9162 section 2.1.3.2).
/// The caller compares it with a signed one.
///
/// # Errors
/// When the tree has no such leaf, or when the path is not exactly as long as index and size demand.
pub fn root_of_inclusion(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Result<Hash, PathError> {
    if index >= size {
        return Err(PathError::OutOfTree { index, size });
    }
    let (mut hash, mut at, mut last, mut siblings) = (leaf, index, size - 1, path.iter());
    while last > 0 {
        if at & 1 == 1 {
            hash = node_hash(siblings.next().ok_or(PathError::Length)?, &hash);
        } else if at < last {
            hash = node_hash(&hash, siblings.next().ok_or(PathError::Length)?);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if siblings.next().is_some() { Err(PathError::Length) } else { Ok(hash) }
}

/// Checks that the tree of `size` leaves with `root` begins with that of `old` leaves with `old_root` (RFC 9162 section
/// 2.1.4.2).
///
/// # Errors
/// [`PathError`]: the proof has not the length that both sizes demand, or proves something else.
pub fn check_consistency(old: u64, old_root: Hash, size: u64, root: Hash, proof: &[Hash]) -> Result<(), PathError> {
    if old > size {
        return Err(PathError::OutOfTree { index: old, size });
    }
    if old == size || old == 0 {
        let expected = if old == 0 { sha256(&[]) } else { root };
        return match (proof, old_root == expected) {
            ([], true) => Ok(()),
            ([], false) => Err(PathError::OtherRoot),
            _ => Err(PathError::Length),
        };
    }
    let mut steps = proof.iter();
    let (mut at, mut last) = (old - 1, size - 1);
    let skipped = at.trailing_ones();
    (at, last) = (at >> skipped, last >> skipped);
    let begin = if at == 0 { old_root } else { *steps.next().ok_or(PathError::Length)? };
    let (mut old_hash, mut hash) = (begin, begin);
    while last > 0 {
        if at & 1 == 1 {
            let step = steps.next().ok_or(PathError::Length)?;
            (old_hash, hash) = (node_hash(step, &old_hash), node_hash(step, &hash));
        } else if at < last {
            hash = node_hash(&hash, steps.next().ok_or(PathError::Length)?);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    match (steps.next(), old_hash == old_root && hash == root) {
        (Some(_), _) => Err(PathError::Length),
        (None, false) => Err(PathError::OtherRoot),
        (None, true) => Ok(()),
    }
}

/// Why a path proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// {index} is not in a tree of {size} leaves: take both from the same proof
    #[error("{index} is not in a tree of {size} leaves: take both from the same proof")]
    OutOfTree {
        /// Leaf or size that was asked for.
        index: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// the path has not the length that index and size demand: make it again from the log
    #[error("the path has not the length that index and size demand: make it again from the log")]
    Length,
    /// the path leads to another root: one of the two is not of this log
    #[error("the path leads to another root: one of the two is not of this log")]
    OtherRoot,
}
