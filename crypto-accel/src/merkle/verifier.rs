//! Paths of one tree checked one after the other, where each leans on those before it.
//!
//! The verifier remembers the nodes of the tree that a path has proven. A path is climbed only up to the first node that
//! is known; from there on its siblings are compared instead of hashed. Leaves in order cost one node hash each, instead
//! of one for each level.
//!
//! The verdict is that of [`root_from_path`] in every case:
//!
//! - Known nodes are closed upwards: with a node its sibling, its parent, the parent's sibling and so on are known, for they
//!   became known together, when a path over all of them led to the root. So above the first known node every sibling of a
//!   path has a known node to be compared with, and if all are equal the path hashes to the root, as it did then.
//! - A path that leads to the root but differs from a known node somewhere would be a second preimage of SHA-256.
//! - A path that is refused leaves nothing behind.

use super::{Hash, PathError, node_hash, path_length, root_from_path};

#[cfg(test)]
mod tests;

/// Largest tree whose nodes are remembered: 4,096 leaves, 256 KiB. In a larger one each path is climbed to the root.
pub const REMEMBERED_LEAVES_MAX: u32 = 4_096;

/// Levels of a tree whose nodes are remembered, the root's included.
const LEVELS_MAX: usize = 13;
const _: () = assert!(1 << (LEVELS_MAX - 1) == REMEMBERED_LEAVES_MAX);

/// Checks paths against one root, remembering what they prove. Its memory is reused from tree to tree.
#[derive(Debug)]
pub struct PathVerifier {
    root: Hash,
    size: u32,
    /// All levels one after the other, the leaves first; what is not known is left over from something else.
    nodes: Vec<Hash>,
    /// One bit for each of `nodes`.
    known: Vec<u64>,
    /// Where each level begins in `nodes`.
    level_starts: [usize; LEVELS_MAX],
    #[cfg(test)]
    node_hashes: usize,
}

impl PathVerifier {
    /// A verifier of the tree of `size` leaves with this root. Both must come from a statement whose signatures hold.
    pub fn new(root: &Hash, size: u32) -> Self {
        let mut this = Self {
            root: *root,
            size,
            nodes: Vec::new(),
            known: Vec::new(),
            level_starts: [0; LEVELS_MAX],
            #[cfg(test)]
            node_hashes: 0,
        };
        this.restart(root, size);
        this
    }

    /// Turns to another tree; allocates only if it is larger than every one before.
    pub fn restart(&mut self, root: &Hash, size: u32) {
        (self.root, self.size) = (*root, size);
        self.known.clear();
        if size == 0 || size > REMEMBERED_LEAVES_MAX {
            return;
        }
        let (mut start, mut width, mut level) = (0, size as usize, 0);
        loop {
            self.level_starts[level] = start;
            start += width;
            if width == 1 {
                break;
            }
            width = width.div_ceil(2);
            level += 1;
        }
        if self.nodes.len() < start {
            self.nodes.resize(start, [0; 32]);
        }
        self.known.resize(start.div_ceil(64), 0);
        self.nodes[start - 1] = *root;
        self.mark(start - 1);
    }

    /// Checks that the leaf hash `leaf` stands at `index` in the tree.
    ///
    /// # Errors
    /// [`ProofError::Path`] as [`root_from_path`], [`ProofError::OtherRoot`] where that gives another root. Nothing is
    /// remembered then.
    pub fn verify(&mut self, leaf: Hash, index: u32, path: &[Hash]) -> Result<(), ProofError> {
        if self.known.is_empty() {
            return match root_from_path(leaf, index, self.size, path)? == self.root {
                true => Ok(()),
                false => Err(ProofError::OtherRoot),
            };
        }
        let expected = usize::from(path_length(index, self.size)?);
        if path.len() != expected {
            return Err(PathError::WrongLength { expected, found: path.len() }.into());
        }
        let at_leaf = Place { level: 0, position: index as usize, width: self.size as usize };
        // Up to the first node that is known (the root always is), what is computed lands in slots that are not known yet.
        let (mut place, mut hash, mut siblings) = (at_leaf, leaf, path.iter());
        while !self.is_known(self.slot(place)) {
            let slot = self.slot(place);
            self.nodes[slot] = hash;
            if let Some(beside) = place.sibling() {
                let (beside, sibling) = (self.slot(beside), siblings.next().expect(LENGTH_CHECKED));
                self.nodes[beside] = *sibling;
                hash = match place.position & 1 {
                    0 => self.parent(&hash, sibling),
                    _ => self.parent(sibling, &hash),
                };
            }
            place = place.parent();
        }
        let first_known = place;
        // From there on nothing is hashed: everything must be what is known.
        let mut holds = hash == self.nodes[self.slot(place)];
        while place.width > 1 {
            if let Some(beside) = place.sibling() {
                holds &= *siblings.next().expect(LENGTH_CHECKED) == self.nodes[self.slot(beside)];
            }
            place = place.parent();
        }
        assert!(siblings.next().is_none(), "a path of the right length is used up exactly");
        if !holds {
            return Err(ProofError::OtherRoot);
        }
        let mut place = at_leaf;
        while place.level < first_known.level {
            self.mark(self.slot(place));
            if let Some(beside) = place.sibling() {
                self.mark(self.slot(beside));
            }
            place = place.parent();
        }
        Ok(())
    }

    fn parent(&mut self, left: &Hash, right: &Hash) -> Hash {
        #[cfg(test)]
        {
            self.node_hashes += 1;
        }
        node_hash(left, right)
    }

    fn slot(&self, place: Place) -> usize {
        self.level_starts[place.level] + place.position
    }

    fn is_known(&self, slot: usize) -> bool {
        self.known[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn mark(&mut self, slot: usize) {
        self.known[slot / 64] |= 1 << (slot % 64);
    }
}

const LENGTH_CHECKED: &str = "the length of the path was checked";

/// Where a node stands in its tree.
#[derive(Clone, Copy)]
struct Place {
    level: usize,
    position: usize,
    /// Nodes of this level.
    width: usize,
}

impl Place {
    fn sibling(self) -> Option<Self> {
        let position = self.position ^ 1;
        (position < self.width).then_some(Self { position, ..self })
    }

    fn parent(self) -> Self {
        Self { level: self.level + 1, position: self.position / 2, width: self.width.div_ceil(2) }
    }
}

/// Why a path does not prove its leaf. Always the fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The path has not the form that index and tree size demand.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Leaf and path lead to another root.
    #[error("leaf and path do not lead to the signed root: send leaf, salt and path of the same batch")]
    OtherRoot,
}
