use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frame::FrameHeader;
use crate::record::tests::any_record;

proptest! {
    #[test]
    fn a_digest_says_what_the_frames_said(frames in any_frames()) {
        let (digest, expected) = built(&frames);
        let bytes = Bytes::from(digest.pieces().concat());
        prop_assert_eq!(bytes.len(), digest.bytes());
        let read = SegmentDigest::parse(&bytes).unwrap();
        prop_assert_eq!(read.segment(), &segment());
        prop_assert_eq!(read.entries().collect::<Vec<_>>(), expected);
        prop_assert_eq!(read.check_place(&segment(), read.segment_end(), next_segment(frames.len())), Ok(()));
    }

    #[test]
    fn whatever_the_checksums_cover_parsing_ends(
        frames in any_frames(), at in any::<usize>(), with in vec(any::<u8>(), 1..8), cut in any::<u16>()
    ) {
        let (digest, _) = built(&frames);
        let mut bytes = digest.pieces().concat();
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
        if cut.is_multiple_of(4) {
            bytes.truncate(usize::from(cut).max(HEADER_BYTES));
        }
        if let Ok(read) = SegmentDigest::parse(&Bytes::from(resealed(bytes))) {
            let end = read.segment_end();
            let positions: Vec<_> = read.entries().map(|(position, _)| position).collect();
            prop_assert!(positions.is_sorted());
            prop_assert!(positions.iter().all(|position| u64::from(position.offset) < end));
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = SegmentDigest::parse(&Bytes::from(bytes.clone()));
        // Past the front door: a digest of these bytes.
        let mut plausible = built(&[]).0.pieces()[0].to_vec();
        plausible.extend_from_slice(&bytes);
        let _ = SegmentDigest::parse(&Bytes::from(resealed(plausible)));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (digest, _) = built(&sample());
    let bytes = digest.pieces().concat();
    assert!(SegmentDigest::parse(&Bytes::from(bytes.clone())).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(SegmentDigest::parse(&Bytes::from(flipped)).is_err(), "byte {at}, bit {bit}");
        }
        assert!(SegmentDigest::parse(&Bytes::copy_from_slice(&bytes[..at])).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0; 8]].concat();
    assert_eq!(SegmentDigest::parse(&Bytes::from(longer)).unwrap_err(), DigestDamage::Truncated);
}

#[test]
fn a_digest_of_another_segment_epoch_or_shard_is_refused() {
    let frames = sample();
    let (digest, _) = built(&frames);
    let digest = SegmentDigest::parse(&Bytes::from(digest.pieces().concat())).unwrap();
    let next = next_segment(frames.len());
    let end = digest.segment_end();
    assert_eq!(digest.check_place(&segment(), end, next), Ok(()));
    let changes: [fn(&mut SegmentHeader); 8] = [
        |header| header.shard_index += 1,
        |header| header.number.0 += 1,
        |header| header.epoch.0 += 1,
        |header| header.epoch_nonce ^= 1,
        |header| header.first_lsn.0 += 1,
        |header| header.previous_crc ^= 1,
        |header| header.log_start.0 += 1,
        |header| header.created_ms += 1,
    ];
    for change in changes {
        let mut other = segment();
        change(&mut other);
        assert_eq!(digest.check_place(&other, end, next), Err(DigestDamage::OtherSegment));
    }
    assert_eq!(digest.check_place(&segment(), end, (next.0.previous(), next.1)), Err(DigestDamage::Link));
    assert_eq!(digest.check_place(&segment(), end, (next.0, next.1 ^ 1)), Err(DigestDamage::Link));
    assert_eq!(digest.check_place(&segment(), end - 1, next), Err(DigestDamage::SegmentCut));
}

#[test]
fn a_later_version_is_refused_by_name() {
    let mut bytes = built(&sample()).0.pieces().concat();
    bytes[12] = 4;
    assert_eq!(SegmentDigest::parse(&Bytes::from(resealed(bytes))).unwrap_err(), DigestDamage::Version(4));
}

#[test]
fn a_digest_of_the_first_version_is_read() {
    let (digest, expected) = built(&sample());
    let mut bytes = digest.pieces().concat();
    bytes[12] = 1;
    let read = SegmentDigest::parse(&Bytes::from(resealed(bytes))).unwrap();
    assert_eq!(read.entries().collect::<Vec<_>>(), expected);
    assert!(read.says_what(&digest));
    assert!(!read.says_what(&built(&[]).0));
}

#[test]
fn a_digest_of_more_than_a_quarter_of_its_segment_is_not_made() {
    let frames = sample();
    let whole = built(&frames).0.bytes() as u64;
    for (segment_bytes, is_made) in [(4 * whole, true), (4 * whole - 4, false), (0, false)] {
        let mut builder = DigestBuilder::new(segment(), segment_bytes);
        feed(&mut builder, &frames);
        assert_eq!(builder.finish().is_some(), is_made, "{segment_bytes}");
    }
}

#[test]
fn a_segment_without_frames_has_no_digest() {
    assert_eq!(DigestBuilder::new(segment(), 64 << 20).finish(), None);
}

#[test]
fn file_names_mean_one_digest_or_none() {
    let name = digest_file_name(SegmentNumber(0xbeef));
    assert_eq!(name, "segment-000000000000beef.idx");
    assert_eq!(parse_digest_file_name(&name), Some(SegmentNumber(0xbeef)));
    for other in ["segment-000000000000beef.wal", "segment-beef.idx", "segment-000000000000beef.idx.idx", ".digest.new"]
    {
        assert_eq!(parse_digest_file_name(other), None, "{other}");
    }
}

/// Both checksums as if these bytes had been written.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let (header, body) = bytes.split_first_chunk_mut::<HEADER_BYTES>().unwrap();
    header[88..96].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[96..100].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = header_crc(header);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn any_frames() -> impl Strategy<Value = Vec<Vec<Record>>> {
    vec(vec(any_record(), 0..4), 1..12)
}

fn sample() -> Vec<Vec<Record>> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let tree = vec(vec(any_record(), 1..4), 3..4).new_tree(&mut runner).unwrap();
    tree.current()
}

