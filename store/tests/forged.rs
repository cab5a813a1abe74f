//! Segments whose checksums hold and whose numbers no log would write: recovery says so, and does not stop the process.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use creto_store::{
    Epoch, FrameDamage, FrameHeader, Lsn, SegmentDamage, SegmentFile, SegmentHeader, SegmentNumber, SegmentSource,
    SourceError, recover,
};

const BLOCK: usize = 4096;

/// One segment in memory.
struct OneSegment(SegmentNumber, Vec<u8>);

impl SegmentSource for OneSegment {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(vec![SegmentFile { number: self.0, bytes: self.1.len() as u64 }])
    }

    fn read(&mut self, _: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.1[start..start + out.len()]);
        Ok(())
    }
}

fn segment_header(number: u64, first_lsn: u64, epoch: u64) -> [u8; BLOCK] {
    let header = SegmentHeader {
        shard_index: 0,
        number: SegmentNumber(number),
        epoch: Epoch(epoch),
        epoch_nonce: 7,
        first_lsn: Lsn(first_lsn),
        previous_crc: 0,
        log_start: SegmentNumber(number),
        created_ms: 0,
    };
    let mut block = [0; BLOCK];
    header.encode_into(&mut block);
    block
}

fn frame(segment: u64, lsn: u64, epoch: u64) -> Vec<u8> {
    let header = FrameHeader {
        crc: 0,
        epoch: Epoch(epoch),
        epoch_nonce: 7,
        lsn: Lsn(lsn),
        durable_upto: Lsn(lsn - 1),
        segment: SegmentNumber(segment),
        log_start: SegmentNumber(segment),
        body_bytes: 0,
        record_count: 0,
        previous_crc: 0,
        offset_blocks: 1,
        shard_index: 0,
    };
    let mut bytes = vec![0; header.total_bytes()];
    header.seal(&mut bytes);
    bytes
}

#[test]
fn a_number_without_a_successor_is_damage() {
    const END: u64 = u64::MAX;
    for (number, first_lsn, epoch) in [(END, 1, 1), (1, END, 1), (1, 1, END)] {
        let block = segment_header(number, first_lsn, epoch);
        assert_eq!(SegmentHeader::parse(&block), Err(SegmentDamage::Value));
        assert_eq!(FrameHeader::parse(&frame(number, first_lsn, epoch)), Err(FrameDamage::Value));
    }
    for (number, first_lsn, epoch) in [(END - 1, 1, 1), (1, END - 1, 1), (1, 1, END - 1)] {
        assert!(SegmentHeader::parse(&segment_header(number, first_lsn, epoch)).is_ok());
        assert!(FrameHeader::parse(&frame(number, first_lsn, epoch)).is_ok());
    }
}

#[test]
fn recovery_ends_before_a_frame_of_the_last_number_there_is() {
    let mut bytes = segment_header(1, u64::MAX - 1, 1).to_vec();
    bytes.extend_from_slice(&frame(1, u64::MAX - 1, 1));
    let recovered = recover(&mut OneSegment(SegmentNumber(1), bytes.clone()), 0, |_, _| {}).unwrap();
    assert_eq!(recovered.end_lsn(), Lsn(u64::MAX - 1));
    bytes.extend_from_slice(&frame(1, u64::MAX, 1));
    let recovered = recover(&mut OneSegment(SegmentNumber(1), bytes), 0, |_, _| {}).unwrap();
    assert_eq!(recovered.end_lsn(), Lsn(u64::MAX - 1));
    assert_eq!(recovered.end_reason(), Some(FrameDamage::Value));
}
