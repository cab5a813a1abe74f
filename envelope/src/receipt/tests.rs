use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_receipt_comes_back_as_it_was_written(is_done: bool, id: [u8; 16], envelope_sha256: [u8; 32], at_ms: u64) {
        let outcome = if is_done { ReceiptOutcome::Acknowledged } else { ReceiptOutcome::Delivered };
        let receipt = ReceiptBody { outcome, message_id: MessageId(id), envelope_sha256, at_ms };
        prop_assert_eq!(ReceiptBody::parse(&receipt.to_bytes()), Some(receipt));
    }

    #[test]
    fn what_is_read_as_a_receipt_is_written_the_same(payload in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(receipt) = ReceiptBody::parse(&payload) {
            prop_assert_eq!(&receipt.to_bytes()[..], &payload[..]);
        }
    }
}

#[test]
fn another_version_outcome_length_or_a_set_reserved_byte_is_no_receipt() {
    let receipt = ReceiptBody {
        outcome: ReceiptOutcome::Acknowledged,
        message_id: MessageId([7; 16]),
        envelope_sha256: [8; 32],
        at_ms: 9,
    };
    let bytes = receipt.to_bytes();
    for at in 0..8 {
        for value in 0..=255 {
            let mut changed = bytes;
            changed[at] = value;
            let is_delivered = (at, value) == (1, ReceiptOutcome::Delivered as u8);
            let is_one = value == bytes[at] || is_delivered;
            assert_eq!(ReceiptBody::parse(&changed).is_some(), is_one, "byte {at} set to {value}");
        }
    }
    assert_eq!(ReceiptBody::parse(&bytes[..63]), None);
    assert_eq!(ReceiptBody::parse(&[&bytes[..], &[0]].concat()), None);
}
