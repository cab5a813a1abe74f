//! What is written is what is read, and nothing malformed is read at all.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use creto_envelope::batch::{BatchView, encode_signed_batch, parse_submit_sequence};
use creto_envelope::envelope::{
    ENVELOPE_HEADER_BYTES, FLAG_DELIVERED_WANTED, FLAG_EPHEMERAL, FLAG_NOTICE_WANTED, FLAG_PREKEY, FLAG_RECEIPT_WANTED,
    nonce,
};
use creto_envelope::limits::{
    AEAD_TAG_BYTES, PAYLOAD_PLAINTEXT_BYTES_MAX, SESSION_MESSAGES_MAX, SIGNAL_PLAINTEXT_BYTES_MAX, WRAPPED_KEY_BYTES,
};
use creto_envelope::{
    AgentId, ChannelId, EnvelopeHeader, EnvelopeView, FrameHeader, FrameType, InSession, KeyId, Kind, MessageId,
    RejectCode, Suite,
};
use proptest::prelude::*;
use sample::{aligned, batch_header, envelope, published_envelope, session_envelope};

#[track_caller]
fn check_rejected(change: impl FnOnce(&mut Vec<u8>), expect: RejectCode) {
    let mut bytes = envelope(32);
    change(&mut bytes);
    assert_eq!(EnvelopeView::parse(&aligned(&bytes)).map(|_| ()), Err(expect));
}

#[test]
fn a_sealed_envelope_is_viewed_as_it_was_written() {
    let bytes = aligned(&envelope(100));
    let view = EnvelopeView::parse(&bytes).unwrap();
    assert_eq!(view.sender(), AgentId([1; 16]));
    assert_eq!(view.recipient(), AgentId([2; 16]));
    assert_eq!(view.key_id(), KeyId([3; 16]));
    assert_eq!(view.payload().len(), 100 + AEAD_TAG_BYTES);
    assert_eq!(view.message_id().unix_ms(), 1_700_000_000_000);
    assert_eq!(view.header().timestamp_ms, 1_700_000_000_001);
}

#[test]
fn a_session_envelope_is_viewed_as_it_was_written() {
    for (counter, with_wrapped_key) in [(0, true), (0, false), (4_095, true), (4_095, false)] {
        let bytes = aligned(&session_envelope(100, counter, with_wrapped_key));
        let view = EnvelopeView::parse(&bytes).unwrap();
        assert_eq!((view.suite(), view.session_id(), view.counter()), (Suite::Session, [6; 16], counter));
        assert_eq!(view.header().nonce, nonce(counter));
        assert_eq!(
            view.wrapped_key().map(|key| key[..] == [0xab; WRAPPED_KEY_BYTES]),
            with_wrapped_key.then_some(true)
        );
        assert_eq!(view.payload().len(), 100 + AEAD_TAG_BYTES);
        let wrapped_key_bytes = if with_wrapped_key { WRAPPED_KEY_BYTES } else { 0 };
        assert_eq!(bytes.len(), ENVELOPE_HEADER_BYTES + wrapped_key_bytes + 100 + AEAD_TAG_BYTES);
    }
    let sealed = aligned(&envelope(100));
    let sealed = EnvelopeView::parse(&sealed).unwrap();
    assert_eq!((sealed.suite(), sealed.session_id(), sealed.counter()), (Suite::Sealed, [0; 16], 0));
    assert!(sealed.wrapped_key().is_some());
}

