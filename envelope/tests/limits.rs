//! Every limit at its edge: the last value that is allowed, and the first that is not.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use creto_envelope::batch::{BATCH_HEADER_BYTES, BatchHeaderView, BatchView, encode_signed_batch, entry_bytes};
use creto_envelope::deliver::{ConsumerAck, Deliver, DeliverEncoder, MessageToDeliver, delivered_message_bytes};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::limits::*;
use creto_envelope::signal::parse_signals;
use creto_envelope::submit::{SubmitAck, SubmitResult};
use creto_envelope::{AgentName, EnvelopeView, FrameHeader, FrameType, RejectCode, TrustDomain};
use sample::{aligned, batch_header, envelope};

/// An envelope that is as large as wanted and says so, whether that is allowed or not.
fn envelope_of_bytes(bytes: usize) -> Vec<u8> {
    let mut envelope = envelope(bytes.saturating_sub(1_296).min(PAYLOAD_PLAINTEXT_BYTES_MAX));
    envelope.resize(bytes, 0);
    if bytes > ENVELOPE_BYTES_MAX {
        envelope[8..12].copy_from_slice(&(bytes as u32 - 1_280).to_le_bytes());
    }
    envelope
}

fn encode(envelopes: &[Vec<u8>]) -> Result<Vec<u8>, RejectCode> {
    let mut out = vec![0xee];
    let header = batch_header(envelopes.len() as u32);
    let entries = envelopes.iter().map(|envelope| (&[1; 16], &envelope[..]));
    match encode_signed_batch(&mut out, 1, &header, entries) {
        Ok(()) => Ok(out[1..].to_vec()),
        Err(code) => {
            assert_eq!(out, [0xee], "a refused batch leaves the buffer as it was");
            Err(code)
        }
    }
}

/// The batch inside a frame, as the receiver cuts it.
fn parse(batch: &[u8]) -> Result<usize, RejectCode> {
    let mut entries = Vec::new();
    BatchView::parse(&aligned(batch), &mut entries).map(|_| entries.len())
}

#[test]
fn the_limits_are_those_of_the_pages() {
    assert_eq!(PAYLOAD_PLAINTEXT_BYTES_MAX, 1_048_576);
    assert_eq!(PAYLOAD_BYTES_MAX, 1_048_592);
    assert_eq!(WRAPPED_KEY_BYTES, 1_120);
    assert_eq!(SESSION_MESSAGES_MAX, creto_crypto_accel::session::SESSION_MESSAGES_MAX);
    assert_eq!(SESSION_MESSAGES_MAX, 4_096);
    assert_eq!(ENVELOPE_BYTES_MAX, 1_049_872);
    assert_eq!(BATCH_MESSAGES_MAX, 1_024);
    assert_eq!(BATCH_BYTES_MAX, 2_097_152);
    assert_eq!(PATH_NODES_MAX, 10);
    assert_eq!(FRAME_BODY_BYTES_MAX, 2_097_160);
    assert_eq!(CONTROL_BODY_BYTES_MAX, 16_384);
    assert_eq!(CONSUMER_ACK_SEQUENCES_MAX, 4_096);
    assert_eq!(SUBMIT_RESULTS_MAX, 4_096);
    assert_eq!((CONSUMER_NACK_MESSAGES_MAX, DEAD_LETTERS_LISTED_MAX, DEAD_LETTER_CHANGES_MAX), (4_096, 256, 512));
    assert_eq!(IN_FLIGHT_MESSAGES_MAX, 16_384);
    assert_eq!(CREDIT_MESSAGES_MAX, 65_536);
    assert_eq!(CREDIT_BYTES_MAX, 4_194_304);
    assert_eq!((NAME_BYTES_MAX, TRUST_DOMAIN_BYTES_MAX), (128, 255));
    assert_eq!(PARTITION_COUNT, 256);
}

