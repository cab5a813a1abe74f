use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::keys::{NONCE_BYTES, TAG_BYTES};
use crate::seal::{MessageKey, RecipientKey, RecipientSecret};

mod model;

const HEADER: [u8; 160] = [0x42; 160];

fn nonce(counter: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn peers(secret: &RecipientSecret) -> Peers {
    Peers { sender: [1; 16], recipient: [2; 16], key_id: secret.key_id() }
}

/// Both ends of a fresh session.
fn session(sender: Backend, recipient: Backend) -> (SendChain, ReceiveChain) {
    let secret = RecipientSecret::with_backend(recipient, &[3; 32]);
    let key = RecipientKey::with_backend(sender, secret.public()).unwrap();
    let (send, wrapped_key) = SendChain::open(&key, &peers(&secret));
    let receive = ReceiveChain::accept(&secret, &peers(&secret), &send.session_id(), &wrapped_key).unwrap();
    (send, receive)
}

fn local() -> (SendChain, ReceiveChain) {
    session(Backend::AwsLc, Backend::AwsLc)
}

/// Both ends of a session that is the same every time and costs no encapsulation.
fn known_session() -> (SendChain, ReceiveChain) {
    let secret = SharedSecret::known(Backend::AwsLc, [7; 32]);
    let peers = Peers { sender: [1; 16], recipient: [2; 16], key_id: [3; 16] };
    let chain = first_chain_key(&secret, &[4; 16], &peers);
    let head = |kind: u8| [&[1, kind, 0, 0, 0, 0, 0, 0][..], &[4; 16], &[0; 8], chain.as_slice()].concat();
    let send = SendChain::from_bytes(&with_checksum(&head(1))).unwrap();
    (send, ReceiveChain::from_bytes(&with_checksum(&head(2))).unwrap())
}

fn seal(key: MessageKey, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    key.seal_append(&nonce(counter), &HEADER, plaintext, &mut sealed);
    sealed
}

/// The next message of a session; its plaintext is its counter.
fn send_next(chain: &mut SendChain) -> (u64, Vec<u8>) {
    let (counter, key) = chain.next().expect("the session is not full");
    (counter, seal(key, counter, &counter.to_le_bytes()))
}

fn open(chain: &mut ReceiveChain, counter: u64, sealed: &[u8]) -> Result<Vec<u8>, SessionError> {
    chain.open(counter, &nonce(counter), &HEADER, sealed)
}

const NOT_AUTHENTIC: SessionError = SessionError::Open(OpenError::NotAuthentic);

/// HMAC-SHA256 written out (RFC 2104), so that no backend's HKDF is its own witness.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let inner = sha256(&[[block.map(|b| b ^ 0x36).as_slice()].as_slice(), parts].concat());
    sha256(&[&block.map(|b| b ^ 0x5c), &inner])
}

/// Chain key c + 1 and message key c from chain key c (RFC 5869 section 2.3, two blocks).
fn oracle_step(chain: &[u8; 32]) -> ([u8; 32], [u8; 32]) {
    let first = hmac(chain, &[b"creto/session-step/v1", &[1]]);
    let second = hmac(chain, &[&first, b"creto/session-step/v1", &[2]]);
    (first, second)
}

/// The same by aws-lc's HKDF.
fn aws_lc_step(chain: &[u8; 32]) -> ([u8; 32], [u8; 32]) {
    use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
    struct Bytes64;
    impl KeyType for Bytes64 {
        fn len(&self) -> usize {
            64
        }
    }
    let mut okm = [0; 64];
    let prk = Prk::new_less_safe(HKDF_SHA256, chain);
    prk.expand(&[b"creto/session-step/v1"], Bytes64).unwrap().fill(&mut okm).unwrap();
    (okm[..32].try_into().unwrap(), okm[32..].try_into().unwrap())
}

