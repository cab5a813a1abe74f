//! From pending records to the next frame, and from the frame to bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{ActionId, Active, Durable, InFlight, Wal};
use crate::frame::{FrameHeader, offset_blocks};
use crate::layout::length_u32;
use crate::limits::{FRAME_HEADER_BYTES, FULL_GROUPS_AHEAD, SEGMENT_HEADER_BYTES};
use crate::lsn::{Position, RecordSequence, SegmentNumber};
use crate::planted::{Bug, is_planted};
use crate::record::Record;
use crate::segment::SegmentHeader;

/// Bytes for one place of one segment: a multiple of 4 KiB, at a multiple of 4 KiB.
#[derive(Debug, Clone)]
pub struct Write {
    id: ActionId,
    segment: SegmentNumber,
    offset: u64,
    bytes: usize,
    last_record: RecordSequence,
    content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Bytes that recovery read, written back as they are.
    Copy(Bytes),
    /// A frame, after its segment's header if it is the first.
    Frame(Arc<Frame>),
}

/// A frame on its way to the disk.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) segment_header: Option<SegmentHeader>,
    /// Complete but for the CRC.
    pub(super) header: FrameHeader,
    pub(super) records: Vec<Record>,
    sums: OnceLock<Sums>,
}

/// What encoding a frame found out about its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sums {
    /// The frame's own.
    crc: u32,
    /// Those of its messages, in their order: what [`Place::crc`](crate::Place::crc) will be.
    messages: Vec<u32>,
}

impl Write {
    pub(super) fn new(id: ActionId, segment: SegmentNumber, offset: u64, content: Content) -> Self {
        let bytes = match &content {
            Content::Copy(bytes) => bytes.len(),
            Content::Frame(frame) => {
                frame.segment_header.map_or(0, |_| SEGMENT_HEADER_BYTES) + frame.header.total_bytes()
            }
        };
        Self { id, segment, offset, bytes, last_record: RecordSequence(0), content }
    }

    /// Bytes that are there already.
    pub(crate) fn of_bytes(id: ActionId, segment: SegmentNumber, offset: u64, bytes: Bytes) -> Self {
        Self::new(id, segment, offset, Content::Copy(bytes))
    }

    /// What to report the outcome under.
    pub fn id(&self) -> ActionId {
        self.id
    }

    /// The segment to write to.
    pub fn segment(&self) -> SegmentNumber {
        self.segment
    }

    /// Where in the segment.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes; at most [`WRITE_BYTES_MAX`](crate::limits::WRITE_BYTES_MAX).
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last record that is in it or in a write before it; none is 0.
    pub fn last_record(&self) -> RecordSequence {
        self.last_record
    }

    /// Fills `out`, which has exactly [`bytes`](Self::bytes): the only copy that the log makes of a message.
    ///
    /// # Panics
    /// When `out` has another size.
    pub fn encode_into(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes, "a write is encoded into exactly its own bytes");
        match &self.content {
            Content::Copy(bytes) => out.copy_from_slice(bytes),
            Content::Frame(frame) => frame.encode_into(out),
        }
    }
}

impl Frame {
    /// The CRC, once the frame was encoded.
    pub(super) fn crc(&self) -> Option<u32> {
        self.sums.get().map(|sums| sums.crc)
    }

    /// The records, and the checksums of their messages, of a frame that was encoded.
    pub(super) fn into_records(frame: Arc<Self>) -> (Vec<Record>, Vec<u32>) {
        let (records, sums) = match Arc::try_unwrap(frame) {
            Ok(frame) => (frame.records, frame.sums.into_inner()),
            Err(shared) => (shared.records.clone(), shared.sums.get().cloned()),
        };
        (records, sums.expect("a frame that is durable was encoded").messages)
    }

    fn encode_into(&self, mut out: &mut [u8]) {
        if let Some(header) = self.segment_header {
            let (block, rest) = out.split_first_chunk_mut::<SEGMENT_HEADER_BYTES>().expect("its size is in `bytes`");
            header.encode_into(block);
            out = rest;
        }
        let mut messages = Vec::with_capacity(self.records.iter().map(Record::message_count).sum());
        let crc = self.header.seal_with(out, |mut crc, body| {
            let mut at = 0;
            for record in &self.records {
                let end = at + record.encoded_bytes();
                crc = record.encode_and_sum(&mut body[at..end], crc, &mut messages);
                at = end;
            }
            crc
        });
        let sums = Sums { crc, messages };
        // Encoding twice is allowed, and gives the same bytes.
        assert_eq!(*self.sums.get_or_init(|| sums.clone()), sums, "a frame's bytes never change");
    }
}

