//! Any bytes as the digest of a segment: as they are, and with checksums that hold.
#![no_main]

use bytes::Bytes;
use creto_fuzz::creto_store::SegmentDigest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check(data);
    if data.len() >= 128 {
        check(&resealed(data));
    }
});

/// A digest that is accepted names records in the order of its segment, and nothing outside of it.
fn check(data: &[u8]) {
    let Ok(digest) = SegmentDigest::parse(&Bytes::copy_from_slice(data)) else { return };
    let mut last = None;
    for (position, noted) in digest.entries() {
        assert!(last < Some(position), "records come in the order of the log");
        assert_eq!(position.segment, digest.segment().number);
        assert!(u64::from(position.offset) < digest.segment_end());
        assert!(noted.message_count() * 80 <= data.len(), "no more messages than there is room for");
        last = Some(position);
    }
}

/// The same with the sizes and checksums that a writer would have given it.
fn resealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let body = &bytes[128..];
    let (body_bytes, body_crc) = (body.len() as u64, crc32c::crc32c(body));
    bytes[88..96].copy_from_slice(&body_bytes.to_le_bytes());
    bytes[96..100].copy_from_slice(&body_crc.to_le_bytes());
    bytes[..8].copy_from_slice(b"CRETOIDX");
    bytes[8..12].fill(0);
    bytes[12..14].copy_from_slice(&[1, 0]);
    let crc = crc32c::crc32c(&bytes[..128]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}