#[test]
fn keys_are_those_of_an_independent_computation() {
    let known: Value = serde_json::from_str(include_str!("../../vectors/session-chain.json")).unwrap();
    let bytes = |name: &str| hex::decode(known[name].as_str().unwrap()).unwrap();
    let fixed = |name: &str| <[u8; 16]>::try_from(bytes(name)).unwrap();
    let peers = Peers { sender: fixed("sender"), recipient: fixed("recipient"), key_id: fixed("key_id") };
    let session_id = peers.session_id(&bytes("wrapped_key").try_into().unwrap());
    assert_eq!(session_id, fixed("session_id"));
    for backend in Backend::ALL {
        let secret = SharedSecret::known(backend, bytes("shared_secret").try_into().unwrap());
        let mut chain = first_chain_key(&secret, &session_id, &peers);
        let mut compared = 0;
        for counter in 0..SESSION_MESSAGES_MAX {
            if let Some(expected) = known["chains"][counter.to_string()].as_str() {
                assert_eq!(hex::encode(chain.as_slice()), expected, "chain {counter}");
                compared += 1;
            }
            let oracle = oracle_step(&chain);
            assert_eq!(aws_lc_step(&chain), oracle, "step {counter} of aws-lc");
            let key = step(backend, &mut chain);
            assert_eq!((*chain, *key), oracle, "step {counter}");
            if let Some(expected) = known["message_keys"][counter.to_string()].as_str() {
                assert_eq!(hex::encode(key.as_slice()), expected, "message key {counter}");
                compared += 1;
            }
        }
        assert_eq!(compared, 14, "every known answer was compared");
    }
}

#[test]
fn what_either_backend_seals_either_opens() {
    for sender in Backend::ALL {
        for recipient in Backend::ALL {
            let (mut send, mut receive) = session(sender, recipient);
            for expected in 0..40u64 {
                let (counter, sealed) = send_next(&mut send);
                assert_eq!(counter, expected);
                assert_eq!(open(&mut receive, counter, &sealed).unwrap(), counter.to_le_bytes());
                let mut in_place = sealed.clone();
                let opened = receive.open_in_place(counter, &nonce(counter), &HEADER, &mut in_place).unwrap();
                assert_eq!(opened, counter.to_le_bytes());
                let mut appended = b"before".to_vec();
                receive.open_append(counter, &nonce(counter), &HEADER, &sealed, &mut appended).unwrap();
                assert_eq!(appended, [&b"before"[..], &counter.to_le_bytes()].concat());
                let mut changed = sealed.clone();
                changed[3] ^= 1;
                let refused = receive.open_append(counter, &nonce(counter), &HEADER, &changed, &mut appended);
                assert_eq!((refused, appended.len()), (Err(NOT_AUTHENTIC), 14));
                let again = receive.key(counter).unwrap().open(&nonce(counter), &HEADER, &sealed);
                assert_eq!(again.unwrap(), counter.to_le_bytes());
                receive.settle(counter);
            }
        }
    }
}

#[test]
fn a_session_is_accepted_by_its_recipient_for_its_peers_and_under_its_id_only() {
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let other = RecipientSecret::from_seed(&[4; 32]);
    let peers = peers(&secret);
    let (send, wrapped_key) = SendChain::open(&RecipientKey::parse(secret.public()).unwrap(), &peers);
    let id = send.session_id();
    let accept = |secret, peers: &Peers, id: &SessionId, wrapped_key: &[u8; 1120]| {
        ReceiveChain::accept(secret, peers, id, wrapped_key).map(|_| ())
    };
    assert_eq!(accept(&secret, &peers, &id, &wrapped_key), Ok(()));
    assert_eq!(accept(&other, &peers, &id, &wrapped_key), Err(SessionError::OtherKey));
    let stranger = Peers { sender: [9; 16], ..peers };
    assert_eq!(accept(&secret, &stranger, &id, &wrapped_key), Err(SessionError::SessionId));
    let elsewhere = Peers { recipient: [9; 16], ..peers };
    assert_eq!(accept(&secret, &elsewhere, &id, &wrapped_key), Err(SessionError::SessionId));
    for bit in 0..128 {
        let mut changed = id;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(accept(&secret, &peers, &changed, &wrapped_key), Err(SessionError::SessionId));
    }
    for byte in (0..1120).step_by(31) {
        let mut changed = wrapped_key;
        changed[byte] ^= 1;
        assert_eq!(accept(&secret, &peers, &id, &changed), Err(SessionError::SessionId));
    }
    // A low-order share under an id that commits to it.
    let mut weak = wrapped_key;
    weak[1088..].fill(0);
    let low_order = Err(SessionError::Open(OpenError::LowOrderShare));
    assert_eq!(accept(&secret, &peers, &peers.session_id(&weak), &weak), low_order);
}