#[test]
fn what_is_published_has_a_suite_and_a_kind_of_its_own() {
    for counter in [0, 65_535] {
        let bytes = aligned(&published_envelope(100, counter));
        let view = EnvelopeView::parse(&bytes).unwrap();
        assert_eq!((view.suite(), view.kind(), view.counter()), (Suite::Channel, Kind::Channel, counter));
        assert_eq!((view.channel(), view.recipient()), (ChannelId([2; 16]), AgentId([2; 16])));
        assert_eq!((view.session_id(), view.wrapped_key()), ([6; 16], None));
        assert_eq!(bytes.len(), ENVELOPE_HEADER_BYTES + 100 + AEAD_TAG_BYTES);
    }
    let check = |change: &dyn Fn(&mut Vec<u8>), expect| {
        let mut bytes = published_envelope(32, 7);
        change(&mut bytes);
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).map(|_| ()), Err(expect));
    };
    for kind in (1..=7).filter(|kind| *kind != Kind::Channel as u8) {
        check(&|bytes| bytes[2] = kind, RejectCode::EnvelopeChannel);
    }
    check(&|bytes| bytes[32] ^= 1, RejectCode::EnvelopeChannel);
    check(&|bytes| bytes[48] ^= 1, RejectCode::EnvelopeChannel);
    check(&|bytes| bytes[32..64].fill(0), RejectCode::EnvelopeChannel);
    check(&|bytes| bytes[112] = 1, RejectCode::EnvelopeChannel);
    check(&|bytes| bytes[128..144].fill(0), RejectCode::UnknownSession);
    for flags in 1..32 {
        check(&|bytes| bytes[4] = flags, RejectCode::EnvelopeReserved);
    }
    let to_65536 = |bytes: &mut Vec<u8>| {
        bytes[104..112].copy_from_slice(&65_536u64.to_le_bytes());
        bytes[144..156].copy_from_slice(&nonce(65_536));
    };
    check(&to_65536, RejectCode::SessionCounter);
    check(&|bytes| bytes[6..8].copy_from_slice(&1_120u16.to_le_bytes()), RejectCode::EnvelopeLength);
    // And no message of another suite is one of a channel.
    for other in [envelope(32), session_envelope(32, 7, true), session_envelope(32, 7, false)] {
        let mut bytes = other;
        bytes[2] = Kind::Channel as u8;
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).map(|_| ()), Err(RejectCode::EnvelopeChannel));
    }
}

#[test]
fn the_session_suite_has_rules_of_its_own() {
    let check = |counter, with_wrapped_key, change: &dyn Fn(&mut Vec<u8>), expect| {
        let mut bytes = session_envelope(32, counter, with_wrapped_key);
        change(&mut bytes);
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).map(|_| ()), expect);
    };
    for with_wrapped_key in [false, true] {
        check(7, with_wrapped_key, &|_| {}, Ok(()));
        // Counter and nonce belong together, whichever of them is wrong.
        check(7, with_wrapped_key, &|bytes| bytes[104] = 8, Err(RejectCode::EnvelopeNonce));
        check(7, with_wrapped_key, &|bytes| bytes[148] = 8, Err(RejectCode::EnvelopeNonce));
        check(7, with_wrapped_key, &|bytes| bytes[144] = 1, Err(RejectCode::EnvelopeNonce));
        let to_4096 = |bytes: &mut Vec<u8>| {
            bytes[104..112].copy_from_slice(&4_096u64.to_le_bytes());
            bytes[144..156].copy_from_slice(&nonce(4_096));
        };
        check(4_095, with_wrapped_key, &to_4096, Err(RejectCode::SessionCounter));
        check(0, with_wrapped_key, &|bytes| bytes[111] = 0x80, Err(RejectCode::SessionCounter));
        check(7, with_wrapped_key, &|bytes| bytes[128..144].fill(0), Err(RejectCode::UnknownSession));
        check(7, with_wrapped_key, &|bytes| bytes[6] ^= 1, Err(RejectCode::EnvelopeLength));
        check(7, with_wrapped_key, &|bytes| bytes[7] ^= 1, Err(RejectCode::EnvelopeLength));
        check(7, with_wrapped_key, &|bytes| bytes.truncate(bytes.len() - 1), Err(RejectCode::EnvelopeTruncated));
        check(7, with_wrapped_key, &|bytes| bytes.push(0), Err(RejectCode::EnvelopeLength));
        // A message of a session is none of the sealed suite.
        let sealed = if with_wrapped_key { RejectCode::EnvelopeNonce } else { RejectCode::EnvelopeLength };
        check(7, with_wrapped_key, &|bytes| bytes[1] = 1, Err(sealed));
    }
    check(0, true, &|bytes| bytes[1] = 1, Err(RejectCode::EnvelopeReserved));
    check_rejected(|bytes| bytes[1] = 2, RejectCode::UnknownSession);
    check_rejected(|bytes| bytes[128] = 1, RejectCode::EnvelopeReserved);
}