impl Wal {
    /// Builds the next frame if there is something to write, a free slot, and a place.
    pub(super) fn next_write(&mut self, now_ms: u64) -> Option<Write> {
        if !self.may_write() {
            return None;
        }
        let first_bytes = self.pending.front().map(|pending| pending.bytes);
        if first_bytes.is_none() && !self.wants_empty_frame() {
            return None;
        }
        // The frame's link is the CRC of the one before: that one must be encoded first.
        if let Some(last) = self.in_flight.back() {
            self.previous_crc = last.frame.crc()?;
        }
        let active = self.place_for(FrameHeader::frame_bytes(first_bytes.unwrap_or(0)) as u64)?;
        let segment_header = (active.offset == 0).then(|| self.segment_header(active.number, now_ms));
        let offset = active.offset.max(SEGMENT_HEADER_BYTES as u64);
        let room = usize::try_from(self.config.segment_bytes - offset).unwrap_or(usize::MAX);
        let first_sequence = RecordSequence(self.appended.0 - self.pending.len() as u64 + 1);
        let (records, body_bytes) = self.take_pending(room.min(self.config.frame_bytes_max) - FRAME_HEADER_BYTES);
        self.advance_log_start();
        let header = FrameHeader {
            crc: 0,
            epoch: self.epoch,
            epoch_nonce: self.epoch_nonce,
            lsn: self.next_lsn,
            durable_upto: self.durable_lsn,
            segment: active.number,
            log_start: self.log_start,
            body_bytes: length_u32(body_bytes),
            record_count: length_u32(records.len()),
            previous_crc: self.previous_crc,
            offset_blocks: offset_blocks(offset),
            shard_index: self.shard_index,
        };
        if !records.is_empty() {
            self.last_record_lsn = header.lsn;
        }
        self.confirm = false;
        self.next_lsn = self.next_lsn.next();
        self.active = Some(Active { offset: offset + header.total_bytes() as u64, ..active });
        if is_planted(Bug::DeliverBeforeDurable) {
            self.hand_out_early(&header, &records, first_sequence);
        }
        let last_record = RecordSequence(first_sequence.0 + records.len() as u64 - 1);
        let frame = Arc::new(Frame { segment_header, header, records, sums: OnceLock::new() });
        let id = self.action_id();
        self.in_flight.push_back(InFlight { id, frame: frame.clone(), first_sequence, is_durable: false });
        Some(Write { last_record, ..Write::new(id, active.number, active.offset, Content::Frame(frame)) })
    }

    /// Whether another write may be on its way: more than usual if it is full. Waiting would bring it no company, and the disk
    /// would rest until it is encoded.
    fn may_write(&self) -> bool {
        let is_full = self.pending_bytes >= self.config.full_group_bytes;
        let ahead = if is_full { FULL_GROUPS_AHEAD } else { 0 };
        self.in_flight.len() < self.config.writes_in_flight_max + ahead
    }

    /// Where a frame of at least `bytes` goes: the active segment, or the prepared one once all before it is durable.
    fn place_for(&mut self, bytes: u64) -> Option<Active> {
        if let Some(active) = self.active.filter(|active| active.offset + bytes <= self.config.segment_bytes) {
            return Some(active);
        }
        // A segment's header states that everything before it is durable.
        if !self.in_flight.is_empty() {
            return None;
        }
        let number = self.prepared.take()?;
        Some(Active { number, offset: 0, first_lsn: self.next_lsn })
    }

    fn take_pending(&mut self, room: usize) -> (Vec<Record>, usize) {
        let mut records = Vec::new();
        let mut body_bytes = 0;
        while body_bytes < self.config.full_group_bytes
            && let Some(pending) = self.pending.pop_front_if(|pending| body_bytes + pending.bytes <= room)
        {
            body_bytes += pending.bytes;
            records.push(pending.record);
        }
        self.pending_bytes -= body_bytes;
        (records, body_bytes)
    }

    /// What [`Bug::DeliverBeforeDurable`] does.
    fn hand_out_early(&mut self, header: &FrameHeader, records: &[Record], mut sequence: RecordSequence) {
        let mut offset = header.body_offset();
        for (index, record) in (0..).zip(records) {
            let position = Position { segment: header.segment, lsn: header.lsn, index, offset };
            offset += length_u32(record.encoded_bytes());
            let (noted, record) = (record.noted(position), record.clone());
            self.durable_records.push_back(Durable { sequence, position, noted, record });
            sequence = sequence.next();
        }
    }

    fn segment_header(&self, number: SegmentNumber, now_ms: u64) -> SegmentHeader {
        assert_eq!(self.next_lsn, self.durable_lsn.next(), "everything before a segment is durable");
        SegmentHeader {
            shard_index: self.shard_index,
            number,
            epoch: self.epoch,
            epoch_nonce: self.epoch_nonce,
            first_lsn: self.next_lsn,
            previous_crc: self.previous_crc,
            log_start: self.log_start,
            created_ms: now_ms,
        }
    }
}
