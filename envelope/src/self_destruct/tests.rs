#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

fn bytes(flags: u8, until_ms: u64, body: &[u8]) -> Vec<u8> {
    [&b"\xffSD\x01"[..], &[flags, 0, 0, 0], &until_ms.to_le_bytes(), body].concat()
}

#[test]
fn when_it_destroys_itself_stands_where_the_page_says() {
    for (flags, until_ms) in [(1, 0), (0, 7), (1, u64::MAX)] {
        let until = Some(until_ms).filter(|until_ms| *until_ms > 0);
        let payload = SelfDestructPayload { after_reading: flags == 1, until_ms: until, body: b"secret" };
        let mut written = Vec::new();
        payload.write(&mut written);
        assert_eq!(written, bytes(flags, until_ms, b"secret"));
        assert_eq!(SelfDestructPayload::parse(&written), Ok(Some(payload)));
        assert!(!format!("{payload:?}").contains("115"), "what is in it is not printed");
    }
}

#[test]
fn one_that_never_destroys_itself_or_breaks_a_rule_is_malformed() {
    assert_eq!(SelfDestructPayload::parse(&bytes(0, 0, b"secret")), Err(Malformed));
    assert_eq!(SelfDestructPayload::parse(b"hello"), Ok(None));
    let whole = bytes(1, 9, b"secret");
    for at in 0..whole.len() {
        for change in 1..=u8::MAX {
            let mut other = whole.clone();
            other[at] ^= change;
            if let Ok(Some(payload)) = SelfDestructPayload::parse(&other) {
                let mut written = Vec::new();
                payload.write(&mut written);
                assert_eq!(written, other, "byte {at}");
            }
        }
        if (MAGIC.len()..SELF_DESTRUCT_HEADER_BYTES).contains(&at) {
            assert_eq!(SelfDestructPayload::parse(&whole[..at]), Err(Malformed), "{at} bytes");
        }
    }
}