#[test]
fn a_wrapped_key_that_was_changed_with_its_id_opens_nothing() {
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let peers = peers(&secret);
    let (mut send, mut wrapped_key) = SendChain::open(&RecipientKey::parse(secret.public()).unwrap(), &peers);
    wrapped_key[5] ^= 1;
    let forged = peers.session_id(&wrapped_key);
    let mut receive = ReceiveChain::accept(&secret, &peers, &forged, &wrapped_key).unwrap();
    let (counter, sealed) = send_next(&mut send);
    assert_eq!(open(&mut receive, counter, &sealed), Err(NOT_AUTHENTIC));
}

#[test]
fn every_session_has_keys_of_its_own() {
    let (mut first, mut second) = (local().0, local().0);
    assert_ne!(first.session_id(), second.session_id());
    assert_ne!(send_next(&mut first), send_next(&mut second));
}

#[test]
fn a_failed_open_changes_nothing() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..50).map(|_| send_next(&mut send)).collect();
    for &counter in &[0, 7, 3] {
        open(&mut receive, counter, &messages[usize::try_from(counter).unwrap()].1).unwrap();
    }
    receive.settle(3);
    let before = receive.to_bytes();
    for (counter, sealed) in &messages {
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        let expected = if *counter == 3 { SessionError::AlreadySettled } else { NOT_AUTHENTIC };
        assert_eq!(open(&mut receive, *counter, &changed), Err(expected));
        let expected = if *counter == 3 { expected } else { SessionError::Open(OpenError::TooShort) };
        assert_eq!(open(&mut receive, *counter, &sealed[..TAG_BYTES - 1]), Err(expected));
        assert!(open(&mut receive, *counter + 1, sealed).is_err(), "a message under another counter");
        assert_eq!(receive.to_bytes(), before);
    }
    assert_eq!(open(&mut receive, 4_095, &messages[9].1), Err(NOT_AUTHENTIC));
    for beyond in [4_096, 4_097, u64::MAX] {
        assert_eq!(open(&mut receive, beyond, &messages[9].1), Err(SessionError::CounterBeyondEnd));
        assert_eq!(receive.key(beyond).map(|_| ()), Err(SessionError::CounterBeyondEnd));
        receive.settle(beyond);
        assert!(!receive.is_settled(beyond));
    }
    assert_eq!(receive.to_bytes(), before);
}

