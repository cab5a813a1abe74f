//! Names and sizes of the log's files.
//!
//! | file | what it holds |
//! |---|---|
//! | `commit` | two slots, written in turn: what is durable, and where each source goes on |
//! | `checkpoint` | the last signed checkpoint |
//! | `entries/N` | the entry bundles of 65,536 leaves, one after the other |
//! | `hashes/N` | the level 0 tiles of the same leaves, one after the other |
//! | `tiles` | the level 1 hashes: one for each full tile |
//! | `milestones/SIZE` | a checkpoint for each file of entries |

use creto_audit::tile::TILE_WIDTH;

/// The commit slots.
pub const COMMIT: &str = "commit";
/// The last signed checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// What becomes the checkpoint when it is whole.
pub(crate) const CHECKPOINT_NEW: &str = "checkpoint.new";
/// The hashes of full tiles.
pub const TILES: &str = "tiles";
/// The folder of entries.
pub const ENTRIES: &str = "entries";
/// The folder of leaf hashes.
pub const HASHES: &str = "hashes";
/// The folder of checkpoints that are kept.
pub const MILESTONES: &str = "milestones";
/// The secret keys, mode 0600.
pub const SECRET_KEYS: &str = "audit.key";
/// The public keys.
pub const PUBLIC_KEYS: &str = "audit.pub";

/// Leaves of one file of entries: 256 bundles. Two in this crate's own tests, so that they cross from file to file often.
pub const SEGMENT_LEAVES: u64 = if cfg!(test) { 512 } else { 65_536 };
/// Bytes of a hash.
pub const HASH_BYTES: u64 = 32;
/// Bytes of one of the two commit slots.
pub const SLOT_BYTES: usize = 32 * 1024;
/// Bytes of entries that are held before they are written, not yet synced.
pub const PENDING_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(SEGMENT_LEAVES.is_multiple_of(TILE_WIDTH as u64));

/// The file of entries of a segment.
#[must_use]
pub fn entries_file(segment: u64) -> String {
    format!("{ENTRIES}/{segment:012}")
}

/// The file of leaf hashes of a segment.
#[must_use]
pub fn hashes_file(segment: u64) -> String {
    format!("{HASHES}/{segment:012}")
}

/// The file of the checkpoint of this size.
#[must_use]
pub fn milestone_file(size: u64) -> String {
    format!("{MILESTONES}/{size:020}")
}
