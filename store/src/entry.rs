//! What the index knows of a queued message: 52 bytes, of which none is payload.

use crate::flags::MessageFlags;
use crate::layout::{length_u32, length_usize, pad8};
use crate::limits::NOTICE_BYTES;
use crate::lsn::SegmentNumber;
use crate::noted::{NotedMessage, Place};
use crate::record::{PartMessage, Priority};
use crate::slab::{Item, NO_SLOT, Slot};

/// A durable message that is not settled.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As bytes: a number of eight would want a multiple of eight, and four more bytes for it.
    sequence: [u8; 8],
    /// Number of its mailbox.
    pub(crate) mailbox: u32,
    segment: u32,
    record_offset: u32,
    message_offset: u32,
    crc: u32,
    /// Rounded up; 0 = never.
    expiry_s: u32,
    /// Its neighbours in the list of its mailbox that it is in. Of a vacant slot: the next one.
    pub(crate) previous: Slot,
    pub(crate) next: Slot,
    /// The piece of the cache that it came in, if that is still there.
    pub(crate) piece: u32,
    /// From the top: 19 bits of length in eighths, 3 of padding, 6 of hashes in the path, 2 of priority, 1 of nothing, 1 that says
    /// that it was published.
    shape: u32,
    /// How often it was handed out.
    pub(crate) attempt: u8,
    flags: u8,
    /// Its share of its record beside the messages, in eighths.
    share: u16,
}

const _: () = assert!(size_of::<Entry>() == 52);

const VACANT: u8 = 1;
const HANDED_OUT: u8 = 2;
const SETTLING: u8 = 4;
const DAMAGED: u8 = 8;
const DELAYED: u8 = 16;
const DEAD: u8 = 32;
const FAILED: u8 = 64;
const WANTS_NOTICE: u8 = 128;

/// No piece of the cache. Should a piece ever have this number, it does not hold the message, and that is looked at.
pub(crate) const NO_PIECE: u32 = u32::MAX;

impl Entry {
    /// A message that waits. `share_bytes` is what its record has beside messages, divided by the number of these.
    pub(crate) fn new(message: &NotedMessage, mailbox: u32, share_bytes: u32) -> Self {
        let words = message.place.message_bytes / 8;
        let envelope_bytes = length_usize(message.envelope_bytes);
        let padding = length_u32(pad8(envelope_bytes) - envelope_bytes);
        let path_bytes = length_usize(message.place.message_bytes) - PartMessage::encoded_bytes_of(0, envelope_bytes);
        let is_published = message.flags.contains(MessageFlags::PUBLISHED);
        let shape = words << 13
            | padding << 10
            | length_u32(path_bytes / 32) << 4
            | (message.priority as u32) << 2
            | u32::from(is_published);
        // A channel always ends by its time, and tells nobody.
        let wants_notice = message.flags.contains(MessageFlags::WANTS_NOTICE) && !is_published;
        let expiry_s = message.expiry_ms.div_ceil(1_000);
        let mut entry = Self {
            sequence: message.sequence.to_le_bytes(),
            mailbox,
            segment: 0,
            record_offset: 0,
            message_offset: 0,
            crc: 0,
            expiry_s: u32::try_from(expiry_s).unwrap_or(u32::MAX),
            previous: NO_SLOT,
            next: NO_SLOT,
            piece: NO_PIECE,
            shape,
            attempt: 0,
            flags: if wants_notice { WANTS_NOTICE } else { 0 },
            share: u16::try_from(share_bytes.div_ceil(8)).unwrap_or(u16::MAX),
        };
        entry.put(&message.place, share_bytes);
        assert_eq!(entry.envelope_bytes(), envelope_bytes, "a message's length is the sum of its fields");
        entry
    }

    /// The message is elsewhere in the log now.
    pub(crate) fn put(&mut self, place: &Place, share_bytes: u32) {
        self.segment = u32::try_from(place.segment.0).expect("2^32 segments are more than any disk has held");
        self.record_offset = place.record_offset;
        self.message_offset = place.message_offset;
        self.crc = place.crc;
        self.share = u16::try_from(share_bytes.div_ceil(8)).unwrap_or(u16::MAX);
    }

    pub(crate) fn sequence(&self) -> u64 {
        u64::from_le_bytes(self.sequence)
    }

