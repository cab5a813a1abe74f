//! The digest of a segment: what is noted of its records, beside it in a file of its own, so that a start need not read it.
//!
//! A digest is written when its segment is sealed: full, all its frames durable, the next segment begun. It makes nothing
//! durable and is never needed. Recovery takes it instead of the segment when everything about it is right, and reads the
//! segment when it is missing, damaged, or another's. `docs/wal-format.md` gives every byte.

mod builder;

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

pub(crate) use self::builder::DigestBuilder;
use crate::checksum;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::layout::{Reader, Writer, length_usize};
use crate::limits::{
    DIGEST_BYTES_MAX, FRAME_HEADER_BYTES, PART_MESSAGES_MAX, RECORD_BYTES_MAX, RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
};
use crate::lsn::{Epoch, Lsn, Position, SegmentNumber};
use crate::noted::{Noted, NotedMessage, Place};
use crate::planted::{Bug, is_planted};
use crate::record::{Priority, Record};
use crate::segment::SegmentHeader;

/// First bytes of every digest.
pub const DIGEST_MAGIC: [u8; 8] = *b"CRETOIDX";
/// Version of the digest's layout.
pub const DIGEST_VERSION: u16 = 3;

/// Bytes of a digest before its entries.
const HEADER_BYTES: usize = 128;
/// Bytes of an entry before what it holds.
const ENTRY_HEADER_BYTES: usize = 24;
/// Bytes of a message in an entry.
const MESSAGE_BYTES: usize = 80;
/// Bytes of an entry of messages before the first of them.
const MESSAGES_HEADER_BYTES: usize = 8;
/// The entry holds a record as it stands in the log.
const FORM_RECORD: u8 = 0;
/// The entry holds what is noted of a record's messages.
const FORM_MESSAGES: u8 = 1;
/// The kinds of records that bring messages.
const KIND_PART: u8 = 1;
const KIND_MOVED: u8 = 5;
const KIND_NOTICE: u8 = 8;

/// A digest to be written, in pieces.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    pieces: Vec<Bytes>,
}

impl Digest {
    /// Bytes of the whole digest.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// What the file holds, one piece after the other.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest of {} bytes", self.bytes())
    }
}

/// A digest that was read, with everything in it checked except that it is the one of the segment beside it.
#[derive(Debug, Clone)]
pub struct SegmentDigest {
    header: DigestHeader,
    body: Bytes,
}

/// The first 128 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DigestHeader {
    /// The header of the segment.
    pub(crate) segment: SegmentHeader,
    /// The segment's last frame.
    pub(crate) last_lsn: Lsn,
    /// Its CRC.
    pub(crate) last_crc: u32,
    /// The byte in the segment behind its last frame.
    pub(crate) segment_end: u32,
    body_bytes: u64,
    body_crc: u32,
    pub(crate) record_count: u32,
    pub(crate) message_count: u64,
}

/// Why bytes are no digest, or not the one that belongs beside its segment. The segment itself is read then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestDamage {
    /// the digest cannot be read
    #[error("the digest cannot be read")]
    Unreadable,
    /// the digest ends before its fields do
    #[error("the digest ends before its fields do")]
    Truncated,
    /// no digest starts here
    #[error("no digest starts here")]
    Magic,
    /// the digest is of version {0}, this program reads versions 1 to 3
    #[error("the digest is of version {0}, this program reads versions 1 to 3")]
    Version(u16),
    /// a checksum does not match
    #[error("a checksum does not match")]
    Checksum,
    /// a field holds a value without a meaning
    #[error("a field holds a value without a meaning")]
    Value,
    /// the digest is that of another segment
    #[error("the digest is that of another segment, epoch or shard")]
    OtherSegment,
    /// the digest does not lead to the segment that follows
    #[error("the digest does not lead to the segment that follows")]
    Link,
    /// the segment is shorter than the digest says
    #[error("the segment is shorter than the digest says")]
    SegmentCut,
}

