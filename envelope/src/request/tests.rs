use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_written(deadline_ms: u64, body in prop::collection::vec(any::<u8>(), 0..100)) {
        let request = RequestPayload { deadline_ms, body: &body };
        let payload = request.to_bytes();
        prop_assert_eq!(RequestPayload::parse(&payload), Ok(Some(request)));
    }

    #[test]
    fn an_answer_comes_back_as_it_was_written(body in prop::collection::vec(any::<u8>(), 0..100)) {
        let answer = ResponsePayload::Answered(&body);
        let payload = answer.to_bytes();
        prop_assert_eq!(ResponsePayload::parse(&payload), Ok(Some(answer)));
    }

    /// Whatever is read is written the same, so one payload has one meaning and one meaning one payload.
    #[test]
    fn what_is_read_is_written_the_same(
        of_request: bool,
        start in prop::collection::vec(0u8..3, 0..14),
        text in ".{0,20}",
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let magic = if of_request { &b"\xffRQ\x01"[..] } else { b"\xffRS\x01" };
        for end in [text.as_bytes(), &rest] {
            let payload = [magic, &start, end].concat();
            if let Ok(Some(request)) = RequestPayload::parse(&payload) {
                prop_assert_eq!(&request.to_bytes(), &payload);
            }
            if let Ok(Some(response)) = ResponsePayload::parse(&payload) {
                prop_assert_eq!(&response.to_bytes(), &payload);
            }
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_page() {
    let request = RequestPayload { deadline_ms: 0x0102_0304_0506_0708, body: b"hi" };
    assert_eq!(request.to_bytes(), *b"\xffRQ\x01\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01hi");
    assert_eq!(ResponsePayload::Answered(b"hi").to_bytes(), *b"\xffRS\x01\x01\0\0\0hi");
    let failure = ResponsePayload::Failed { code: 0x0a0b_0c0d, text: "no" };
    assert_eq!(failure.to_bytes(), *b"\xffRS\x01\x02\0\0\0\x0d\x0c\x0b\x0ano");
    assert_eq!((REQUEST_BODY_BYTES_MAX, ANSWER_BODY_BYTES_MAX), (1_048_560, 1_048_568));
}

#[test]
fn another_version_a_set_reserved_byte_or_an_unknown_outcome_is_malformed_and_other_magic_is_the_applications() {
    let request = RequestPayload { deadline_ms: 7, body: b"" }.to_bytes();
    let answer = ResponsePayload::Answered(b"").to_bytes();
    let check = |bytes: &[u8], at: usize, value: u8, parse: &dyn Fn(&[u8]) -> Result<bool, Malformed>| {
        let mut changed = bytes.to_vec();
        changed[at] = value;
        let expect = match at {
            _ if value == bytes[at] => Ok(true),
            0..3 => Ok(false),
            _ => Err(Malformed),
        };
        assert_eq!(parse(&changed), expect, "byte {at} set to {value}");
    };
    for at in 0..8 {
        for value in 0..=255 {
            check(&request, at, value, &|bytes| RequestPayload::parse(bytes).map(|parsed| parsed.is_some()));
            check(&answer, at, value, &|bytes| ResponsePayload::parse(bytes).map(|parsed| parsed.is_some()));
        }
    }
    for bytes in 3..REQUEST_HEADER_BYTES {
        assert_eq!(RequestPayload::parse(&request[..bytes]), Err(Malformed));
    }
    for bytes in 3..ANSWER_HEADER_BYTES {
        assert_eq!(ResponsePayload::parse(&answer[..bytes]), Err(Malformed));
    }
    for plain in [&b""[..], b"\xffR", b"ping", b"CRQ\x01"] {
        assert_eq!((RequestPayload::parse(plain), ResponsePayload::parse(plain)), (Ok(None), Ok(None)));
    }
}

#[test]
fn the_text_of_a_failure_is_cut_between_characters_when_it_is_written_and_refused_when_it_is_longer_or_no_text() {
    let long = "é".repeat(FAILURE_TEXT_BYTES_MAX);
    let bytes = ResponsePayload::Failed { code: 1, text: &long[..] }.to_bytes();
    assert_eq!(bytes.len(), FAILURE_HEADER_BYTES + FAILURE_TEXT_BYTES_MAX);
    assert!(matches!(ResponsePayload::parse(&bytes), Ok(Some(ResponsePayload::Failed { code: 1, .. }))));
    let odd = format!("x{long}");
    let bytes = ResponsePayload::Failed { code: 1, text: &odd[..] }.to_bytes();
    assert_eq!(bytes.len(), FAILURE_HEADER_BYTES + FAILURE_TEXT_BYTES_MAX - 1);
    let longer = [&bytes[..], b"ab"].concat();
    assert_eq!(ResponsePayload::parse(&longer), Err(Malformed));
    assert_eq!(ResponsePayload::parse(b"\xffRS\x01\x02\0\0\0\x01\0\0\0\xff"), Err(Malformed));
    assert_eq!(ResponsePayload::parse(b"\xffRS\x01\x02\0\0\0\x01\0\0"), Err(Malformed));
}
