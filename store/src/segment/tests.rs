use super::*;

const HEADER: SegmentHeader = SegmentHeader {
    shard_index: 3,
    number: SegmentNumber(9),
    epoch: Epoch(4),
    epoch_nonce: 0x1122_3344_5566_7788,
    first_lsn: Lsn(1000),
    previous_crc: 0xdead_beef,
    log_start: SegmentNumber(7),
    created_ms: 1_700_000_000_000,
};

#[test]
fn a_header_reads_back_as_it_was_written() {
    let mut block = [0xee; SEGMENT_HEADER_BYTES];
    HEADER.encode_into(&mut block);
    assert_eq!(SegmentHeader::parse(&block), Ok(HEADER));
}

#[test]
fn a_changed_byte_is_always_found() {
    let mut block = [0; SEGMENT_HEADER_BYTES];
    HEADER.encode_into(&mut block);
    for at in 0..block.len() {
        block[at] ^= 0x10;
        assert!(SegmentHeader::parse(&block).is_err(), "byte {at}");
        block[at] ^= 0x10;
    }
    assert_eq!(SegmentHeader::parse(&block[1..]), Err(SegmentDamage::Truncated));
    assert_eq!(SegmentHeader::parse(&[0; 4096]), Err(SegmentDamage::Empty));
}

#[test]
fn file_names_mean_one_segment_or_none() {
    let check = |name: &str, expected: Option<u64>| {
        assert_eq!(parse_segment_file_name(name), expected.map(SegmentNumber), "{name}");
    };
    assert_eq!(segment_file_name(SegmentNumber(0x2a)), "segment-000000000000002a.wal");
    check("segment-000000000000002a.wal", Some(0x2a));
    check("segment-ffffffffffffffff.wal", Some(u64::MAX));
    check("segment-000000000000002A.wal", None);
    check("segment-0000000000000000.wal", None);
    check("segment-2a.wal", None);
    check("segment-+00000000000002a.wal", None);
    check("segment-000000000000002a.wal.tmp", None);
    check("LOCK", None);
}