#[test]
fn a_frame_body_is_as_large_as_its_type_allows_and_no_larger() {
    for &frame_type in FrameType::ALL {
        let body_bytes_max = match frame_type as u8 {
            0x20 | 0x21 | 0x33..=0x35 | 0x38 | 0x43 | 0x63 | 0x73..=0x75 | 0x79 | 0x7c => 2_097_160u32,
            0x50 => 160_080,
            _ => 16_384,
        };
        let header = |body_bytes: u32| {
            let [a, b, c, d] = body_bytes.to_le_bytes();
            FrameHeader::parse(&[a, b, c, d, frame_type as u8, 1, 0, 0])
        };
        assert_eq!(header(0).unwrap().body_bytes, 0);
        assert_eq!(header(body_bytes_max).unwrap().body_bytes, body_bytes_max);
        assert_eq!(header(body_bytes_max + 1), Err(RejectCode::FrameOversized), "{frame_type:?}");
        assert_eq!(header(u32::MAX), Err(RejectCode::FrameOversized));
        assert!(FrameHeader::new(frame_type, body_bytes_max as usize).is_ok());
        assert_eq!(FrameHeader::new(frame_type, body_bytes_max as usize + 1), Err(RejectCode::FrameOversized));
        assert_eq!(FrameHeader::new(frame_type, usize::MAX), Err(RejectCode::FrameOversized));
    }
}

#[test]
fn a_frame_of_signals_has_none_that_is_larger_than_a_signal_and_none_with_a_number() {
    let check = |envelope_bytes: usize, mailbox_sequence: u64, attempt: u8, expect: Result<usize, RejectCode>| {
        let mut out = Vec::new();
        let mut encoder = DeliverEncoder::begin_signal(&mut out, &batch_header(9).to_bytes());
        let envelope = envelope_of_bytes(envelope_bytes);
        encoder.push(&MessageToDeliver {
            mailbox_sequence,
            leaf_index: 3,
            attempt,
            salt: &[8; 16],
            path: &[[6; 32]; 2],
            envelope: &envelope,
        });
        encoder.finish();
        let parsed = parse_signals(&aligned(&out[FRAME_HEADER_BYTES..])).map(|signals| signals.messages.len());
        assert_eq!(parsed, expect, "{envelope_bytes} bytes, {mailbox_sequence}, {attempt}");
    };
    check(SIGNAL_ENVELOPE_BYTES_MAX, 0, 0, Ok(1));
    check(SIGNAL_ENVELOPE_BYTES_MAX + 1, 0, 0, Err(RejectCode::EnvelopeLength));
    check(1_300, 1, 0, Err(RejectCode::FrameReserved));
    check(1_300, 0, 1, Err(RejectCode::FrameReserved));
    let header = batch_header(9).to_bytes();
    let mut empty = Vec::new();
    DeliverEncoder::begin_signal(&mut empty, &header).finish();
    assert_eq!(parse_signals(&aligned(&empty[FRAME_HEADER_BYTES..])).err(), Some(RejectCode::FrameLength));
    let mut bare = Vec::new();
    DeliverEncoder::begin(&mut bare, None).finish();
    assert_eq!(parse_signals(&aligned(&bare[FRAME_HEADER_BYTES..])).err(), Some(RejectCode::FrameLength));
}

#[test]
fn the_largest_envelope_is_accepted_and_one_byte_more_is_not() {
    let largest = aligned(&envelope(PAYLOAD_PLAINTEXT_BYTES_MAX));
    assert_eq!(largest.len(), ENVELOPE_BYTES_MAX);
    assert!(EnvelopeView::parse(&largest).is_ok());
    let larger = aligned(&envelope_of_bytes(ENVELOPE_BYTES_MAX + 1));
    assert_eq!(EnvelopeView::parse(&larger).map(|_| ()), Err(RejectCode::EnvelopeOversized));
}

#[test]
fn a_payload_holds_at_least_its_tag() {
    let mut bytes = aligned(&envelope(0));
    assert_eq!(EnvelopeView::parse(&bytes).unwrap().payload().len(), AEAD_TAG_BYTES);
    bytes[8] = AEAD_TAG_BYTES as u8 - 1;
    assert_eq!(EnvelopeView::parse(&bytes[..bytes.len() - 1]).map(|_| ()), Err(RejectCode::EnvelopeLength));
}