#[test]
fn messages_far_ahead_that_do_not_open_cost_64_steps_each_and_leave_nothing_that_was_passed() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..200).map(|_| send_next(&mut send)).collect();
    let before = receive.to_bytes();
    let nonsense = [0; 40];
    let steps = || STEPS.with(std::cell::Cell::get);
    let first = steps();
    assert_eq!(open(&mut receive, 4_095, &nonsense), Err(NOT_AUTHENTIC));
    assert_eq!(steps() - first, 4_096);
    for counter in (0..4_096).rev().chain([4_095, 1, 2_000]) {
        let begun = steps();
        assert_eq!(open(&mut receive, counter, &nonsense), Err(NOT_AUTHENTIC));
        assert!(steps() - begun <= 64, "{} steps for {counter}", steps() - begun);
    }
    assert_eq!(receive.to_bytes(), before);
    // What was worked out ahead is right, and erased when the chain has passed it.
    for counter in [130, 5, 64, 63, 128, 199] {
        let (_, sealed) = &messages[usize::try_from(counter).unwrap()];
        assert_eq!(open(&mut receive, counter, sealed).unwrap(), counter.to_le_bytes());
        receive.remembered_ahead();
    }
    assert_eq!(receive.remembered_ahead(), (4..64).map(|slot| slot * 64).collect::<Vec<_>>());
    receive.settle(4_095);
    assert!(receive.remembered_ahead().is_empty());
}

#[test]
fn a_whole_session_in_reverse_keeps_4096_keys_and_no_more() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = std::iter::from_fn(|| send.next()).map(|(c, key)| (c, seal(key, c, b"x"))).collect();
    assert_eq!(messages.len(), 4_096);
    assert!(send.next().is_none());
    for (counter, sealed) in messages.iter().rev() {
        assert_eq!(open(&mut receive, *counter, sealed).unwrap(), b"x");
        assert_eq!(receive.kept_keys(), 4_096);
    }
    let whole = receive.to_bytes();
    assert_eq!(whole.len(), 64 + 512 + 4_096 * 32 + 16);
    assert_eq!(ReceiveChain::from_bytes(&whole).unwrap().to_bytes(), whole);
    for (settled, (counter, sealed)) in messages.iter().rev().enumerate() {
        assert!(!receive.is_finished());
        receive.settle(*counter);
        assert_eq!(receive.kept_keys(), 4_095 - settled);
        assert_eq!(open(&mut receive, *counter, sealed), Err(SessionError::AlreadySettled));
    }
    assert!(receive.is_finished());
    let done = receive.to_bytes();
    assert_eq!(done[32..64], [0; 32], "the last chain key is erased");
    assert!(ReceiveChain::from_bytes(&done).unwrap().is_finished());
}

#[test]
fn a_full_session_holds_no_key() {
    let (send, _) = local();
    let full = send.at(SESSION_MESSAGES_MAX).unwrap();
    assert_eq!(full.to_bytes()[32..64], [0; 32]);
    let mut again = SendChain::from_bytes(&full.to_bytes()).unwrap();
    assert_eq!(again.counter(), SESSION_MESSAGES_MAX);
    assert!(again.next().is_none());
}

#[test]
fn a_chain_goes_forward_only_and_not_beyond_the_end() {
    let (mut send, mut receive) = local();
    for _ in 0..5 {
        send.next();
    }
    assert!(send.at(4).is_none() && send.at(4_097).is_none() && send.at(u64::MAX).is_none());
    let mut ahead = send.at(133).unwrap();
    assert_eq!((send.counter(), ahead.counter(), ahead.session_id()), (5, 133, send.session_id()));
    let (counter, sealed) = send_next(&mut ahead);
    assert_eq!(open(&mut receive, counter, &sealed).unwrap(), 133u64.to_le_bytes());
    // The chain that stayed behind comes to the same keys.
    let (_, key) = send.at(133).unwrap().next().unwrap();
    assert_eq!(seal(key, 133, &133u64.to_le_bytes()), sealed);
}

#[test]
fn the_key_of_a_message_is_given_while_it_is_held_and_opens_it() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..3).map(|_| send_next(&mut send)).collect();
    assert_eq!(receive.kept_key(0), None, "the chain has not come to it");
    open(&mut receive, 1, &messages[1].1).unwrap();
    for counter in 0..2 {
        let key = MessageKey::from_bytes(Backend::AwsLc, Zeroizing::new(*receive.kept_key(counter).unwrap()));
        let sealed = &messages[usize::try_from(counter).unwrap()].1;
        assert_eq!(key.open(&nonce(counter), &HEADER, sealed).unwrap(), counter.to_le_bytes());
    }
    receive.settle(1);
    assert_eq!([1, 2, SESSION_MESSAGES_MAX].map(|counter| receive.kept_key(counter)), [None; 3]);
}

