//! Signature suites: the byte says how long a header is and what stands in it, before anything else of it is read.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod canonical;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use canonical::{reencode, reencode_batch_header};
use creto_envelope::batch::{BATCH_HEADER_BYTES, BATCH_HEADER_BYTES_MAX, BatchHeaderView, encode_signed_batch};
use creto_envelope::control::RotationMode;
use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver};
use creto_envelope::key_record::{FN_DSA_512_PUBLIC_BYTES, KEY_RECORD_FIXED_BYTES, token_binding};
use creto_envelope::{AgentName, BatchHeader, FrameType, KeyRecord, Purpose, RejectCode, SignatureSuite, TreeDigest};
use sample::{aligned, envelope, key_record};

const ALL: [SignatureSuite; 4] = [
    SignatureSuite::HybridSha256,
    SignatureSuite::HybridSha3,
    SignatureSuite::TripleSha256,
    SignatureSuite::TripleSha3,
];

fn header(suite: SignatureSuite) -> BatchHeader {
    let fn_dsa_512 = suite.has_fn_dsa_512().then(|| Box::new([6; 666]));
    BatchHeader { signature_suite: suite, fn_dsa_512, ..sample::batch_header(1) }
}

#[test]
fn numbers_lengths_and_parts_of_the_suites_are_these() {
    for (number, suite) in (1..).zip(ALL) {
        assert_eq!((suite as u8, SignatureSuite::from_u8(number)), (number, Some(suite)));
        assert_eq!(SignatureSuite::of(suite.tree_digest(), suite.has_fn_dsa_512()), suite);
    }
    assert_eq!(ALL.map(SignatureSuite::header_bytes), [3_448, 3_448, 4_120, 4_120]);
    let (sha2, sha3) = (TreeDigest::Sha256, TreeDigest::Sha3_256);
    assert_eq!(ALL.map(SignatureSuite::tree_digest), [sha2, sha3, sha2, sha3]);
    assert_eq!(ALL.map(SignatureSuite::has_fn_dsa_512), [false, false, true, true]);
}

#[test]
fn a_header_of_every_suite_is_viewed_as_it_was_written() {
    let mut statements = Vec::new();
    for suite in ALL {
        // Whatever stands behind it is not part of it.
        let mut bytes = aligned(&header(suite).to_bytes());
        bytes.extend_from_slice(&[9; 800]);
        let view = BatchHeaderView::parse(&bytes).unwrap();
        assert_eq!((view.signature_suite(), view.as_bytes().len()), (suite, suite.header_bytes()));
        assert_eq!(view.fn_dsa_512(), suite.has_fn_dsa_512().then_some(&[6; 666]));
        assert_eq!(reencode_batch_header(&bytes).unwrap(), header(suite).to_bytes());
        assert_eq!(view.statement_bytes()[15], suite as u8, "the suite is signed");
        statements.push(view.statement_bytes());
    }
    statements.dedup();
    assert_eq!(statements.len(), 4, "a signature of one suite is none of another");
}

#[test]
fn an_unknown_suite_is_refused_whatever_else_the_header_holds() {
    for suite in (0..=u8::MAX).filter(|suite| SignatureSuite::from_u8(*suite).is_none()) {
        for filling in [0, 0xff] {
            let mut bytes = aligned(&[filling; BATCH_HEADER_BYTES_MAX]);
            bytes[..2].copy_from_slice(&[1, suite]);
            assert_eq!(BatchHeaderView::parse(&bytes).map(drop), Err(RejectCode::BatchSuite), "suite {suite}");
        }
    }
}

#[test]
fn a_header_that_is_shorter_than_its_suite_says_is_refused() {
    for suite in ALL {
        let whole = header(suite).to_bytes();
        for cut in (1..whole.len()).step_by(7).chain([BATCH_HEADER_BYTES - 1, whole.len() - 1]) {
            let bytes = aligned(&whole[..cut]);
            assert_eq!(BatchHeaderView::parse(&bytes).map(drop), Err(RejectCode::BatchTruncated), "{suite:?}, {cut}");
        }
    }
}

#[test]
fn the_padding_behind_a_third_signature_is_zero() {
    for at in BATCH_HEADER_BYTES + 666..BATCH_HEADER_BYTES_MAX {
        let mut bytes = aligned(&header(SignatureSuite::TripleSha256).to_bytes());
        bytes[at] = 1;
        assert_eq!(BatchHeaderView::parse(&bytes).map(drop), Err(RejectCode::BatchReserved), "byte {at}");
    }
}

