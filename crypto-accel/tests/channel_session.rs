//! Sessions of channels: who was let in when, and what that opens.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::collections::BTreeSet;

use creto_crypto_accel::Backend;
use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::seal::MessageKey;
use creto_crypto_accel::session::{
    CHANNEL_SESSION_MESSAGES_MAX, ChannelEnds, ChannelKey, ChannelReceiveChain, ChannelSendChain, ChannelSessionError,
    SendChain, SessionStateError,
};
use proptest::prelude::*;

const ENDS: ChannelEnds = ChannelEnds { channel: [3; 16], publisher: [4; 16] };
const SECRET: [u8; 32] = *b"a channel's session begins here.";

fn begun() -> ChannelSendChain {
    ChannelSendChain::new(ENDS, &SECRET)
}

/// What a key makes of nothing: its tag, which no other key makes.
fn tag(key: MessageKey) -> [u8; 16] {
    key.seal_in_place(&[0; 12], b"", &mut [])
}

fn tags(chain: &mut ChannelSendChain, count: u64) -> Vec<[u8; 16]> {
    (0..count).map(|_| tag(chain.next().unwrap().1)).collect()
}

/// HMAC-SHA256 written out (RFC 2104).
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let inner = sha256(&[[block.map(|b| b ^ 0x36).as_slice()].as_slice(), parts].concat());
    sha256(&[&block.map(|b| b ^ 0x5c), &inner])
}

#[test]
fn ids_and_keys_are_those_of_the_page_by_both_backends() {
    let id = sha256(&[b"creto/channel-session-id/v1", &ENDS.channel, &ENDS.publisher, &SECRET]);
    // HKDF with the empty salt (RFC 5869), one block, then the steps of a session.
    let pseudorandom = hmac(&[0; 32], &[&SECRET]);
    let label = b"creto/channel-session/v1\0";
    let mut chain = hmac(&pseudorandom, &[label, &id[..16], &ENDS.channel, &ENDS.publisher, &[1]]);
    let mut expected = Vec::new();
    for _ in 0..20 {
        let next = hmac(&chain, &[b"creto/session-step/v1", &[1]]);
        let key = hmac(&chain, &[&next, b"creto/session-step/v1", &[2]]);
        expected.push(tag(MessageKey::from_bytes(Backend::Portable, key.into())));
        chain = next;
    }
    for backend in Backend::ALL {
        let mut send = ChannelSendChain::with_backend(backend, ENDS, &SECRET);
        assert_eq!(send.session_id(), id[..16]);
        assert_eq!(tags(&mut send, 20), expected, "{backend:?}");
    }
    // Another channel, another publisher, another secret: nothing in common.
    for (ends, secret) in [
        (ChannelEnds { channel: [5; 16], ..ENDS }, SECRET),
        (ChannelEnds { publisher: [5; 16], ..ENDS }, SECRET),
        (ENDS, [5; 32]),
    ] {
        let mut other = ChannelSendChain::new(ends, &secret);
        assert_ne!(other.session_id(), id[..16]);
        assert!(tags(&mut other, 20).iter().all(|tag| !expected.contains(tag)));
    }
}

#[test]
fn who_is_let_in_later_opens_what_comes_and_nothing_before() {
    let mut send = begun();
    let mut from_the_first = ChannelReceiveChain::new(send.key());
    let mut all = tags(&mut send, 40);
    let mut later = ChannelReceiveChain::new(send.key());
    all.extend(tags(&mut send, 40));
    for (counter, expected) in (0..).zip(&all) {
        assert_eq!(tag(from_the_first.key(counter).unwrap()), *expected);
        match later.key(counter) {
            Ok(key) => assert!(counter >= 40 && tag(key) == *expected),
            Err(error) => assert_eq!(error, ChannelSessionError::Earlier { counter, first: 40 }),
        }
    }
    assert_eq!((later.ends(), later.session_id()), (ENDS, send.session_id()));
}

