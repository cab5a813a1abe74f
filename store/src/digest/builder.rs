//! Builds a digest as frames become durable, or as they are read back.

use bytes::Bytes;

use super::{
    Digest, DigestHeader, ENTRY_HEADER_BYTES, FORM_MESSAGES, FORM_RECORD, HEADER_BYTES, KIND_MOVED, KIND_NOTICE,
    KIND_PART, MESSAGE_BYTES, MESSAGES_HEADER_BYTES,
};
use crate::checksum;
use crate::frame::FrameHeader;
use crate::layout::length_u32;
use crate::limits::DIGEST_BYTES_MAX;
use crate::lsn::{Lsn, Position, SegmentNumber};
use crate::noted::{Noted, NotedMessage};
use crate::planted::{Bug, is_planted};
use crate::record::Record;
use crate::segment::SegmentHeader;

/// Memory is taken in pieces of this size, so that a digest that grows is never copied and stalls nobody.
const PIECE_BYTES: usize = 64 << 10;

/// The digest of a segment whose frames come one after the other.
#[derive(Debug)]
pub(crate) struct DigestBuilder {
    header: DigestHeader,
    bytes_max: usize,
    /// Complete pieces; the first is left out, it is the header.
    pieces: Vec<Bytes>,
    piece: Vec<u8>,
    /// Larger than it may be: nothing is kept, and the segment will be read instead.
    is_over: bool,
}

impl DigestBuilder {
    /// Of a segment without frames. A digest of more than a quarter of `segment_bytes` saves too little and is not made.
    pub(crate) fn new(segment: SegmentHeader, segment_bytes: u64) -> Self {
        let header = DigestHeader {
            segment,
            last_lsn: segment.first_lsn.previous(),
            last_crc: segment.previous_crc,
            segment_end: 0,
            body_bytes: 0,
            body_crc: 0,
            record_count: 0,
            message_count: 0,
        };
        let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
        let bytes_max = quarter.min(DIGEST_BYTES_MAX).saturating_sub(HEADER_BYTES);
        Self { header, bytes_max, pieces: Vec::new(), piece: Vec::new(), is_over: false }
    }

    /// Whose digest it is.
    pub(crate) fn segment(&self) -> SegmentNumber {
        self.header.segment.number
    }

    /// The last frame that it was told of.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.header.last_lsn
    }

    /// The next record of the segment.
    pub(crate) fn record(&mut self, position: Position, record: &Record, noted: &Noted) {
        if is_planted(Bug::LeaveMovedOutOfDigest) && matches!(noted, Noted::Moved(_)) {
            return;
        }
        self.header.record_count += 1;
        self.header.message_count += noted.message_count() as u64;
        let (kind, messages) = match noted {
            Noted::Part(messages) => (KIND_PART, messages),
            Noted::Moved(messages) => (KIND_MOVED, messages),
            Noted::Notice(messages) => (KIND_NOTICE, messages),
            _ => {
                let bytes = record.encoded_bytes();
                self.entry(position, [0, FORM_RECORD], bytes, 0, |out| {
                    let start = out.len();
                    out.resize(start + bytes, 0);
                    record.encode_into(&mut out[start..]);
                    out[start - ENTRY_HEADER_BYTES] = out[start];
                });
                return;
            }
        };
        let bytes = MESSAGES_HEADER_BYTES + messages.len() * MESSAGE_BYTES;
        self.entry(position, [kind, FORM_MESSAGES], bytes, messages.len(), |out| {
            let before = messages.first().map_or(0, |first| first.place.message_offset - position.offset);
            out.extend_from_slice(&before.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            for message in messages {
                out.extend_from_slice(&encoded(message));
            }
        });
    }

    /// The frame that these records were of, or one without records.
    pub(crate) fn frame(&mut self, header: &FrameHeader, crc: u32) {
        assert_eq!(header.lsn, self.header.last_lsn.next(), "frames come in the order of the log");
        assert_eq!(header.segment, self.header.segment.number, "a digest is that of one segment");
        self.header.last_lsn = header.lsn;
        self.header.last_crc = crc;
        self.header.segment_end = u32::try_from(header.end_offset()).expect("a segment is at most SEGMENT_BYTES_MAX");
    }

    /// The digest of all frames so far; `None` when there are none, or too much in them.
    pub(crate) fn finish(mut self) -> Option<Digest> {
        self.seal_piece();
        if self.is_over || self.header.last_lsn < self.header.segment.first_lsn {
            return None;
        }
        let mut pieces = Vec::with_capacity(1 + self.pieces.len());
        pieces.push(Bytes::copy_from_slice(&self.header.encode()));
        pieces.append(&mut self.pieces);
        Some(Digest { pieces })
    }

    fn entry(
        &mut self,
        position: Position,
        [kind, form]: [u8; 2],
        body_bytes: usize,
        message_count: usize,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let bytes = ENTRY_HEADER_BYTES + body_bytes;
        let so_far = usize::try_from(self.header.body_bytes).expect("bounded by DIGEST_BYTES_MAX") + self.piece.len();
        if self.is_over || so_far + bytes > self.bytes_max {
            self.is_over = true;
            self.pieces = Vec::new();
            self.piece = Vec::new();
            return;
        }
        if self.piece.len() + bytes > self.piece.capacity() {
            self.seal_piece();
            self.piece = Vec::with_capacity(bytes.max(PIECE_BYTES));
        }
        let frame = position.lsn.0 - self.header.segment.first_lsn.0;
        let out = &mut self.piece;
        let start = out.len();
        out.extend_from_slice(&[kind, form, 0, 0]);
        let frame = u32::try_from(frame).expect("a segment has far fewer than 2^32 frames");
        for field in [length_u32(body_bytes), frame, position.index, position.offset, length_u32(message_count)] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        body(out);
        assert_eq!(out.len(), start + bytes, "an entry's size is the sum of its fields");
    }

    fn seal_piece(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            self.header.body_crc = checksum::crc32c_append(self.header.body_crc, &piece);
            self.header.body_bytes += piece.len() as u64;
            self.pieces.push(Bytes::from(piece));
        }
    }
}

fn encoded(message: &NotedMessage) -> [u8; MESSAGE_BYTES] {
    let mut out = [0; MESSAGE_BYTES];
    out[..16].copy_from_slice(&message.mailbox.0);
    out[16..32].copy_from_slice(&message.sender.0);
    out[32..48].copy_from_slice(&message.message_id.0);
    out[48..56].copy_from_slice(&message.sequence.to_le_bytes());
    out[56..64].copy_from_slice(&message.expiry_ms.to_le_bytes());
    out[64..68].copy_from_slice(&message.envelope_bytes.to_le_bytes());
    out[68..72].copy_from_slice(&message.place.message_bytes.to_le_bytes());
    out[72..76].copy_from_slice(&message.place.crc.to_le_bytes());
    out[76] = message.priority as u8;
    out[77] = message.flags.bits();
    out
}
