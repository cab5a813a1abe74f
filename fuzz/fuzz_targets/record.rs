//! Any bytes as a record, a frame or a segment header of the log. The first byte chooses.
#![no_main]

use bytes::Bytes;
use creto_fuzz::creto_store::{FrameHeader, Record, SegmentHeader};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 | 1 => check_record(data),
        2 => check_frame(data),
        _ => check_segment_header(data),
    }
});

/// A record that is accepted takes no more than is there, and encodes to the bytes that it took.
fn check_record(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok((record, taken)) = Record::parse(&bytes) else { return };
    assert_eq!(record.encoded_bytes(), taken);
    let mut again = vec![0xff; taken];
    record.encode_into(&mut again);
    assert!(again == data[..taken], "an accepted record comes back as it was");
    assert_eq!(record.detached(), record);
}

/// A header that is accepted, sealed over the same body, is a frame that is accepted: only the checksum was missing.
fn check_frame(data: &[u8]) {
    let Ok(header) = FrameHeader::parse(data) else { return };
    let Some(frame) = data.get(..header.total_bytes()) else {
        assert!(header.check_body(data).is_err(), "a frame that is cut short is refused");
        return;
    };
    let mut sealed = frame.to_vec();
    let crc = header.seal(&mut sealed);
    let again = FrameHeader::parse(&sealed).expect("what was sealed can be parsed");
    assert_eq!(again, FrameHeader { crc, ..header });
    let body = again.check_body(&sealed).expect("what was sealed is sound");
    if header.check_body(frame).is_ok() {
        assert!(sealed == frame, "an accepted frame comes back as it was");
    }
    let mut rest = Bytes::copy_from_slice(body);
    while let Ok((_, taken)) = Record::parse(&rest) {
        rest = rest.slice(taken..);
    }
}

fn check_segment_header(data: &[u8]) {
    let Ok(header) = SegmentHeader::parse(data) else { return };
    let mut block = [0xff; 4096];
    header.encode_into(&mut block);
    assert!(block == data[..4096], "an accepted segment header comes back as it was");
}
