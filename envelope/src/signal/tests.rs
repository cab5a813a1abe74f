#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

const ABOUT: MessageId = MessageId([7; 16]);

fn bytes(state: u8, about: [u8; 16], note: &[u8]) -> Vec<u8> {
    [&b"\xffWK\x01"[..], &[state, 0, 0, 0], &about, note].concat()
}

#[test]
fn what_an_agent_does_stands_where_the_page_says() {
    for (number, state) in (1..).zip([WorkState::Working, WorkState::Waiting, WorkState::Idle]) {
        for (id, about) in [([0; 16], None), (ABOUT.0, Some(ABOUT))] {
            let working = Working { state, about, note: "step 2 of 3".to_owned() };
            assert_eq!(working.to_bytes(), bytes(number, id, b"step 2 of 3"));
            assert_eq!(Working::parse(&working.to_bytes()), Ok(Some(working)));
        }
    }
}

#[test]
fn every_changed_byte_of_it_is_refused_or_shows() {
    let whole = bytes(1, ABOUT.0, b"note");
    for at in 0..whole.len() {
        for change in 1..=u8::MAX {
            let mut other = whole.clone();
            other[at] ^= change;
            if let Ok(Some(working)) = Working::parse(&other) {
                assert_eq!(working.to_bytes(), other, "byte {at}");
            }
        }
        if at < WORKING_HEADER_BYTES {
            let expect = if at < WORKING_MAGIC.len() { Ok(None) } else { Err(Malformed) };
            assert_eq!(Working::parse(&whole[..at]), expect, "{at} bytes");
        }
    }
    assert_eq!(Working::parse("working".as_bytes()), Ok(None), "the application's own");
}

#[test]
fn a_note_is_cut_between_characters_and_a_longer_one_is_refused() {
    let long = "\u{e9}".repeat(WORKING_NOTE_BYTES_MAX);
    let working = Working { state: WorkState::Idle, about: None, note: format!("a{long}") };
    let parsed = Working::parse(&working.to_bytes()).unwrap().unwrap();
    assert_eq!(parsed.note.len(), WORKING_NOTE_BYTES_MAX - 1);
    assert_eq!(Working::parse(&bytes(3, [0; 16], &[b'a'; WORKING_NOTE_BYTES_MAX + 1])), Err(Malformed));
    assert_eq!(Working::parse(&bytes(3, [0; 16], &[0xff])), Err(Malformed));
}

#[test]
fn credit_is_one_number_and_zeros() {
    let mut out = Vec::new();
    SignalCredit { signals: 258 }.encode(&mut out);
    assert_eq!(out, [8, 0, 0, 0, 0x37, 1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(SignalCredit::parse(&out[8..]), Ok(SignalCredit { signals: 258 }));
    assert_eq!(SignalCredit::parse(&out[8..15]), Err(RejectCode::FrameLength));
    assert_eq!(SignalCredit::parse(&[0, 0, 0, 0, 1, 0, 0, 0]), Err(RejectCode::FrameReserved));
}