impl SegmentDigest {
    /// Reads a digest and checks all of it.
    ///
    /// # Errors
    /// [`DigestDamage`] when any byte is not as it was written.
    pub fn parse(bytes: &Bytes) -> Result<Self, DigestDamage> {
        let header = DigestHeader::parse(bytes)?;
        let body = bytes.slice(HEADER_BYTES..);
        if body.len() as u64 != header.body_bytes {
            return Err(DigestDamage::Truncated);
        }
        if checksum::crc32c(&body) != header.body_crc {
            return Err(DigestDamage::Checksum);
        }
        let digest = Self { header, body };
        // All of it before any of it is used: what was applied cannot be taken back.
        let (mut records, mut messages) = (0, 0);
        for entry in digest.checked_entries() {
            let (_, noted) = entry?;
            records += 1;
            messages += noted.message_count() as u64;
        }
        if (records, messages) != (header.record_count, header.message_count) {
            return Err(DigestDamage::Value);
        }
        Ok(digest)
    }

    /// The header of the segment that it is the digest of.
    pub fn segment(&self) -> &SegmentHeader {
        &self.header.segment
    }

    /// Bytes of the segment's header and frames.
    pub fn segment_end(&self) -> u64 {
        u64::from(self.header.segment_end)
    }

    /// Whether it says, in whichever version, what this one says.
    pub(crate) fn says_what(&self, made: &Digest) -> bool {
        let [header, pieces @ ..] = made.pieces() else { return false };
        DigestHeader::parse(header).is_ok_and(|made| made == self.header) && is_same(&self.body, pieces)
    }

    /// The segment's last frame.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.header.last_lsn
    }

    /// The segment's records, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Position, Noted)> {
        self.checked_entries().map(|entry| entry.expect("every entry was checked when the digest was parsed"))
    }

    /// Holds the digest against the segment that it lies beside, and against what follows: the number of the next frame, and
    /// the checksum to which it links.
    pub(crate) fn check_place(
        &self,
        segment: &SegmentHeader,
        segment_bytes: u64,
        next: (Lsn, u32),
    ) -> Result<(), DigestDamage> {
        if is_planted(Bug::TakeAnyDigest) {
            return Ok(());
        }
        if self.header.segment != *segment {
            return Err(DigestDamage::OtherSegment);
        }
        if (self.header.last_lsn.next(), self.header.last_crc) != next {
            return Err(DigestDamage::Link);
        }
        if segment_bytes < self.segment_end() {
            return Err(DigestDamage::SegmentCut);
        }
        Ok(())
    }

    fn checked_entries(&self) -> Entries<'_> {
        Entries { header: &self.header, reader: Reader::new(&self.body), last: None, has_failed: false }
    }
}