#[test]
fn a_session_header_is_made_within_the_rules_only() {
    let id = MessageId::from_parts(1, [0; 10]);
    let make = |session_id, counter, bytes| {
        let position = InSession { session_id, counter, with_wrapped_key: false };
        EnvelopeHeader::session(AgentId::ZERO, AgentId::ZERO, KeyId::ZERO, id, 0, bytes, &position).map(|_| ())
    };
    assert_eq!(make([1; 16], SESSION_MESSAGES_MAX - 1, PAYLOAD_PLAINTEXT_BYTES_MAX), Ok(()));
    assert_eq!(make([1; 16], SESSION_MESSAGES_MAX, 0), Err(RejectCode::SessionCounter));
    assert_eq!(make([0; 16], 0, 0), Err(RejectCode::UnknownSession));
    assert_eq!(make([1; 16], 0, PAYLOAD_PLAINTEXT_BYTES_MAX + 1), Err(RejectCode::EnvelopeOversized));
}

#[test]
fn a_receipt_may_be_asked_for_by_everything_but_a_receipt() {
    for kind in (1..=7).filter(|kind| *kind != Kind::Channel as u8) {
        let mut bytes = envelope(100);
        (bytes[2], bytes[4]) = (kind, FLAG_RECEIPT_WANTED);
        let bytes = aligned(&bytes);
        let asks = EnvelopeView::parse(&bytes).map(|view| view.wants_receipt());
        let expect = if kind == Kind::Receipt as u8 { Err(RejectCode::EnvelopeReserved) } else { Ok(true) };
        assert_eq!(asks, expect, "kind {kind}");
    }
    assert!(!EnvelopeView::parse(&aligned(&envelope(100))).unwrap().wants_receipt());
}

#[test]
fn both_receipts_may_be_asked_for_alone_or_together() {
    for kind in (1..=7).filter(|kind| *kind != Kind::Channel as u8) {
        for others in [0, FLAG_RECEIPT_WANTED, FLAG_NOTICE_WANTED] {
            let mut bytes = envelope(100);
            (bytes[2], bytes[4]) = (kind, FLAG_DELIVERED_WANTED | others);
            let asks = EnvelopeView::parse(&aligned(&bytes)).map(|view| (view.wants_delivered(), view.wants_receipt()));
            let expected = Ok((true, others == FLAG_RECEIPT_WANTED));
            let expect = if kind == Kind::Receipt as u8 { Err(RejectCode::EnvelopeReserved) } else { expected };
            assert_eq!(asks, expect, "kind {kind}, flags {others}");
        }
    }
    assert!(!EnvelopeView::parse(&aligned(&envelope(100))).unwrap().wants_delivered());
}

#[test]
fn a_signal_is_a_direct_message_of_the_sealed_suite_that_asks_for_nothing() {
    let mut sealed = envelope(100);
    (sealed[4], sealed[12]) = (FLAG_EPHEMERAL, 60);
    assert_eq!(EnvelopeView::parse(&aligned(&sealed)).unwrap().signal_until_ms(), Some(1_700_000_060_001));
    for kind in (2..=7).filter(|kind| *kind != Kind::Channel as u8) {
        let mut bytes = sealed.clone();
        bytes[2] = kind;
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).err(), Some(RejectCode::EnvelopeReserved), "kind {kind}");
    }
    for flags in (0..=u8::MAX).filter(|flags| flags & FLAG_EPHEMERAL != 0 && *flags != FLAG_EPHEMERAL) {
        let mut bytes = sealed.clone();
        bytes[4] = flags;
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).err(), Some(RejectCode::EnvelopeReserved), "flags {flags}");
    }
    for with_wrapped_key in [false, true] {
        let mut bytes = session_envelope(100, 7, with_wrapped_key);
        (bytes[4], bytes[12]) = (FLAG_EPHEMERAL, 60);
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).err(), Some(RejectCode::EnvelopeReserved));
    }
    let mut published = published_envelope(100, 7);
    (published[4], published[12]) = (FLAG_EPHEMERAL, 60);
    assert_eq!(EnvelopeView::parse(&aligned(&published)).err(), Some(RejectCode::EnvelopeReserved));
}