#[test]
fn a_message_that_never_came_can_be_settled() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..4).map(|_| send_next(&mut send)).collect();
    receive.settle(2);
    assert_eq!(receive.kept_keys(), 2);
    assert_eq!(open(&mut receive, 2, &messages[2].1), Err(SessionError::AlreadySettled));
    for counter in [3, 1, 0] {
        assert!(open(&mut receive, counter, &messages[usize::try_from(counter).unwrap()].1).is_ok());
    }
}

#[test]
fn every_changed_bit_of_a_stored_chain_is_found() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..70).map(|_| send_next(&mut send)).collect();
    for counter in [69, 1, 2] {
        open(&mut receive, counter, &messages[usize::try_from(counter).unwrap()].1).unwrap();
    }
    (0..66).for_each(|counter| receive.settle(counter));
    let (sent, received) = (send.to_bytes(), receive.to_bytes());
    assert_eq!((sent.len(), received.len()), (80, 64 + 16 + 4 * 32 + 16));
    let check = |bytes: &[u8], parse: &dyn Fn(&[u8]) -> Result<(), SessionStateError>| {
        assert_eq!(parse(bytes), Ok(()));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0 => SessionStateError::Version { found: changed[0] },
                _ => SessionStateError::Damaged,
            };
            assert_eq!(parse(&changed), Err(expected));
        }
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Err(SessionStateError::Damaged));
        }
        assert_eq!(parse(&[bytes, &[0]].concat()), Err(SessionStateError::Damaged));
    };
    check(&sent, &|bytes| SendChain::from_bytes(bytes).map(|_| ()));
    check(&received, &|bytes| ReceiveChain::from_bytes(bytes).map(|_| ()));
    // One kind is never read as the other.
    assert_eq!(SendChain::from_bytes(&received).map(|_| ()), Err(SessionStateError::Content));
    assert_eq!(ReceiveChain::from_bytes(&sent).map(|_| ()), Err(SessionStateError::Content));
}

/// `content` with the checksum that fits it.
fn with_checksum(content: &[u8]) -> Vec<u8> {
    [content, &sha256(&[content])[..16]].concat()
}

