//! A segment: one file of the log. One block of header, then frames of one epoch, then whatever was there before.
//!
//! The header of a segment is written together with its first frame, and only when every frame before it is durable.
//! So a valid header proves that the log is durable up to the frame before `first_lsn`.

use thiserror::Error;

use crate::checksum;
use crate::layout::Writer;
use crate::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use crate::lsn::{Epoch, Lsn, SegmentNumber};

/// First bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"CRETOWAL";
/// Version of the segment's layout.
pub const SEGMENT_VERSION: u16 = 1;

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard that owns the log.
    pub shard_index: u32,
    /// The segment's number, as in its file name.
    pub number: SegmentNumber,
    /// The epoch of all its frames.
    pub epoch: Epoch,
    /// The nonce of all its frames.
    pub epoch_nonce: u64,
    /// The number of its first frame. Everything before is durable.
    pub first_lsn: Lsn,
    /// The CRC of the frame before the first one; 0 when there is none.
    pub previous_crc: u32,
    /// Segments below this one no longer belong to the log.
    pub log_start: SegmentNumber,
    /// The node's clock when the header was built, in milliseconds since 1970.
    pub created_ms: u64,
}

/// Why a block is not the header of the segment it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SegmentDamage {
    /// nothing was ever written to the segment
    #[error("nothing was ever written to the segment")]
    Empty,
    /// the segment is shorter than its header
    #[error("the segment is shorter than its header")]
    Truncated,
    /// no segment header stands at the front
    #[error("no segment header stands at the front")]
    Magic,
    /// the segment is of version {0}, this program reads version 1
    #[error("the segment is of version {0}, this program reads version 1: read it with the version that wrote it")]
    Version(u16),
    /// the header's checksum does not match
    #[error("the header's checksum does not match")]
    Checksum,
    /// a field holds a value without a meaning
    #[error("a field holds a value without a meaning")]
    Value,
    /// the header names another segment
    #[error("the header names segment {0}, another one than the file's name")]
    Number(SegmentNumber),
    /// the header names another shard
    #[error("the header names shard {0}: the file was moved from another shard's folder")]
    Shard(u32),
}

impl SegmentHeader {
    /// Reads the header at the front of `bytes`.
    ///
    /// # Errors
    /// [`SegmentDamage`] when these bytes are no header of this version. Whether it is the header that belongs here
    /// (number, shard) is for the caller to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, SegmentDamage> {
        let (block, _) = bytes.split_first_chunk::<SEGMENT_HEADER_BYTES>().ok_or(SegmentDamage::Truncated)?;
        if block[..8] != SEGMENT_MAGIC {
            return Err(if block.iter().all(|&byte| byte == 0) { SegmentDamage::Empty } else { SegmentDamage::Magic });
        }
        let version = u16::from_le_bytes(field(block, 12));
        if version != SEGMENT_VERSION {
            return Err(SegmentDamage::Version(version));
        }
        if block_crc(block) != u32::from_le_bytes(field(block, 8)) {
            return Err(SegmentDamage::Checksum);
        }
        let header = Self {
            shard_index: u32::from_le_bytes(field(block, 16)),
            previous_crc: u32::from_le_bytes(field(block, 20)),
            number: SegmentNumber(u64::from_le_bytes(field(block, 24))),
            epoch: Epoch(u64::from_le_bytes(field(block, 32))),
            epoch_nonce: u64::from_le_bytes(field(block, 40)),
            first_lsn: Lsn(u64::from_le_bytes(field(block, 48))),
            log_start: SegmentNumber(u64::from_le_bytes(field(block, 56))),
            created_ms: u64::from_le_bytes(field(block, 64)),
        };
        // Numbers have a successor: no log lives long enough for one that has none.
        let orders_hold = header.first_lsn.0 > 0
            && header.epoch.0 > 0
            && header.log_start <= header.number
            && [header.first_lsn.0, header.number.0, header.epoch.0].iter().all(|&number| number < u64::MAX);
        let reserved_are_zero = block[14..16] == [0; 2] && block[72..].iter().all(|&byte| byte == 0);
        if !orders_hold || !reserved_are_zero {
            return Err(SegmentDamage::Value);
        }
        Ok(header)
    }

    /// Writes the header's block.
    pub fn encode_into(&self, block: &mut [u8; SEGMENT_HEADER_BYTES]) {
        let mut writer = Writer::new(&mut block[..]);
        writer.put(&SEGMENT_MAGIC);
        writer.u32(0);
        writer.u16(SEGMENT_VERSION);
        writer.u16(0);
        writer.u32(self.shard_index);
        writer.u32(self.previous_crc);
        writer.u64(self.number.0);
        writer.u64(self.epoch.0);
        writer.u64(self.epoch_nonce);
        writer.u64(self.first_lsn.0);
        writer.u64(self.log_start.0);
        writer.u64(self.created_ms);
        writer.zeros_to(BLOCK_BYTES);
        let crc = block_crc(block);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The file name of a segment: `segment-0000000000000001.wal`.
pub fn segment_file_name(number: SegmentNumber) -> String {
    format!("segment-{:016x}.wal", number.0)
}

/// The segment that a file name means; `None` for every other file.
pub fn parse_segment_file_name(name: &str) -> Option<SegmentNumber> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".wal")?;
    let is_hex = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let number = u64::from_str_radix(digits, 16).ok().filter(|&number| is_hex && number > 0)?;
    Some(SegmentNumber(number))
}

/// CRC32C of the whole block, with the CRC field read as zeros.
fn block_crc(block: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    let crc = checksum::crc32c(&block[..8]);
    let crc = checksum::crc32c_append(crc, &[0; 4]);
    checksum::crc32c_append(crc, &block[12..])
}

fn field<const N: usize>(block: &[u8; SEGMENT_HEADER_BYTES], at: usize) -> [u8; N] {
    *block[at..].first_chunk().expect("every field lies inside the header")
}

#[cfg(test)]
mod tests;