#[test]
fn a_signal_is_short_lived_and_small() {
    let check = |plaintext_bytes: usize, ttl_s: u32, expect: Option<RejectCode>| {
        let mut bytes = envelope(plaintext_bytes);
        bytes[4] = FLAG_EPHEMERAL;
        bytes[12..16].copy_from_slice(&ttl_s.to_le_bytes());
        assert_eq!(EnvelopeView::parse(&aligned(&bytes)).err(), expect, "{plaintext_bytes} bytes, {ttl_s} s");
    };
    for (ttl_s, expect) in
        [(0, Some(RejectCode::EnvelopeSignal)), (1, None), (60, None), (61, Some(RejectCode::EnvelopeSignal))]
    {
        check(5, ttl_s, expect);
    }
    check(5, u32::MAX, Some(RejectCode::EnvelopeSignal));
    check(SIGNAL_PLAINTEXT_BYTES_MAX, 60, None);
    check(SIGNAL_PLAINTEXT_BYTES_MAX + 1, 60, Some(RejectCode::EnvelopeSignal));
}

#[test]
fn a_prekey_opens_sessions_of_any_kind_and_nothing_of_the_sealed_suite() {
    for kind in (1..=7).filter(|kind| *kind != Kind::Channel as u8) {
        for others in [0, FLAG_RECEIPT_WANTED | FLAG_NOTICE_WANTED] {
            for with_wrapped_key in [false, true] {
                let mut bytes = session_envelope(100, 7, with_wrapped_key);
                (bytes[2], bytes[4]) = (kind, FLAG_PREKEY | others);
                let is = EnvelopeView::parse(&aligned(&bytes)).map(|view| (view.is_to_prekey(), view.wants_receipt()));
                let is_refused = kind == Kind::Receipt as u8 && others != 0;
                let expect = if is_refused { Err(RejectCode::EnvelopeReserved) } else { Ok((true, others != 0)) };
                assert_eq!(is, expect, "kind {kind}, flags {others}");
            }
        }
    }
    check_rejected(|bytes| bytes[4] = FLAG_PREKEY, RejectCode::EnvelopeReserved);
    assert!(!EnvelopeView::parse(&aligned(&session_envelope(100, 7, true))).unwrap().is_to_prekey());
}

#[test]
fn a_notice_may_be_asked_for_by_everything_but_a_receipt() {
    for kind in (1..=7).filter(|kind| *kind != Kind::Channel as u8) {
        for others in [0, FLAG_RECEIPT_WANTED] {
            let mut bytes = envelope(100);
            (bytes[2], bytes[4]) = (kind, FLAG_NOTICE_WANTED | others);
            let bytes = aligned(&bytes);
            let asks = EnvelopeView::parse(&bytes).map(|view| (view.wants_notice(), view.wants_receipt()));
            let expected = Ok((true, others != 0));
            let expect = if kind == Kind::Receipt as u8 { Err(RejectCode::EnvelopeReserved) } else { expected };
            assert_eq!(asks, expect, "kind {kind}");
        }
    }
    assert!(!EnvelopeView::parse(&aligned(&envelope(100))).unwrap().wants_notice());
}

#[test]
fn every_broken_rule_has_its_own_code() {
    check_rejected(|bytes| bytes[0] = 2, RejectCode::EnvelopeVersion);
    check_rejected(|bytes| bytes[1] = 0, RejectCode::EnvelopeSuite);
    check_rejected(|bytes| bytes[1] = 4, RejectCode::EnvelopeSuite);
    check_rejected(|bytes| bytes[2] = 0, RejectCode::EnvelopeKind);
    check_rejected(|bytes| bytes[3] = 4, RejectCode::EnvelopePriority);
    let asks = FLAG_RECEIPT_WANTED | FLAG_NOTICE_WANTED | FLAG_DELIVERED_WANTED;
    for flags in (0..=255).filter(|flags| flags & !asks != 0 && *flags != FLAG_EPHEMERAL) {
        check_rejected(move |bytes| bytes[4] = flags, RejectCode::EnvelopeReserved);
    }
    check_rejected(|bytes| bytes[156] = 1, RejectCode::EnvelopeReserved);
    check_rejected(|bytes| bytes[6] = 0, RejectCode::EnvelopeLength);
    check_rejected(|bytes| bytes[11] = 1, RejectCode::EnvelopeOversized);
    check_rejected(|bytes| bytes[104] = 1, RejectCode::EnvelopeNonce);
    check_rejected(|bytes| bytes[150] = 1, RejectCode::EnvelopeNonce);
    check_rejected(|bytes| bytes[70] = 0, RejectCode::EnvelopeMessageId);
    check_rejected(|bytes| bytes.truncate(ENVELOPE_HEADER_BYTES - 1), RejectCode::EnvelopeTruncated);
    check_rejected(|bytes| bytes.truncate(bytes.len() - 1), RejectCode::EnvelopeTruncated);
    check_rejected(|bytes| bytes.push(0), RejectCode::EnvelopeLength);
}

