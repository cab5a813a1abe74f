#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

fn id(number: u64) -> MessageId {
    let bytes = [number.to_be_bytes(), [0; 8]].concat();
    MessageId(bytes.try_into().unwrap())
}

fn payload(outcome: ReceiptOutcome, about: MessageId) -> [u8; 64] {
    ReceiptBody { outcome, message_id: about, envelope_sha256: [8; 32], at_ms: 9 }.to_bytes()
}

#[test]
fn a_receipt_that_says_the_same_in_another_message_is_hidden_and_nothing_else_is() {
    let (delivered, done) = (ReceiptOutcome::Delivered, ReceiptOutcome::Acknowledged);
    let (a, b) = (AgentId([1; 16]), AgentId([2; 16]));
    let mut repeats = Repeats::default();
    let mut is_repeated = |from, number, outcome, about| {
        repeats.is_repeated(from, id(number), Kind::Receipt, about, &payload(outcome, about))
    };
    assert!(!is_repeated(a, 1, delivered, id(100)));
    assert!(!is_repeated(a, 1, delivered, id(100)), "the same message, which the application has not acknowledged");
    assert!(is_repeated(a, 2, delivered, id(100)));
    assert!(!is_repeated(a, 3, done, id(100)), "it says something else");
    assert!(!is_repeated(b, 4, delivered, id(100)), "somebody else says it");
    assert!(!is_repeated(a, 5, delivered, id(101)), "of something else");
    assert!(is_repeated(a, 6, done, id(100)));
}

#[test]
fn what_is_no_receipt_repeats_none() {
    let mut repeats = Repeats::default();
    let bytes = payload(ReceiptOutcome::Acknowledged, id(100));
    for number in 0..3 {
        assert!(!repeats.is_repeated(AgentId([1; 16]), id(number), Kind::Direct, id(100), &bytes), "another kind");
        assert!(!repeats.is_repeated(AgentId([1; 16]), id(number), Kind::Receipt, id(7), &bytes), "two minds");
        assert!(!repeats.is_repeated(AgentId([1; 16]), id(number), Kind::Receipt, id(100), &bytes[..63]));
    }
    assert!(repeats.came.known.is_empty());
}

#[test]
fn so_many_are_remembered_and_the_oldest_are_forgotten_first() {
    let mut firsts = Firsts::default();
    for number in 0..=RECEIPTS_REMEMBERED as u64 {
        assert_eq!(firsts.first(number, id(number)), None);
    }
    assert_eq!((firsts.known.len(), firsts.order.len()), (RECEIPTS_REMEMBERED, RECEIPTS_REMEMBERED));
    assert_eq!(firsts.first(1, id(1_000_000)), Some(id(1)));
    assert_eq!(firsts.first(0, id(1_000_000)), None, "it was the oldest");
}
