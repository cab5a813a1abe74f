use proptest::prelude::*;

use super::*;

fn typed(message_type: MessageType, parent: Option<[u8; 32]>, handoff: Option<[u8; 32]>) -> TypedPayload<'static> {
    TypedPayload { message_type, blinding: [7; 32], parent, handoff, content: b"{}" }
}

proptest! {
    #[test]
    fn a_typed_message_comes_back_as_it_was_written(
        number in 1u8..=8,
        blinding: [u8; 32],
        parent: Option<[u8; 32]>,
        handoff: Option<[u8; 32]>,
        content in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let message_type = MessageType::from_u8(number).expect("all eight are known");
        let typed = TypedPayload { message_type, blinding, parent, handoff, content: &content };
        match typed.to_bytes() {
            Some(payload) => prop_assert_eq!(TypedPayload::parse(&payload), Ok(Some(typed))),
            None => prop_assert!(message_type.needs_handoff() && handoff.is_none()),
        }
    }

    /// One meaning has one encoding.
    #[test]
    fn what_is_read_is_written_the_same(
        start in (0u8..3, 0u8..10, 0u8..5, 0u8..2),
        hashes in prop::collection::vec(0u8..2, 96..110),
    ) {
        let payload = [b"\xffTH", &[start.0, start.1, start.2, start.3, 0][..], &hashes].concat();
        if let Ok(Some(typed)) = TypedPayload::parse(&payload) {
            prop_assert_eq!(typed.to_bytes(), Some(payload));
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_page() {
    let bytes = typed(MessageType::StatusUpdate, Some([1; 32]), None).to_bytes().expect("it hands nothing over");
    assert_eq!(bytes[..8], *b"\xffTH\x01\x04\x01\0\0");
    assert_eq!((&bytes[8..40], &bytes[40..72], &bytes[72..104]), (&[7; 32][..], &[1; 32][..], &[0; 32][..]));
    assert_eq!(&bytes[104..], b"{}");
}

#[test]
fn every_byte_of_the_header_that_is_fixed_is_checked() {
    let bytes = typed(MessageType::HandoffRequest, None, Some([2; 32])).to_bytes().expect("it says what it hands over");
    for at in 0..8 {
        for value in 0..=255 {
            let mut changed = bytes.clone();
            changed[at] = value;
            let parsed = TypedPayload::parse(&changed);
            match at {
                0..=2 => assert_eq!(parsed.is_ok_and(|parsed| parsed.is_some()), value == bytes[at]),
                // The type may be any of the eight, and a parent may be named: it is the zero hash then.
                4 => assert_eq!(parsed.is_ok(), (1..=8).contains(&value)),
                5 => assert_eq!(parsed.is_ok(), value == 2 || value == 3, "{value}"),
                _ => assert_eq!(parsed.is_ok(), value == bytes[at], "byte {at} set to {value}"),
            }
        }
    }
    let mut changed = bytes.clone();
    changed[40] = 1;
    assert_eq!(TypedPayload::parse(&changed), Err(Malformed), "a parent that no flag names");
    for length in 3..TYPED_HEADER_BYTES {
        assert_eq!(TypedPayload::parse(&bytes[..length]), Err(Malformed));
    }
    assert_eq!(TypedPayload::parse(b"\xffT"), Ok(None));
    assert_eq!(typed(MessageType::HandoffApproval, None, None).to_bytes(), None);
}