impl DigestHeader {
    fn parse(bytes: &Bytes) -> Result<Self, DigestDamage> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(DigestDamage::Truncated)?;
        if header[..8] != DIGEST_MAGIC {
            return Err(DigestDamage::Magic);
        }
        let version = u16::from_le_bytes([header[12], header[13]]);
        // Version 1 knew no flags and no notices, version 2 nothing of channels; where they have zeros, this one does too.
        if !(1..=DIGEST_VERSION).contains(&version) {
            return Err(DigestDamage::Version(version));
        }
        if header_crc(header).to_le_bytes() != header[8..12] {
            return Err(DigestDamage::Checksum);
        }
        let mut fields = Reader::new(bytes);
        let parsed = (|| {
            let (_, reserved) = (fields.array::<14>()?, fields.u16()?);
            let (shard_index, previous_crc) = (fields.u32()?, fields.u32()?);
            let segment = SegmentHeader {
                shard_index,
                previous_crc,
                number: SegmentNumber(fields.u64()?),
                epoch: Epoch(fields.u64()?),
                epoch_nonce: fields.u64()?,
                first_lsn: Lsn(fields.u64()?),
                log_start: SegmentNumber(fields.u64()?),
                created_ms: fields.u64()?,
            };
            let (last_lsn, last_crc, segment_end) = (Lsn(fields.u64()?), fields.u32()?, fields.u32()?);
            let (body_bytes, body_crc) = (fields.u64()?, fields.u32()?);
            let (record_count, message_count) = (fields.u32()?, fields.u64()?);
            let is_clean = reserved == 0 && fields.array::<16>()? == [0; 16];
            let header =
                Self { segment, last_lsn, last_crc, segment_end, body_bytes, body_crc, record_count, message_count };
            Some((header, is_clean))
        })();
        let (header, is_clean) = parsed.ok_or(DigestDamage::Truncated)?;
        let first_frame_end = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES;
        let orders_hold = header.segment.first_lsn.0 > 0
            && header.segment.first_lsn <= header.last_lsn
            && header.last_lsn.0 - header.segment.first_lsn.0 <= u64::from(u32::MAX)
            && header.last_lsn.0 < u64::MAX
            && length_usize(header.segment_end) >= first_frame_end
            && header.body_bytes <= DIGEST_BYTES_MAX as u64;
        if is_clean && orders_hold { Ok(header) } else { Err(DigestDamage::Value) }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut writer = Writer::new(&mut header);
        writer.put(&DIGEST_MAGIC);
        writer.u32(0);
        writer.u16(DIGEST_VERSION);
        writer.u16(0);
        writer.u32(self.segment.shard_index);
        writer.u32(self.segment.previous_crc);
        writer.u64(self.segment.number.0);
        writer.u64(self.segment.epoch.0);
        writer.u64(self.segment.epoch_nonce);
        writer.u64(self.segment.first_lsn.0);
        writer.u64(self.segment.log_start.0);
        writer.u64(self.segment.created_ms);
        writer.u64(self.last_lsn.0);
        writer.u32(self.last_crc);
        writer.u32(self.segment_end);
        writer.u64(self.body_bytes);
        writer.u32(self.body_crc);
        writer.u32(self.record_count);
        writer.u64(self.message_count);
        writer.zeros_to(HEADER_BYTES);
        let crc = header_crc(&header);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        header
    }
}

/// Goes from entry to entry. Ends after the first one that is damaged.
struct Entries<'a> {
    header: &'a DigestHeader,
    reader: Reader<'a>,
    /// The record before.
    last: Option<Position>,
    has_failed: bool,
}

impl Iterator for Entries<'_> {
    type Item = Result<(Position, Noted), DigestDamage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed || self.reader.left() == 0 {
            return None;
        }
        let entry = self.entry();
        self.has_failed = entry.is_err();
        Some(entry)
    }
}

impl Entries<'_> {
    fn entry(&mut self) -> Result<(Position, Noted), DigestDamage> {
        let reader = &mut self.reader;
        let fields = (|| {
            let (kind, form, reserved, body_bytes) = (reader.u8()?, reader.u8()?, reader.u16()?, reader.u32()?);
            Some((kind, form, reserved, body_bytes, [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?]))
        })();
        let (kind, form, reserved, body_bytes, [frame, index, offset, message_count]) =
            fields.ok_or(DigestDamage::Truncated)?;
        let body = reader.slice(length_usize(body_bytes)).ok_or(DigestDamage::Truncated)?;
        let lsn = Lsn(self.header.segment.first_lsn.0 + u64::from(frame));
        let position = Position { segment: self.header.segment.number, lsn, index, offset };
        if reserved != 0 || !body.len().is_multiple_of(8) || !self.follows(&position) {
            return Err(DigestDamage::Value);
        }
        self.last = Some(position);
        let noted = match (form, kind) {
            (FORM_RECORD, _) if message_count == 0 => noted_of_record(kind, &body, position)?,
            (FORM_MESSAGES, KIND_PART) => Noted::Part(self.messages(&body, position, message_count)?),
            (FORM_MESSAGES, KIND_MOVED) => Noted::Moved(self.messages(&body, position, message_count)?),
            (FORM_MESSAGES, KIND_NOTICE) => Noted::Notice(self.messages(&body, position, message_count)?),
            _ => return Err(DigestDamage::Value),
        };
        Ok((position, noted))
    }

    /// Records come in the order of the segment, and lie inside its frames.
    fn follows(&self, position: &Position) -> bool {
        let is_inside = position.lsn <= self.header.last_lsn
            && length_usize(position.offset) >= SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES
            && position.offset < self.header.segment_end;
        let is_next = match &self.last {
            Some(last) if last.lsn == position.lsn => last.index.checked_add(1) == Some(position.index),
            Some(last) => last.lsn < position.lsn && position.index == 0,
            None => position.index == 0,
        };
        is_inside && is_next && self.last.is_none_or(|last| last.offset < position.offset)
    }

    fn messages(&self, body: &Bytes, position: Position, count: u32) -> Result<Vec<NotedMessage>, DigestDamage> {
        let count = length_usize(count);
        if count > PART_MESSAGES_MAX || body.len() != MESSAGES_HEADER_BYTES + count * MESSAGE_BYTES {
            return Err(DigestDamage::Value);
        }
        let mut reader = Reader::new(body);
        let before = reader.u32().zip(reader.u32()).ok_or(DigestDamage::Truncated)?;
        let (before, 0) = before else { return Err(DigestDamage::Value) };
        let mut offset = position.offset.checked_add(before).ok_or(DigestDamage::Value)?;
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let message = message(&mut reader, position, offset).ok_or(DigestDamage::Value)?;
            offset = offset.checked_add(message.place.message_bytes).ok_or(DigestDamage::Value)?;
            messages.push(message);
        }
        if offset > self.header.segment_end {
            return Err(DigestDamage::Value);
        }
        Ok(messages)
    }
}