#[test]
fn a_misaligned_envelope_is_refused() {
    let mut shifted = vec![0];
    shifted.extend_from_slice(&envelope(1));
    let bytes = aligned(&shifted);
    assert_eq!(EnvelopeView::parse(&bytes[1..]).map(|_| ()), Err(RejectCode::EnvelopeMisaligned));
}

#[test]
fn a_payload_above_the_limit_gets_no_header() {
    let id = MessageId::from_parts(1, [0; 10]);
    let make = |bytes| EnvelopeHeader::sealed(AgentId::ZERO, AgentId::ZERO, KeyId::ZERO, id, 0, bytes).map(|_| ());
    assert_eq!(make(PAYLOAD_PLAINTEXT_BYTES_MAX), Ok(()));
    assert_eq!(make(PAYLOAD_PLAINTEXT_BYTES_MAX + 1), Err(RejectCode::EnvelopeOversized));
}

proptest! {
    #[test]
    fn a_batch_is_cut_where_it_was_joined(lengths in prop::collection::vec(0usize..300, 1..20), sequence: u64) {
        let envelopes: Vec<_> = lengths.iter().map(|&length| envelope(length)).collect();
        let salts: Vec<_> = (0..lengths.len()).map(|i| [i as u8; 16]).collect();
        let header = batch_header(lengths.len() as u32);
        let mut frame = Vec::new();
        encode_signed_batch(&mut frame, sequence, &header, salts.iter().zip(envelopes.iter().map(Vec::as_slice))).unwrap();
        let frame_header = FrameHeader::parse(frame[..8].try_into().unwrap()).unwrap();
        prop_assert_eq!(frame_header.frame_type, FrameType::SignedBatch);
        prop_assert_eq!(frame_header.body_bytes as usize, frame.len() - 8);
        prop_assert_eq!(parse_submit_sequence(&frame[8..]).unwrap(), sequence);
        let body = aligned(&frame[16..]);
        let mut entries = Vec::new();
        let batch = BatchView::parse(&body, &mut entries).unwrap();
        prop_assert_eq!(batch.header.as_bytes(), &header.to_bytes()[..]);
        prop_assert_eq!(batch.header.statement().to_bytes()[1..15].to_vec(), b"creto/batch/v1".to_vec());
        for (index, entry) in entries.iter().enumerate() {
            prop_assert_eq!(entry.salt, salts[index]);
            prop_assert_eq!(batch.envelope(entry), &envelopes[index][..]);
            prop_assert!(EnvelopeView::parse(batch.envelope(entry)).is_ok());
        }
        for cut in [0, 1, body.len() / 2, body.len() - 1] {
            prop_assert!(BatchView::parse(&body[..cut], &mut entries).is_err());
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = aligned(&bytes);
        let _ = EnvelopeView::parse(&bytes);
        let _ = BatchView::parse(&bytes, &mut Vec::new());
        let _ = creto_envelope::deliver::Deliver::parse(&bytes);
        let _ = creto_envelope::SignedKeyRecord::parse(&bytes);
    }

    #[test]
    fn the_nonce_is_the_counter(counter: u64) {
        prop_assert_eq!(&nonce(counter)[..4], &[0; 4]);
        prop_assert_eq!(&nonce(counter)[4..], &counter.to_le_bytes());
    }
}