#[test]
fn a_key_further_on_opens_what_lies_behind_it_and_nothing_before() {
    let mut send = begun();
    let first = send.key();
    let all = tags(&mut send, 60);
    let later = first.at(40).unwrap();
    assert_eq!((later.counter(), later.session_id(), later.ends()), (40, send.session_id(), ENDS));
    let mut reads = ChannelReceiveChain::new(later);
    assert!(reads.key(39).is_err());
    for (counter, expected) in (40..).zip(&all[40..]) {
        assert_eq!(tag(reads.key(counter).unwrap()), *expected);
    }
    assert_eq!(first.at(0).unwrap().to_bytes()[..], first.to_bytes()[..]);
    let last = first.at(CHANNEL_SESSION_MESSAGES_MAX - 1).unwrap();
    assert!(
        last.at(5).is_none() && first.at(CHANNEL_SESSION_MESSAGES_MAX).is_none(),
        "a key that opens nothing is none"
    );
}

#[test]
fn a_publisher_that_starts_again_uses_no_key_twice() {
    let mut send = begun();
    let mut seen: BTreeSet<_> = tags(&mut send, 10).into_iter().collect();
    // It stores the end of a range, uses half of it, and dies.
    let stored = send.at(30).unwrap().to_bytes();
    seen.extend(tags(&mut send, 10));
    let mut again = ChannelSendChain::from_bytes(&stored).unwrap();
    assert_eq!((again.counter(), again.session_id()), (30, send.session_id()));
    let after = tags(&mut again, 50);
    assert!(after.iter().all(|tag| seen.insert(*tag)), "a key was used twice");
    let mut reads = ChannelReceiveChain::new(begun().key());
    for (counter, expected) in (30..).zip(after) {
        assert_eq!(tag(reads.key(counter).unwrap()), expected);
    }
    assert!(send.at(19).is_none() && send.at(CHANNEL_SESSION_MESSAGES_MAX + 1).is_none());
}

#[test]
fn a_session_ends_and_gives_no_key_after_that() {
    let last = CHANNEL_SESSION_MESSAGES_MAX - 1;
    let mut send = begun().at(last).unwrap();
    let key = send.key();
    let (counter, sealed) = send.next().unwrap();
    assert_eq!(counter, last);
    assert!(send.next().is_none());
    let mut reads = ChannelReceiveChain::new(ChannelKey::from_bytes(&key.to_bytes()).unwrap());
    assert_eq!(tag(reads.key(last).unwrap()), tag(sealed));
    assert_eq!(reads.key(last + 1).unwrap_err(), ChannelSessionError::BeyondEnd);
    assert_eq!(reads.key(u64::MAX).unwrap_err(), ChannelSessionError::BeyondEnd);
    // A publisher may be at the end; a key there would open nothing.
    assert!(ChannelSendChain::from_bytes(&send.to_bytes()).unwrap().next().is_none());
    assert_eq!(ChannelKey::from_bytes(&send.key().to_bytes()).unwrap_err(), SessionStateError::Content);
}

#[test]
fn a_key_is_read_from_the_bytes_it_was_written_as_and_from_no_others() {
    let mut send = begun();
    tags(&mut send, 7);
    let key = send.key();
    let bytes = key.to_bytes();
    let parsed = ChannelKey::from_bytes(&bytes).unwrap();
    assert_eq!((parsed.ends(), parsed.session_id(), parsed.counter()), (ENDS, send.session_id(), 7));
    assert_eq!(ChannelReceiveChain::new(parsed).to_bytes(), bytes);
    for cut in 0..bytes.len() {
        assert!(ChannelKey::from_bytes(&bytes[..cut]).is_err(), "{cut}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            assert!(ChannelKey::from_bytes(&other).is_err(), "byte {at} bit {bit}");
        }
    }
    // Of another kind.
    assert_eq!(ChannelKey::from_bytes(&send.to_bytes()).unwrap_err(), SessionStateError::Content);
    assert_eq!(ChannelSendChain::from_bytes(&bytes).unwrap_err(), SessionStateError::Content);
    assert!(SendChain::from_bytes(&bytes).is_err());
}

proptest! {
    #[test]
    fn messages_open_in_any_order_and_again(
        first in 0_u64..50,
        asked in prop::collection::vec(0_u64..300, 1..60),
    ) {
        let mut send = begun();
        let expected = tags(&mut begun(), 300);
        tags(&mut send, first);
        let mut reads = ChannelReceiveChain::new(send.key());
        for counter in asked {
            match reads.key(counter) {
                Ok(key) => {
                    prop_assert!(counter >= first);
                    prop_assert_eq!(tag(key), expected[usize::try_from(counter).unwrap()]);
                }
                Err(error) => prop_assert_eq!(error, ChannelSessionError::Earlier { counter, first }),
            }
        }
    }
}