fn message(reader: &mut Reader<'_>, position: Position, message_offset: u32) -> Option<NotedMessage> {
    let (mailbox, sender, message_id) = (reader.array()?, reader.array()?, reader.array()?);
    let (sequence, expiry_ms) = (reader.u64()?, reader.u64()?);
    let (envelope_bytes, message_bytes, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (priority, [flags, 0, 0]) = (reader.u8()?, reader.array()?) else { return None };
    let place = Place { segment: position.segment, record_offset: position.offset, message_offset, message_bytes, crc };
    Some(NotedMessage {
        mailbox: MailboxId(mailbox),
        sender: SenderId(sender),
        message_id: MessageId(message_id),
        sequence,
        expiry_ms,
        priority: Priority::from_byte(priority)?,
        flags: MessageFlags::from_bits(u16::from(flags))?,
        envelope_bytes,
        place,
    })
}

fn noted_of_record(kind: u8, body: &Bytes, position: Position) -> Result<Noted, DigestDamage> {
    if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&body.len()) || body[0] != kind {
        return Err(DigestDamage::Value);
    }
    match Record::parse(body) {
        Ok((record, bytes)) if bytes == body.len() => match record.noted(position) {
            Noted::Part(_) | Noted::Moved(_) | Noted::Notice(_) => Err(DigestDamage::Value),
            noted => Ok(noted),
        },
        _ => Err(DigestDamage::Value),
    }
}

fn is_same(bytes: &Bytes, pieces: &[Bytes]) -> bool {
    let mut rest = &bytes[..];
    let all_match = pieces.iter().all(|piece| match rest.split_at_checked(piece.len()) {
        Some((front, behind)) => {
            rest = behind;
            front == piece
        }
        None => false,
    });
    all_match && rest.is_empty()
}

/// CRC32C of the header, with the CRC field read as zeros.
fn header_crc(header: &[u8; HEADER_BYTES]) -> u32 {
    let crc = checksum::crc32c(&header[..8]);
    let crc = checksum::crc32c_append(crc, &[0; 4]);
    checksum::crc32c_append(crc, &header[12..])
}

/// The file name of a segment's digest: `segment-0000000000000001.idx`.
pub fn digest_file_name(number: SegmentNumber) -> String {
    format!("segment-{:016x}.idx", number.0)
}

/// The segment whose digest a file name means; `None` for every other file.
pub fn parse_digest_file_name(name: &str) -> Option<SegmentNumber> {
    crate::segment::parse_segment_file_name(&format!("{}.wal", name.strip_suffix(".idx")?))
}

#[cfg(test)]
mod tests;