#[test]
fn a_batch_holds_between_one_and_1024_messages() {
    assert_eq!(encode(&[]), Err(RejectCode::BatchEmpty));
    let mut most = vec![envelope(0); BATCH_MESSAGES_MAX];
    assert_eq!(parse(&encode(&most).unwrap()[16..]), Ok(BATCH_MESSAGES_MAX));
    most.push(envelope(0));
    assert_eq!(encode(&most), Err(RejectCode::BatchTooManyMessages));

    let mut header = aligned(&batch_header(1).to_bytes());
    for (tree_size, expect) in [
        (0, Err(RejectCode::BatchEmpty)),
        (1, Ok(1)),
        (1_024, Ok(1_024)),
        (1_025, Err(RejectCode::BatchTooManyMessages)),
        (u32::MAX, Err(RejectCode::BatchTooManyMessages)),
    ] {
        header[4..8].copy_from_slice(&tree_size.to_le_bytes());
        assert_eq!(BatchHeaderView::parse(&header).map(|view| view.tree_size()), expect);
    }
}

#[test]
fn a_batch_is_at_most_two_mebibytes() {
    let room = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - entry_bytes(ENVELOPE_BYTES_MAX);
    let exact = [vec![0; ENVELOPE_BYTES_MAX], vec![0; room - 24]];
    let frame = encode(&exact).unwrap();
    assert_eq!(frame.len(), FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX, "the largest batch fills the largest frame");
    assert_eq!(parse(&frame[16..]), Ok(2));
    assert_eq!(encode(&[vec![0; ENVELOPE_BYTES_MAX], vec![0; room - 23]]), Err(RejectCode::FrameOversized));

    let mut longer = frame[16..].to_vec();
    longer.extend_from_slice(&[0; 8]);
    assert_eq!(parse(&longer), Err(RejectCode::FrameOversized));
}

#[test]
fn what_a_batch_cannot_carry_is_not_encoded() {
    for (bytes, expect) in [
        (159, Err(RejectCode::EnvelopeTruncated)),
        (160, Ok(1)),
        (ENVELOPE_BYTES_MAX, Ok(1)),
        (ENVELOPE_BYTES_MAX + 1, Err(RejectCode::EnvelopeOversized)),
    ] {
        assert_eq!(encode(&[vec![0; bytes]]).and_then(|frame| parse(&frame[16..])), expect, "{bytes} bytes");
    }
}

#[test]
fn an_entry_that_is_too_short_or_too_long_is_refused_before_it_is_read() {
    let mut batch = batch_header(1).to_bytes().to_vec();
    batch.extend_from_slice(&[0; 24]);
    let mut check = |envelope_bytes: u32, expect| {
        batch[BATCH_HEADER_BYTES + 16..BATCH_HEADER_BYTES + 20].copy_from_slice(&envelope_bytes.to_le_bytes());
        assert_eq!(parse(&batch), Err(expect), "{envelope_bytes} bytes");
    };
    check(0, RejectCode::EnvelopeTruncated);
    check(159, RejectCode::EnvelopeTruncated);
    check(160, RejectCode::BatchTruncated);
    check(ENVELOPE_BYTES_MAX as u32, RejectCode::BatchTruncated);
    check(ENVELOPE_BYTES_MAX as u32 + 1, RejectCode::EnvelopeOversized);
    check(u32::MAX, RejectCode::EnvelopeOversized);
}

#[test]
fn one_message_of_the_largest_size_can_be_delivered() {
    let envelope = envelope(PAYLOAD_PLAINTEXT_BYTES_MAX);
    let header = batch_header(1_024).to_bytes();
    let mut frame = Vec::new();
    let mut encoder = DeliverEncoder::begin(&mut frame, Some(&header));
    let path = [[1; 32]; PATH_NODES_MAX];
    encoder.push(&MessageToDeliver {
        mailbox_sequence: 1,
        leaf_index: 1_023,
        attempt: u8::MAX,
        salt: &[2; 16],
        path: &path,
        envelope: &envelope,
    });
    assert_eq!(
        encoder.frame_bytes(),
        FRAME_HEADER_BYTES + 8 + BATCH_HEADER_BYTES + delivered_message_bytes(PATH_NODES_MAX, envelope.len())
    );
    assert_eq!(encoder.finish(), 1);
    let body = aligned(&frame[FRAME_HEADER_BYTES..]);
    assert_eq!(Deliver::parse(&body).unwrap().messages.len(), 1);
}