fn segment() -> SegmentHeader {
    SegmentHeader {
        shard_index: 3,
        number: SegmentNumber(7),
        epoch: Epoch(2),
        epoch_nonce: 0x1122_3344_5566_7788,
        first_lsn: Lsn(100),
        previous_crc: 77,
        log_start: SegmentNumber(5),
        created_ms: 1_700_000_000_000,
    }
}

/// What follows a segment of so many frames.
fn next_segment(frames: usize) -> (Lsn, u32) {
    let last = 99 + frames as u64;
    (Lsn(last + 1), crc_of(last))
}

fn crc_of(lsn: u64) -> u32 {
    u32::try_from(lsn).unwrap() ^ 0x5a5a_5a5a
}

fn built(frames: &[Vec<Record>]) -> (Digest, Vec<(Position, Noted)>) {
    let frames = if frames.is_empty() { &[Vec::new()][..] } else { frames };
    let mut builder = DigestBuilder::new(segment(), 64 << 20);
    let expected = feed(&mut builder, frames);
    (builder.finish().unwrap(), expected)
}

fn feed(builder: &mut DigestBuilder, frames: &[Vec<Record>]) -> Vec<(Position, Noted)> {
    let mut expected = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    for (lsn, records) in (100..).zip(frames) {
        let body_bytes: usize = records.iter().map(Record::encoded_bytes).sum();
        let header = FrameHeader {
            crc: 0,
            epoch: Epoch(2),
            epoch_nonce: segment().epoch_nonce,
            lsn: Lsn(lsn),
            durable_upto: Lsn(lsn - 1),
            segment: SegmentNumber(7),
            log_start: SegmentNumber(5),
            body_bytes: u32::try_from(body_bytes).unwrap(),
            record_count: u32::try_from(records.len()).unwrap(),
            previous_crc: 0,
            offset_blocks: crate::frame::offset_blocks(at),
            shard_index: 3,
        };
        let mut offset = header.body_offset();
        for (index, record) in (0..).zip(records) {
            let position = Position { segment: SegmentNumber(7), lsn: Lsn(lsn), index, offset };
            offset += u32::try_from(record.encoded_bytes()).unwrap();
            let noted = record.noted(position);
            builder.record(position, record, &noted);
            expected.push((position, noted));
        }
        builder.frame(&header, crc_of(lsn));
        at = header.end_offset();
    }
    expected
}
