//! A log, or what of it is disclosed, in one file: the header, then bundle after bundle, then an end mark.
//!
//! ```text
//! header   0 [8] "CRETOADT" | 8 u32 version=1 | 12 u32 zero | 16 u64 leaves
//!          24 u32 checkpoint_bytes | 28 u32 keys_bytes | 32 u32 milestones | 36 u32 zero
//!          40 checkpoint | keys | milestones, each behind its length, u32
//! blocks   u32 bundle_bytes | bundle | [32] x entries of the bundle: the tile
//! end      [8] "CRETOEND"
//! ```
//!
//! A block holds 256 leaves, the last one what is left. The tile of a block lets a verifier name the leaf that was changed; the
//! root says whether all of them are what was signed. [`Verifier`] takes block after block and keeps only the tree's frontier and
//! where each chain stands, so that a log of any size is verified in little memory.

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::limits::{ENTRY_BYTES_MAX, EXPORT_MILESTONES_MAX, KEYS_BYTES_MAX, NOTE_BYTES_MAX};
use crate::reader::Reader;
use crate::tile::TILE_WIDTH;

mod finding;
mod verifier;

#[cfg(test)]
mod tests;

pub use finding::{Finding, Place};
pub use verifier::{Seen, Summary, Verifier};

/// The first bytes of an export.
pub const EXPORT_MAGIC: &[u8; 8] = b"CRETOADT";
/// The last bytes of an export.
pub const EXPORT_END: &[u8; 8] = b"CRETOEND";
/// The version that this code writes.
pub const EXPORT_VERSION: u32 = 1;
/// Bytes of the header before the texts.
pub const EXPORT_HEAD_BYTES: usize = 40;
/// Most bytes of a bundle.
pub const BUNDLE_BYTES_MAX: usize = TILE_WIDTH * (2 + ENTRY_BYTES_MAX);

/// The lengths at the front of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportHead {
    /// Number of leaves.
    pub leaves: u64,
    /// Bytes of the checkpoint's note.
    pub checkpoint_bytes: u32,
    /// Bytes of the public keys' text.
    pub keys_bytes: u32,
    /// Older checkpoints, by size: what narrows down where a tree differs.
    pub milestones: u32,
}

impl ExportHead {
    /// The first 40 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; EXPORT_HEAD_BYTES] {
        let mut bytes = [0; EXPORT_HEAD_BYTES];
        bytes[..8].copy_from_slice(EXPORT_MAGIC);
        bytes[8..12].copy_from_slice(&EXPORT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.leaves.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.checkpoint_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.keys_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.milestones.to_le_bytes());
        bytes
    }

    /// Reads the first 40 bytes.
    ///
    /// # Errors
    /// [`ExportError`]: no length in what is returned is above its limit.
    pub fn parse(bytes: &[u8; EXPORT_HEAD_BYTES]) -> Result<Self, ExportError> {
        let mut reader = Reader::new(bytes);
        if reader.array() != Some(*EXPORT_MAGIC) {
            return Err(ExportError::NotAnExport);
        }
        let fields = (|| {
            let (version, reserved) = (reader.u32()?, reader.u32()?);
            let leaves = reader.u64()?;
            let (checkpoint_bytes, keys_bytes, milestones) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let head = Self { leaves, checkpoint_bytes, keys_bytes, milestones };
            Some((version, reserved, head, reader.u32()?))
        })();
        let (version, reserved, head, reserved_too) = fields.expect("40 bytes hold the head");
        if version != EXPORT_VERSION {
            return Err(ExportError::Version(version));
        }
        let is_within_limits = head.checkpoint_bytes as usize <= NOTE_BYTES_MAX
            && head.keys_bytes as usize <= KEYS_BYTES_MAX
            && head.milestones as usize <= EXPORT_MILESTONES_MAX;
        if reserved != 0 || reserved_too != 0 || !is_within_limits {
            return Err(ExportError::Form);
        }
        Ok(head)
    }

    /// Leaves of the block that begins at leaf `index`.
    #[must_use]
    pub fn block_leaves(&self, index: u64) -> usize {
        let left = self.leaves.saturating_sub(index);
        usize::try_from(left).map_or(TILE_WIDTH, |left| left.min(TILE_WIDTH))
    }
}

/// Why a file is not an export, or its log not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// the file is not an export of an audit log: make one with `creto audit export`
    #[error("the file is not an export of an audit log: make one with `creto audit export`")]
    NotAnExport,
    /// the export is of version {0}, which this program does not know: use the version that wrote it, or a later one
    #[error(
        "the export is of version {0}, which this program does not know: use the version that wrote it, or a later one"
    )]
    Version(u32),
    /// the export ends at leaf {leaf} of {leaves}: it was cut; export again
    #[error("the export ends at leaf {leaf} of {leaves}: it was cut; export again")]
    Truncated {
        /// Leaves that were there.
        leaf: u64,
        /// Leaves that should be there.
        leaves: u64,
    },
    /// the export has bytes behind its end, or a length that cannot be: export again
    #[error("the export has bytes behind its end, or a length that cannot be: export again")]
    Form,
    /// A checkpoint does not hold.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// the export's checkpoint is of another size than the export
    #[error("the export has {leaves} leaves, its checkpoint {size}: it was put together from two; export again")]
    OtherSize {
        /// Of the export.
        leaves: u64,
        /// Of its checkpoint.
        size: u64,
    },
    /// the log was rolled back
    #[error(
        "the checkpoint has {found} leaves, but one with {seen} was seen before: the log was rolled back; do not trust it, and ask the operator"
    )]
    RolledBack {
        /// Leaves of the checkpoint that was seen.
        seen: u64,
        /// Leaves of this one.
        found: u64,
    },
    /// Something in it does not fit.
    #[error(transparent)]
    Found(#[from] Finding),
}

impl ExportError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAnExport => "not_an_export",
            Self::Version(_) => "version",
            Self::Truncated { .. } => "truncated",
            Self::Form => "export_form",
            Self::Checkpoint(error) => error.code(),
            Self::OtherSize { .. } => "other_size",
            Self::RolledBack { .. } => "rolled_back",
            Self::Found(finding) => finding.code(),
        }
    }
}
