use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn every_header_reads_back_as_it_was_sealed(header in any_header(), body in vec(any::<u8>(), 0..6000)) {
        let (header, frame) = sealed(header, &body);
        prop_assert_eq!(FrameHeader::parse(&frame), Ok(header));
        prop_assert_eq!(header.check_body(&frame), Ok(&body[..]));
        prop_assert!(frame.len().is_multiple_of(BLOCK_BYTES));
    }

    #[test]
    fn a_changed_byte_is_always_found(header in any_header(), body in vec(any::<u8>(), 0..6000), at in any::<usize>(), flip in 1_u8..) {
        let (_, mut frame) = sealed(header, &body);
        let at = at % frame.len();
        frame[at] ^= flip;
        let found = FrameHeader::parse(&frame).and_then(|header| header.check_body(&frame).map(<[u8]>::len));
        prop_assert!(found.is_err());
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = FrameHeader::parse(&bytes);
        let mut plausible = [&FRAME_MAGIC[..], &[0; 4], &[1, 0, 0, 0]].concat();
        plausible.extend_from_slice(&bytes);
        if let Ok(header) = FrameHeader::parse(&plausible) {
            prop_assert!(header.check_body(&plausible).is_err());
        }
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let header = FrameHeader {
        crc: 0,
        epoch: Epoch(1),
        epoch_nonce: 2,
        lsn: Lsn(7),
        durable_upto: Lsn(6),
        segment: SegmentNumber(3),
        log_start: SegmentNumber(3),
        body_bytes: 0,
        record_count: 0,
        previous_crc: 4,
        offset_blocks: 1,
        shard_index: 0,
    };
    let (_, frame) = sealed(header, &[9; 8]);
    let check = |at: usize, byte: u8, expected| {
        let mut frame = frame.clone();
        frame[at] = byte;
        assert_eq!(FrameHeader::parse(&frame), Err(expected));
    };
    check(0, 0, FrameDamage::Magic);
    check(12, 2, FrameDamage::Version(2));
    check(14, 1, FrameDamage::Value);
    check(95, 1, FrameDamage::Value);
    check(40, 7, FrameDamage::Value);
    check(56, 4, FrameDamage::Value);
    check(67, 1, FrameDamage::Value);
    assert_eq!(FrameHeader::parse(&frame[..95]), Err(FrameDamage::Truncated));
    assert_eq!(FrameHeader::parse(&[0; 4096]), Err(FrameDamage::Empty));
    let header = FrameHeader::parse(&frame).unwrap();
    assert_eq!(header.check_body(&frame[..4095]), Err(FrameDamage::Truncated));
    let mut dirty = frame.clone();
    dirty[4095] = 1;
    assert_eq!(header.check_body(&dirty), Err(FrameDamage::Padding));
}

fn sealed(mut header: FrameHeader, body: &[u8]) -> (FrameHeader, Vec<u8>) {
    header.body_bytes = length_u32(body.len());
    let mut frame = vec![0xee; header.total_bytes()];
    frame[FRAME_HEADER_BYTES..][..body.len()].copy_from_slice(body);
    header.crc = header.seal(&mut frame);
    (header, frame)
}

fn any_header() -> impl Strategy<Value = FrameHeader> {
    let places = (any::<u64>(), any::<u64>(), 1..=u64::MAX, any::<u64>(), any::<u64>(), any::<u64>());
    let rest = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (places, rest).prop_map(|((epoch, nonce, lsn, durable, segment, start), (records, previous, offset, shard))| {
        FrameHeader {
            crc: 0,
            epoch: Epoch(epoch),
            epoch_nonce: nonce,
            lsn: Lsn(lsn),
            durable_upto: Lsn(durable % lsn),
            segment: SegmentNumber(segment),
            log_start: SegmentNumber(start.min(segment)),
            body_bytes: 0,
            record_count: records,
            previous_crc: previous,
            offset_blocks: offset,
            shard_index: shard,
        }
    })
}