#[test]
fn a_delivered_message_keeps_its_limits() {
    let frame = sample::deliver_frame(false, &[(0, 10)]);
    let check = |change: &dyn Fn(&mut [u8]), expect| {
        let mut body = aligned(&frame[FRAME_HEADER_BYTES..]);
        change(&mut body);
        assert_eq!(Deliver::parse(&body).map(|deliver| deliver.messages.len()), expect);
    };
    check(&|_| {}, Ok(1));
    // Path of eleven nodes, an envelope shorter than a header, one longer than the limit, more messages than a batch has.
    check(&|body| body[8 + 12] = 11, Err(RejectCode::FrameLength));
    check(&|body| body[8 + 32..8 + 36].copy_from_slice(&159u32.to_le_bytes()), Err(RejectCode::EnvelopeLength));
    check(
        &|body| body[8 + 32..8 + 36].copy_from_slice(&(ENVELOPE_BYTES_MAX as u32 + 1).to_le_bytes()),
        Err(RejectCode::EnvelopeLength),
    );
    check(&|body| body[..4].copy_from_slice(&1_025u32.to_le_bytes()), Err(RejectCode::BatchTooManyMessages));
    check(&|body| body[..4].copy_from_slice(&1_024u32.to_le_bytes()), Err(RejectCode::FrameLength));
    check(&|body| body[..4].copy_from_slice(&0u32.to_le_bytes()), Err(RejectCode::FrameLength));
}

#[test]
fn acknowledgements_are_split_at_4096() {
    let most = ConsumerAck { sequences: vec![1; CONSUMER_ACK_SEQUENCES_MAX] };
    let mut frame = Vec::new();
    most.encode(&mut frame);
    assert_eq!(ConsumerAck::parse(&frame[8..]), Ok(most));
    let mut body = frame[8..].to_vec();
    body[..4].copy_from_slice(&4_097u32.to_le_bytes());
    body.extend_from_slice(&[0; 8]);
    assert_eq!(ConsumerAck::parse(&body), Err(RejectCode::FrameLength));

    let result = SubmitResult { sequence: 1, index: 0, code: 400, retry_after: 0 };
    let most = SubmitAck { through_sequence: 1, pause_ms: 0, results: vec![result; SUBMIT_RESULTS_MAX] };
    let mut frame = Vec::new();
    most.encode(&mut frame);
    assert_eq!(SubmitAck::parse(&frame[8..]), Ok(most));
    let mut body = frame[8..].to_vec();
    body[8..12].copy_from_slice(&4_097u32.to_le_bytes());
    body.extend_from_slice(&[0; 16]);
    assert_eq!(SubmitAck::parse(&body), Err(RejectCode::FrameLength));
}

#[test]
#[should_panic(expected = "acknowledgements are split over frames")]
fn more_acknowledgements_than_a_frame_takes_are_not_encoded() {
    ConsumerAck { sequences: vec![1; CONSUMER_ACK_SEQUENCES_MAX + 1] }.encode(&mut Vec::new());
}

#[test]
#[should_panic(expected = "results are split over frames")]
fn more_results_than_a_frame_takes_are_not_encoded() {
    let result = SubmitResult { sequence: 1, index: 0, code: 400, retry_after: 0 };
    SubmitAck { through_sequence: 1, pause_ms: 0, results: vec![result; SUBMIT_RESULTS_MAX + 1] }
        .encode(&mut Vec::new());
}

#[test]
fn names_and_trust_domains_end_at_their_limits() {
    let name = |bytes: usize| AgentName::parse(&format!("a/{}", "b".repeat(bytes - 2)));
    assert!(name(128).is_ok());
    assert!(name(129).is_err());
    assert!(TrustDomain::parse(&"d".repeat(255)).is_ok());
    assert!(TrustDomain::parse(&"d".repeat(256)).is_err());
    assert!(TrustDomain::parse("").is_err());
}
