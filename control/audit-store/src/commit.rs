//! The commit slot: what is durable, and where each source goes on. Two of them are written in turn, so that one is always whole.
//!
//! ```text
//!  0 [8] "CRETOAUC" | 8 u32 version=1 | 12 u32 sources | 16 u64 sequence | 24 u64 size | 32 u64 entries_bytes
//! 40 [32] root | 72 u64 dropped_below | 80 sources | u32 CRC32C of all before
//! source: u16 number | u16 zero | u32 zero | u64 position | [32] chain head | [32] resume
//! ```

use std::collections::BTreeMap;

use creto_audit::limits::SOURCES_MAX;
use creto_audit::tree::Hash;
use creto_audit::{Chain, ChainHash, SourceId};

use crate::layout::SLOT_BYTES;

/// Bytes of a resume point.
pub const RESUME_BYTES: usize = 32;
/// From where a source is to tell its events again, in the source's own words; zero before it said anything.
pub type Resume = [u8; RESUME_BYTES];

const MAGIC: &[u8; 8] = b"CRETOAUC";
/// The format of a log on disk.
pub const VERSION: u32 = 1;
const FIXED_BYTES: usize = 80;
const SOURCE_BYTES: usize = 80;

const _: () = assert!(FIXED_BYTES + SOURCES_MAX * SOURCE_BYTES + 4 <= SLOT_BYTES);

/// What one commit made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) sequence: u64,
    pub(crate) size: u64,
    /// Bytes of the entries of the last segment, which is not full.
    pub(crate) entries_bytes: u64,
    pub(crate) root: Hash,
    pub(crate) dropped_below: u64,
    pub(crate) sources: BTreeMap<SourceId, (Chain, Resume)>,
}

/// What a slot holds.
#[derive(Debug)]
pub(crate) enum Slot {
    Whole(Commit),
    /// Nothing was ever written, or not all of it.
    Torn,
    Version(u32),
}

impl Commit {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        assert!(self.sources.len() <= SOURCES_MAX, "checked when a source is added");
        let mut out = Vec::with_capacity(FIXED_BYTES + SOURCE_BYTES * self.sources.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.sources.len()).expect("checked above").to_le_bytes());
        for number in [self.sequence, self.size, self.entries_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.root);
        out.extend_from_slice(&self.dropped_below.to_le_bytes());
        for (source, (chain, resume)) in &self.sources {
            out.extend_from_slice(&source.number().to_le_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&chain.position.to_le_bytes());
            out.extend_from_slice(&chain.head.0);
            out.extend_from_slice(resume);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn parse(slot: &[u8]) -> Slot {
        let u32_at = |at: usize| slot.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let u64_at = |at: usize| slot.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let hash_at = |at: usize| slot.get(at..)?.first_chunk::<32>().copied();
        if slot.first_chunk() != Some(MAGIC) {
            return Slot::Torn;
        }
        match u32_at(8) {
            Some(VERSION) => {}
            Some(version) => return Slot::Version(version),
            None => return Slot::Torn,
        }
        let commit = (|| {
            let count = usize::try_from(u32_at(12)?).ok().filter(|count| *count <= SOURCES_MAX)?;
            let end = FIXED_BYTES + count * SOURCE_BYTES;
            if u32_at(end)? != crc32c::crc32c(slot.get(..end)?) {
                return None;
            }
            let mut sources = BTreeMap::new();
            for at in (FIXED_BYTES..end).step_by(SOURCE_BYTES) {
                let source = SourceId::from_number(u16::from_le_bytes(*slot.get(at..)?.first_chunk()?));
                let (position, head) = (u64_at(at + 8)?, ChainHash(hash_at(at + 16)?));
                sources.insert(source, (Chain { source, position, head }, hash_at(at + 48)?));
            }
            let (sequence, size, entries_bytes) = (u64_at(16)?, u64_at(24)?, u64_at(32)?);
            Some(Self { sequence, size, entries_bytes, root: hash_at(40)?, dropped_below: u64_at(72)?, sources })
        })();
        commit.map_or(Slot::Torn, Slot::Whole)
    }

    /// Where the slot of this commit begins in the file.
    pub(crate) fn offset(&self) -> u64 {
        (self.sequence % 2) * SLOT_BYTES as u64
    }
}
