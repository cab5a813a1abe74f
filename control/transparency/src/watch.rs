//! What an agent believes of a log: the keys that it saw first, and the newest head that it has seen since.
//!
//! A head takes the place of the one before only if both keys signed it and the log is shown to have grown out of that one.
//! What is refused changes nothing.

use creto_audit::tree::{Hash, PathError, check_consistency, root_of_inclusion};
use creto_audit::{LogPublic, LogVerifier};
use creto_envelope::KeyRecord;
use creto_envelope::key_log::KEY_LEAF_BYTES;

use crate::error::KeyLogError;
use crate::head::SignedHead;
use crate::leaf::{KeyLeaf, leaf_hash};

#[cfg(test)]
mod tests;

/// Holds what a node says about its key log against what it said before.
#[derive(Debug)]
pub struct Watch {
    log: LogVerifier,
    seen: Option<SignedHead>,
}

/// How a record stands in the log, as a node says.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'e> {
    /// Number of leaves of the head that it is for.
    pub size: u64,
    /// Which leaf.
    pub index: u64,
    /// The leaf.
    pub leaf: &'e [u8; KEY_LEAF_BYTES],
    /// From the leaf's sibling upwards.
    pub path: &'e [Hash],
}

impl Watch {
    /// For the log with these keys, of which nothing was seen yet.
    ///
    /// # Errors
    /// [`KeyLogError::Keys`].
    pub fn pin(public: LogPublic) -> Result<Self, KeyLogError> {
        let log = LogVerifier::new(public).map_err(|error| KeyLogError::Keys(error.to_string()))?;
        Ok(Self { log, seen: None })
    }

    /// As [`Watch::pin`], for keys in the form of `audit.pub`.
    ///
    /// # Errors
    /// [`KeyLogError::Keys`].
    pub fn pin_text(keys: &str) -> Result<Self, KeyLogError> {
        Self::pin(LogPublic::parse(keys).map_err(|error| KeyLogError::Keys(error.to_string()))?)
    }

    /// The keys.
    #[must_use]
    pub fn public(&self) -> &LogPublic {
        self.log.public()
    }

    /// The newest head that was seen.
    #[must_use]
    pub fn head(&self) -> Option<&SignedHead> {
        self.seen.as_ref()
    }

    /// Leaves of the newest head that was seen: from there a node must show that its log has grown.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.seen.as_ref().map_or(0, |head| head.size)
    }

    /// Goes on to a newer head: both signatures hold, and `consistency` shows that the log grew out of the one that was seen.
    /// Returns whether it is new.
    ///
    /// # Errors
    /// [`KeyLogError`]: the first rule that is broken; what was seen stays.
    pub fn advance(&mut self, note: &[u8], consistency: &[Hash]) -> Result<bool, KeyLogError> {
        let head = SignedHead::verify(&self.log, note)?;
        if let Some(seen) = &self.seen {
            let (seen_size, found) = (seen.size, head.size);
            if found < seen_size {
                return Err(KeyLogError::RolledBack { seen: seen_size, found });
            }
            match check_consistency(seen_size, seen.root, found, head.root, consistency) {
                Ok(()) => {}
                Err(PathError::OtherRoot) => return Err(KeyLogError::Forked { seen: seen_size, found }),
                Err(_) => return Err(KeyLogError::NotShown { seen: seen_size, found }),
            }
            if found == seen_size {
                return Ok(false);
            }
        }
        self.seen = Some(head);
        Ok(true)
    }

    /// Checks that exactly this record is in the log, under the newest head that was seen.
    ///
    /// # Errors
    /// [`KeyLogError`]: the first rule that is broken. The record must not be used then.
    pub fn check(&self, record: &KeyRecord, evidence: Evidence<'_>) -> Result<KeyLeaf, KeyLogError> {
        let leaf = Self::leaf(evidence)?;
        if !leaf.is_of(record) {
            return Err(KeyLogError::OtherRecord { index: evidence.index });
        }
        self.check_leaf(evidence)
    }

    fn leaf(evidence: Evidence<'_>) -> Result<KeyLeaf, KeyLogError> {
        KeyLeaf::parse(evidence.leaf).ok_or(KeyLogError::LeafForm { index: evidence.index })
    }

    /// Checks that a leaf is in the log, under the newest head that was seen, whatever record it is of.
    ///
    /// # Errors
    /// As [`Watch::check`].
    pub fn check_leaf(&self, evidence: Evidence<'_>) -> Result<KeyLeaf, KeyLogError> {
        let Evidence { size, index, leaf: bytes, path } = evidence;
        let leaf = Self::leaf(evidence)?;
        let shown = self.size();
        let head = self.seen.as_ref().filter(|head| head.size == size);
        let head = head.ok_or(KeyLogError::OtherHead { shown, found: size })?;
        match root_of_inclusion(leaf_hash(bytes), index, head.size, path) {
            Ok(root) if root == head.root => Ok(leaf),
            _ => Err(KeyLogError::NotInLog { index }),
        }
    }
}
