//! The signed size and root of a key log: a [c2sp.org/tlog-checkpoint](https://c2sp.org/tlog-checkpoint) with one line of our own,
//! the time.
//!
//! ```text
//! creto.local/creto-audit/node-1/keys
//! 1234
//! <root, base64>
//! time 1764460800000
//! ```
//!
//! The keys are the audit log's under another name ([`origin_beside`]), so neither log's checkpoint is ever one of the other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_audit::tree::Hash;
use creto_audit::{LogKeys, LogVerifier};

use crate::error::KeyLogError;

#[cfg(test)]
mod tests;

/// The origin of the key log of a node whose audit log has this one.
#[must_use]
pub fn origin_beside(audit: &str) -> String {
    format!("{audit}/keys")
}

/// What a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// When it was signed, by the node's clock, Unix milliseconds.
    pub time_ms: u64,
}

impl TreeHead {
    /// The note: the text, signed with both keys. About 200 us.
    #[must_use]
    pub fn sign(&self, keys: &LogKeys) -> String {
        let Self { size, root, time_ms } = self;
        keys.sign_note(&format!("{}\n{size}\n{}\ntime {time_ms}\n", keys.public().origin(), STANDARD.encode(root)))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (_origin, size, root, time) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
        let root = STANDARD.decode(root).ok()?.try_into().ok()?;
        let head = Self { size: number(size)?, root, time_ms: number(time.strip_prefix("time ")?)? };
        lines.next().is_none().then_some(head)
    }
}

/// A decimal number as it is written: no sign, no leading zeros.
fn number(text: &str) -> Option<u64> {
    let number = text.parse().ok()?;
    (u64::to_string(&number) == text).then_some(number)
}

/// A head that both keys of the log have signed. Only [`SignedHead::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    head: TreeHead,
    note: String,
}

impl SignedHead {
    /// Checks that `note` is a head of this log, and that **both** keys have signed it.
    ///
    /// # Errors
    /// [`KeyLogError::Head`] or [`KeyLogError::HeadForm`].
    pub fn verify(log: &LogVerifier, note: &[u8]) -> Result<Self, KeyLogError> {
        let text = log.verify_text(note)?;
        let head = TreeHead::parse(text).ok_or(KeyLogError::HeadForm)?;
        let note = String::from_utf8(note.to_vec()).map_err(|_| KeyLogError::HeadForm)?;
        Ok(Self { head, note })
    }

    /// The note, byte by byte.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl std::ops::Deref for SignedHead {
    type Target = TreeHead;

    fn deref(&self) -> &TreeHead {
        &self.head
    }
}