#[test]
fn a_state_that_contradicts_itself_is_refused_even_with_a_checksum() {
    let (mut send, mut receive) = local();
    let messages: Vec<_> = (0..3).map(|_| send_next(&mut send)).collect();
    messages.iter().for_each(|(counter, sealed)| drop(open(&mut receive, *counter, sealed).unwrap()));
    receive.settle(1);
    let (sent, received) = (send.to_bytes(), receive.to_bytes());
    let check = |bytes: &[u8], is_send: bool, change: &dyn Fn(&mut Vec<u8>), ok: bool| {
        let mut content = bytes[..bytes.len() - 16].to_vec();
        change(&mut content);
        let changed = with_checksum(&content);
        let read = match is_send {
            true => SendChain::from_bytes(&changed).map(|chain| chain.to_bytes()),
            false => ReceiveChain::from_bytes(&changed).map(|chain| chain.to_bytes()),
        };
        match ok {
            true => assert_eq!(read.unwrap().as_slice(), changed),
            false => assert_eq!(read, Err(SessionStateError::Content)),
        }
    };
    for (bytes, is_send) in [(&sent, true), (&received, false)] {
        check(bytes, is_send, &|_| {}, true);
        check(bytes, is_send, &|content| content[1] = 3, false);
        check(bytes, is_send, &|content| content[7] = 1, false);
        check(bytes, is_send, &|content| content[8..24].fill(0), false);
        check(bytes, is_send, &|content| content[24..32].copy_from_slice(&4_097u64.to_le_bytes()), false);
        check(bytes, is_send, &|content| content[24..32].fill(0xff), false);
        check(bytes, is_send, &|content| content[32..64].fill(0), false);
        check(bytes, is_send, &|content| content.push(0), false);
        check(bytes, is_send, &|content| content.truncate(content.len() - 1), false);
        check(bytes, is_send, &|content| content.truncate(20), false);
    }
    check(&sent, true, &|content| content[24..32].copy_from_slice(&4_096u64.to_le_bytes()), false);
    check(&sent, true, &|content| content[24..32].copy_from_slice(&9u64.to_le_bytes()), true);
    // Counter 4 is not there yet, so it cannot be settled; one more settled means one key less.
    check(&received, false, &|content| content[64] |= 1 << 4, false);
    check(&received, false, &|content| content[71] |= 0x80, false);
    check(&received, false, &|content| content[64] |= 1 << 2, false);
    check(&received, false, &|content| content[64] &= !(1 << 1), false);
    check(&received, false, &|content| content.truncate(content.len() - 32), false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// What a stored chain can be changed to by someone who knows how to make the checksum fit.
    #[test]
    fn whatever_is_read_as_a_chain_is_written_back_and_works(
        opened in prop::collection::vec(0..300u64, 0..12),
        settled in prop::collection::vec(0..300u64, 0..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()]), 0..4),
        (resize, is_send) in (prop_oneof![Just(0isize), Just(-32), Just(32), Just(8), Just(-8), -70..70isize], any::<bool>()),
    ) {
        let (send, mut receive) = known_session();
        opened.iter().for_each(|&counter| drop(receive.key(counter)));
        settled.iter().for_each(|&counter| receive.settle(counter));
        let stored = if is_send { send.at(settled.len() as u64).unwrap().to_bytes() } else { receive.to_bytes() };
        let mut content = stored[..stored.len() - 16].to_vec();
        content.resize(content.len().saturating_add_signed(resize), 0);
        for (at, value) in changes {
            // Mostly where the numbers and the first settled bits are.
            let at = at.index(content.len().max(1) * 2) % 80;
            if let Some(byte) = content.get_mut(at) {
                *byte = value;
            }
        }
        let bytes = with_checksum(&content);
        if let Ok(mut chain) = SendChain::from_bytes(&bytes) {
            prop_assert_eq!(chain.to_bytes().to_vec(), bytes.clone());
            let counter = chain.counter();
            prop_assert_eq!(chain.next().map(|(next, _)| next), (counter < 4_096).then_some(counter));
            prop_assert!(chain.at(4_096).is_some());
        }
        if let Ok(mut chain) = ReceiveChain::from_bytes(&bytes) {
            prop_assert_eq!(chain.to_bytes().to_vec(), bytes.clone());
            prop_assert!(chain.kept_keys() <= 4_096);
            for counter in [0, 1, 17, 63, 64, 299, 4_095] {
                prop_assert_eq!(chain.key(counter).is_err(), chain.is_settled(counter));
                chain.settle(counter);
                prop_assert!(chain.is_settled(counter));
            }
            let again = chain.to_bytes();
            prop_assert_eq!(ReceiveChain::from_bytes(&again).unwrap().to_bytes(), again);
        }
    }
}

#[test]
fn nothing_secret_is_printed() {
    let (mut send, mut receive) = local();
    let (counter, sealed) = send_next(&mut send);
    open(&mut receive, counter, &sealed).unwrap();
    let id = format!("{:?}", send.session_id());
    assert_eq!(format!("{send:?}"), format!("SendChain {{ session_id: {id}, counter: 1, .. }}"));
    assert_eq!(format!("{receive:?}"), format!("ReceiveChain {{ session_id: {id}, next: 1, kept_keys: 1, .. }}"));
}