#[test]
fn batches_and_deliveries_of_every_suite_come_back_byte_for_byte() {
    for suite in ALL {
        let (salt, envelope, header) = ([3; 16], envelope(21), header(suite));
        let mut frame = Vec::new();
        encode_signed_batch(&mut frame, 1, &header, [(&salt, &envelope[..])].into_iter()).unwrap();
        assert_eq!(reencode(FrameType::SignedBatch, &aligned(&frame[8..])).unwrap(), frame, "{suite:?}");

        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin(&mut frame, Some(&header.to_bytes()));
        let message = MessageToDeliver {
            mailbox_sequence: 1,
            leaf_index: 0,
            attempt: 0,
            salt: &salt,
            path: &[],
            envelope: &envelope,
        };
        encoder.push(&message);
        encoder.finish();
        assert_eq!(reencode(FrameType::Deliver, &aligned(&frame[8..])).unwrap(), frame, "{suite:?}");
    }
}

#[test]
fn a_key_record_says_what_it_was_signed_for_and_its_signatures_cover_that() {
    use RotationMode::{Emergency, Planned};
    let plain = key_record();
    let token = token_binding(&[9; 32], &plain.agent_id());
    let others = [Purpose::Enrolment(token), Purpose::Rotation(Planned), Purpose::Rotation(Emergency)];
    let records = others.map(|purpose| KeyRecord { purpose: Some(purpose), ..plain.clone() });
    assert_eq!((plain.to_bytes()[0], plain.to_bytes()[3]), (1, 0), "as before there were purposes");
    for (number, record) in (1..).zip(&records) {
        let bytes = record.to_bytes();
        assert_eq!((bytes[0], bytes[3], KeyRecord::parse(&bytes).as_ref()), (2, number, Ok(record)));
        for other in records.iter().chain([&plain]).filter(|other| *other != record) {
            assert_ne!(record.signed_bytes(), other.signed_bytes());
        }
        for (format, purpose) in [(1, number), (2, 0), (2, 4), (3, number)] {
            let mut bytes = bytes.clone();
            (bytes[0], bytes[3]) = (format, purpose);
            assert_eq!(KeyRecord::parse(&bytes), Err(RejectCode::FrameReserved), "{format}, {purpose}");
        }
    }
    let third_key = Some(Box::new([7; FN_DSA_512_PUBLIC_BYTES]));
    let longest = KeyRecord { fn_dsa_512: third_key, ..records[0].clone() };
    assert_eq!(KeyRecord::parse(&longest.to_bytes()).as_ref(), Ok(&longest));
    let bound = records[0].to_bytes();
    assert_eq!(bound.last_chunk(), Some(&token));
    assert_eq!(KeyRecord::parse(&bound[..bound.len() - 1]), Err(RejectCode::FrameLength));
    assert_eq!(KeyRecord::parse(&[&records[1].to_bytes()[..], &token].concat()), Err(RejectCode::FrameLength));
    let other_agent = KeyRecord { name: AgentName::parse("acme/other").unwrap(), ..plain }.agent_id();
    assert!(
        token != token_binding(&[8; 32], &key_record().agent_id()) && token != token_binding(&[9; 32], &other_agent)
    );
}

#[test]
fn a_key_record_with_a_third_key_says_so_and_is_as_long_as_it_says() {
    let record = KeyRecord { fn_dsa_512: Some(Box::new([7; FN_DSA_512_PUBLIC_BYTES])), ..key_record() };
    let (two, three) = (key_record().to_bytes(), record.to_bytes());
    assert_eq!((two[1], three[1], three.len() - two.len()), (3, 7, 897));
    assert_eq!(two[2..], three[2..two.len()], "everything else stays where it is");
    assert_eq!(KeyRecord::parse(&three), Ok(record));
    let changed = |mut bytes: Vec<u8>, algorithms: u8| {
        bytes[1] = algorithms;
        KeyRecord::parse(&bytes)
    };
    assert_eq!(changed(two.clone(), 7), Err(RejectCode::FrameLength));
    assert_eq!(changed(three.clone(), 3), Err(RejectCode::FrameLength));
    for algorithms in (0..=u8::MAX).filter(|algorithms| ![3, 7].contains(algorithms)) {
        assert_eq!(changed(three.clone(), algorithms), Err(RejectCode::FrameReserved), "{algorithms}");
    }
    for cut in KEY_RECORD_FIXED_BYTES..three.len() {
        assert!(KeyRecord::parse(&three[..cut]).is_err(), "{cut} bytes");
    }
}
