use creto_envelope::frame::{FRAME_HEADER_BYTES, FrameHeader};
use creto_envelope::limits::IN_FLIGHT_MESSAGES_MAX;
use proptest::prelude::*;

use super::*;

fn acks(ledger: &mut SubmitLedger) -> Vec<SubmitAck> {
    let mut out = Vec::new();
    ledger.encode_acks(&mut out);
    let mut acks = Vec::new();
    let mut rest = &out[..];
    while !rest.is_empty() {
        let header = FrameHeader::parse(rest[..FRAME_HEADER_BYTES].try_into().unwrap()).unwrap();
        let end = FRAME_HEADER_BYTES + header.body_bytes as usize;
        acks.push(SubmitAck::parse(&rest[FRAME_HEADER_BYTES..end]).unwrap());
        rest = &rest[end..];
    }
    acks
}

#[test]
fn a_batch_that_skips_a_sequence_is_refused() {
    let mut ledger = SubmitLedger::default();
    assert_eq!(ledger.arrive(2, 1, 10, IN_FLIGHT_MESSAGES_MAX), Err(RejectCode::BatchSequence));
    assert_eq!(ledger.arrive(1, 1, 10, IN_FLIGHT_MESSAGES_MAX), Ok(Fits::Yes));
    assert_eq!(ledger.arrive(1, 1, 10, IN_FLIGHT_MESSAGES_MAX), Err(RejectCode::BatchSequence));
}

#[test]
fn an_answer_waits_for_every_batch_before_it() {
    let mut ledger = SubmitLedger::default();
    ledger.arrive(1, 2, 10, IN_FLIGHT_MESSAGES_MAX).unwrap();
    ledger.arrive(2, 1, 20, IN_FLIGHT_MESSAGES_MAX).unwrap();
    ledger.settle(2, 1, std::iter::empty());
    assert_eq!(acks(&mut ledger), []);
    ledger.settle(1, 1, std::iter::empty());
    assert_eq!(acks(&mut ledger), []);
    ledger.settle(1, 1, std::iter::once((1, RejectCode::MailboxFull)));
    let result = SubmitResult::new(1, 1, RejectCode::MailboxFull);
    assert_eq!(acks(&mut ledger), [SubmitAck { through_sequence: 2, pause_ms: 0, results: vec![result] }]);
    assert!(ledger.is_idle());
}

#[test]
fn many_results_are_told_before_their_batch_counts_as_answered() {
    let mut ledger = SubmitLedger::default();
    for sequence in 1..=5 {
        ledger.arrive(sequence, 1_000, 1, IN_FLIGHT_MESSAGES_MAX).unwrap();
        ledger.settle(sequence, 1_000, (0..1_000).map(|index| (index, RejectCode::PolicyDenied)));
    }
    let acks = acks(&mut ledger);
    assert_eq!(acks.iter().map(|ack| ack.results.len()).collect::<Vec<_>>(), [4_096, 904]);
    assert_eq!(acks.iter().map(|ack| ack.through_sequence).collect::<Vec<_>>(), [0, 5]);
}

#[test]
fn more_messages_in_flight_than_allowed_do_not_fit() {
    let mut ledger = SubmitLedger::default();
    assert_eq!(ledger.arrive(1, IN_FLIGHT_MESSAGES_MAX, 1, IN_FLIGHT_MESSAGES_MAX), Ok(Fits::Yes));
    assert_eq!(ledger.arrive(2, 1, 1, IN_FLIGHT_MESSAGES_MAX), Ok(Fits::No));
    ledger.refuse(2, RejectCode::TooManyInFlight);
    ledger.settle(1, IN_FLIGHT_MESSAGES_MAX, std::iter::empty());
    assert_eq!(acks(&mut ledger).last().unwrap().through_sequence, 2);
    assert_eq!(ledger.arrive(3, 1, 1, IN_FLIGHT_MESSAGES_MAX), Ok(Fits::Yes));
}

#[test]
fn a_role_is_given_once() {
    let mut connection = Connection::new([0; 32], ([127, 0, 0, 1], 4433).into());
    assert_eq!(connection.open_stream(StreamId(0), StreamRole::Control), Ok(()));
    assert_eq!(connection.open_stream(StreamId(4), StreamRole::Control), Err(RejectCode::StreamRole));
    assert_eq!(connection.open_stream(StreamId(0), StreamRole::Submit), Err(RejectCode::StreamRole));
    assert_eq!(connection.role(StreamId(0)), Some(StreamRole::Control));
}

proptest! {
    #[test]
    fn bytes_in_equal_bytes_answered(order in prop::collection::vec(0usize..8, 0..64), bytes in prop::collection::vec(1usize..1000, 8)) {
        let mut ledger = SubmitLedger::default();
        for (sequence, bytes) in (1u64..).zip(&bytes) {
            ledger.arrive(sequence, 1, *bytes, IN_FLIGHT_MESSAGES_MAX).unwrap();
        }
        let mut done = [false; 8];
        let mut answered = 0;
        for index in order.into_iter().chain(0..8) {
            if !std::mem::replace(&mut done[index], true) {
                ledger.settle(index as u64 + 1, 1, std::iter::empty());
            }
            answered += ledger.encode_acks(&mut Vec::new());
            let prefix = done.iter().take_while(|done| **done).count();
            prop_assert_eq!(answered, bytes[..prefix].iter().sum::<usize>());
        }
        prop_assert!(ledger.is_idle());
    }
}
