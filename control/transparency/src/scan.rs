//! An agent reads every leaf, in order, and looks for records of its own: the leaves must make the very tree whose head it has
//! seen, so none can be kept from it, and a record of its name that its own keys did not sign is one that somebody slipped in.

use creto_audit::tree::{Frontier, Hash};
use creto_envelope::key_log::KEY_LEAF_BYTES;
use creto_envelope::{AgentId, KeyId};

use crate::error::KeyLogError;
use crate::head::TreeHead;
use crate::leaf::{KeyLeaf, leaf_hash};

#[cfg(test)]
mod tests;

/// What an agent knows of itself.
pub trait ScanSelf {
    /// Which agent it is.
    fn agent(&self) -> AgentId;
    /// What names its signing keys ([`signing_fingerprint`](crate::leaf::signing_fingerprint)). They never change.
    fn signing(&self) -> Hash;
    /// The id of its encryption key under this version of its record, if it has that key still.
    fn key_id(&self, version: u32) -> Option<KeyId>;
}

/// How far the leaves were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    tree: Frontier,
}

impl Scan {
    /// From the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From where [`Scan::size`] and [`Scan::subtrees`] said; `None` when they do not belong together.
    #[must_use]
    pub fn resume(size: u64, subtrees: &[Hash]) -> Option<Self> {
        Frontier::from_subtrees(size, subtrees).map(|tree| Self { tree })
    }

    /// Leaves that were read.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// With the size, all that is needed to go on.
    pub fn subtrees(&self) -> impl Iterator<Item = &Hash> {
        self.tree.subtrees()
    }

    /// Takes the next leaves. Until [`Scan::ends_at`] says that they are those of a signed head they may be anything.
    ///
    /// # Errors
    /// [`KeyLogError::ForeignRecord`] or [`KeyLogError::LeafForm`]; the scan is then good for nothing any more.
    pub fn take(&mut self, leaves: &[[u8; KEY_LEAF_BYTES]], own: &impl ScanSelf) -> Result<(), KeyLogError> {
        let mut hashes = Vec::with_capacity(leaves.len());
        for (bytes, index) in leaves.iter().zip(self.size()..) {
            let leaf = KeyLeaf::parse(bytes).ok_or(KeyLogError::LeafForm { index })?;
            if leaf.agent == own.agent() && leaf.kind.is_record() {
                // The leaf of a record is only believed by others when it has exactly that record's signing keys. So one with
                // our keys stands for a record that our keys have signed.
                let is_ours =
                    leaf.signing == own.signing() && own.key_id(leaf.version).is_none_or(|ours| ours == leaf.key_id);
                if !is_ours {
                    return Err(KeyLogError::ForeignRecord { index, version: leaf.version });
                }
            }
            hashes.push(leaf_hash(bytes));
        }
        self.tree.append(&hashes, |_| {});
        Ok(())
    }

    /// Whether the leaves that were read are exactly those of this head; `false` as long as some are missing.
    ///
    /// # Errors
    /// [`KeyLogError::LeavesChanged`].
    pub fn ends_at(&self, head: &TreeHead) -> Result<bool, KeyLogError> {
        if self.size() < head.size {
            return Ok(false);
        }
        match self.size() == head.size && self.tree.root() == head.root {
            true => Ok(true),
            false => Err(KeyLogError::LeavesChanged { size: head.size }),
        }
    }
}