    pub(crate) fn segment(&self) -> SegmentNumber {
        SegmentNumber(u64::from(self.segment))
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            segment: self.segment(),
            record_offset: self.record_offset,
            message_offset: self.message_offset,
            message_bytes: self.message_bytes(),
            crc: self.crc,
        }
    }

    /// Bytes of the encoded message.
    pub(crate) fn message_bytes(&self) -> u32 {
        (self.shape >> 13) * 8
    }

    /// Bytes of its envelope.
    pub(crate) fn envelope_bytes(&self) -> usize {
        let path_bytes = 32 * length_usize(self.shape >> 4 & 0x3f);
        let padding = length_usize(self.shape >> 10 & 7);
        length_usize(self.message_bytes()) - PartMessage::encoded_bytes_of(path_bytes, 0) - padding
    }

    /// Whether it is a notice of the node: no envelope is as short as one.
    pub(crate) fn is_notice(&self) -> bool {
        self.envelope_bytes() == NOTICE_BYTES
    }

    /// Bytes of the log that it keeps: itself, and its share of its record's and batch's headers.
    pub(crate) fn log_bytes(&self) -> u64 {
        u64::from(self.message_bytes()) + 8 * u64::from(self.share)
    }

    pub(crate) fn priority(&self) -> Priority {
        let priority = u8::try_from(self.shape >> 2 & 3).expect("two bits");
        Priority::from_byte(priority).expect("there are four priorities")
    }

    /// Whether it was published in a channel: it is in no list, and no one subscriber is done with it.
    pub(crate) fn is_published(&self) -> bool {
        self.shape & 1 != 0
    }

    /// When its time is over, in milliseconds since 1970, rounded up to a second; 0 = never.
    pub(crate) fn expiry_ms(&self) -> u64 {
        u64::from(self.expiry_s) * 1_000
    }

    /// Whether its time is certainly over. For up to a second after its expiry this says no.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.expiry_s != 0 && u64::from(self.expiry_s) * 1_000 <= now_ms
    }

    /// Whether it was handed out, and is in that list of its mailbox.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.flags & HANDED_OUT != 0
    }

    pub(crate) fn set_handed_out(&mut self, is_handed_out: bool) {
        self.set(HANDED_OUT, is_handed_out);
    }

    /// Whether a record that settles it was made and is not durable yet: it is not handed out again, and not moved.
    pub(crate) fn is_settling(&self) -> bool {
        self.flags & SETTLING != 0
    }

    pub(crate) fn set_settling(&mut self, is_settling: bool) {
        self.set(SETTLING, is_settling);
    }

    /// Whether its bytes in the log are not what they must be: it is not handed out, and stays where it is.
    pub(crate) fn is_damaged(&self) -> bool {
        self.flags & DAMAGED != 0
    }

    pub(crate) fn set_damaged(&mut self) {
        self.set(DAMAGED, true);
    }

    /// Whether it waits until a pause is over, in no list.
    pub(crate) fn is_delayed(&self) -> bool {
        self.flags & DELAYED != 0
    }

    pub(crate) fn set_delayed(&mut self, is_delayed: bool) {
        self.set(DELAYED, is_delayed);
    }

    /// Whether it is a dead letter, in no list.
    pub(crate) fn is_dead(&self) -> bool {
        self.flags & DEAD != 0
    }

    pub(crate) fn set_dead(&mut self, is_dead: bool) {
        self.set(DEAD, is_dead);
    }

    /// Whether deliveries of it failed, which are counted elsewhere.
    pub(crate) fn has_failed(&self) -> bool {
        self.flags & FAILED != 0
    }

    pub(crate) fn set_failed(&mut self, has_failed: bool) {
        self.set(FAILED, has_failed);
    }

    /// Whether its sender asks to be told if it expires.
    pub(crate) fn wants_notice(&self) -> bool {
        self.flags & WANTS_NOTICE != 0
    }

    fn set(&mut self, flag: u8, is_set: bool) {
        self.flags = if is_set { self.flags | flag } else { self.flags & !flag };
    }
}

impl Item for Entry {
    fn vacant(next: Slot) -> Self {
        Self {
            sequence: [0; 8],
            mailbox: 0,
            segment: 0,
            record_offset: 0,
            message_offset: 0,
            crc: 0,
            expiry_s: 0,
            previous: NO_SLOT,
            next,
            piece: NO_PIECE,
            shape: 0,
            attempt: 0,
            flags: VACANT,
            share: 0,
        }
    }

    fn next_vacant(&self) -> Option<Slot> {
        (self.flags & VACANT != 0).then_some(self.next)
    }
}

#[cfg(test)]
mod tests;
