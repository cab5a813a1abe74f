//! Frames of another history: what a folder holds that was brought back from a backup and mixed with what it was brought
//! back for. Numbers and places are right in them; only what was drawn at random and what was computed over it is not.

use creto_store::{FrameHeader, Lsn, Record, SegmentHeader, Settle, SettleCause, limits};

/// Turns a segment into the one that another history has in its place: the same frames by number, with nothing in them.
/// `None` when there is no frame to change.
pub(crate) fn replace_segment(file: &mut Vec<u8>, nonce: u64) -> Option<()> {
    let mut segment = SegmentHeader::parse(file).ok()?;
    let frames = frames(file, &segment);
    let first = *frames.first()?;
    segment.epoch_nonce = nonce;
    let mut place = vec![0; file.len()];
    segment.encode_into(place.first_chunk_mut::<{ limits::SEGMENT_HEADER_BYTES }>()?);
    let (mut offset, mut previous_crc) = (limits::SEGMENT_HEADER_BYTES, first.previous_crc);
    for frame in frames {
        let offset_blocks = u32::try_from(offset / limits::BLOCK_BYTES).ok()?;
        let empty =
            FrameHeader { epoch_nonce: nonce, body_bytes: 0, record_count: 0, previous_crc, offset_blocks, ..frame };
        let end = offset + empty.total_bytes();
        previous_crc = empty.seal(&mut place[offset..end]);
        offset = end;
    }
    *file = place;
    Some(())
}

/// Writes a frame of another history behind the end of a segment: the one that `is_next` in number and link, and settles
/// everything, or one that claims that much more than the end is durable. `false` when there is no room.
pub(crate) fn append_frame(file: &mut [u8], nonce: u64, is_next: bool) -> bool {
    let Ok(segment) = SegmentHeader::parse(file) else { return false };
    let Some(last) = frames(file, &segment).last().copied() else { return false };
    let record = Record::Settle(Settle {
        mailbox: creto_store::MailboxId([0; 16]),
        cause: SettleCause::GivenUp,
        sequences: (1..200).collect(),
    });
    let offset = last.offset_blocks as usize * limits::BLOCK_BYTES + last.total_bytes();
    let lsn = if is_next { last.lsn.next() } else { Lsn(last.lsn.0 + 100) };
    let frame = FrameHeader {
        epoch_nonce: nonce,
        lsn,
        durable_upto: if is_next { last.lsn } else { lsn.previous() },
        body_bytes: u32::try_from(record.encoded_bytes()).expect("a small record"),
        record_count: 1,
        previous_crc: last.crc,
        offset_blocks: u32::try_from(offset / limits::BLOCK_BYTES).expect("a small segment"),
        ..last
    };
    let Some(place) = file.get_mut(offset..offset + frame.total_bytes()) else { return false };
    let body = limits::FRAME_HEADER_BYTES..limits::FRAME_HEADER_BYTES + record.encoded_bytes();
    record.encode_into(&mut place[body]);
    frame.seal(place);
    true
}

/// The frames of a segment, as far as they follow each other.
pub(crate) fn frames(file: &[u8], segment: &SegmentHeader) -> Vec<FrameHeader> {
    let mut found = Vec::new();
    let (mut offset, mut lsn) = (limits::SEGMENT_HEADER_BYTES, segment.first_lsn);
    while let Some(rest) = file.get(offset..)
        && let Ok(frame) = FrameHeader::parse(rest)
        && frame.check_body(rest).is_ok()
        && (frame.lsn, frame.segment, frame.epoch_nonce) == (lsn, segment.number, segment.epoch_nonce)
    {
        offset += frame.total_bytes();
        lsn = lsn.next();
        found.push(frame);
    }
    found
}
