//! Names, ids and key records: the ids are what names and keys derive to, or nothing is accepted.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use creto_envelope::{
    AgentId, AgentName, AgentState, KeyId, KeyRecord, MessageId, RejectCode, SignedKeyRecord, TrustDomain,
};
use proptest::prelude::*;
use sample::{key_record, signed_key_record};
use sha2::{Digest, Sha256};

fn digest_16(parts: &[&[u8]]) -> [u8; 16] {
    Sha256::digest(parts.concat())[..16].try_into().unwrap()
}

#[test]
fn an_agent_id_is_the_digest_that_the_page_says() {
    let id = AgentId::derive(&TrustDomain::default(), &AgentName::parse("acme/planner").unwrap());
    assert_eq!(id.0, digest_16(&[b"creto/agent-id/v1", b"creto.local", &[0], b"acme/planner"]));
}

#[test]
fn a_key_id_is_the_digest_that_the_page_says() {
    let id = KeyId::derive(&[1; 32], &[2; 1184]);
    assert_eq!(id.0, digest_16(&[b"creto/key-id/v1", &[1; 32], &[2; 1184]]));
}

#[test]
fn a_name_in_another_trust_domain_is_another_agent() {
    let id = |domain: &str, name: &str| {
        AgentId::derive(&TrustDomain::parse(domain).unwrap(), &AgentName::parse(name).unwrap())
    };
    assert_ne!(id("creto.local", "acme/planner"), id("creto.locala", "cme/planner"));
    assert_ne!(id("creto.local", "acme/planner"), id("example.org", "acme/planner"));
}

#[test]
fn names_are_two_parts_of_few_characters() {
    for good in ["a/b", "acme/planner-7", "a.b_c-9/0", "0/-", "../.."] {
        assert_eq!(AgentName::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "/", "a/", "/b", "ab", "a/b/c", "A/b", "a/B", "a /b", "a/b\n", "a/\u{e9}", "a\\b", "a/b\0"] {
        assert!(AgentName::parse(bad).is_err(), "{bad:?}");
    }
    let name = AgentName::parse("acme/planner").unwrap();
    assert_eq!(name.organization(), "acme");
    assert_eq!(name.spiffe_id(&TrustDomain::default()), "spiffe://creto.local/acme/planner");
}

#[test]
fn the_partition_is_the_first_eight_bytes_modulo_256() {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&0x0102_0304_0506_07fe_u64.to_le_bytes());
    assert_eq!(AgentId(id).partition(), 0xfe);
}

#[test]
fn a_message_id_is_a_uuid_of_version_7() {
    let id = MessageId::from_parts(0x0123_4567_89ab, [0xff; 10]);
    assert_eq!(id.to_string(), "0123456789ab7fffbfffffffffffffff");
    assert_eq!(id.to_uuid_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
    assert!(id.is_uuid_v7());
    assert_eq!(id.unix_ms(), 0x0123_4567_89ab);
    let mut other = id;
    other.0[6] = 0x4f;
    assert!(!other.is_uuid_v7());
    other = id;
    other.0[8] = 0xff;
    assert!(!other.is_uuid_v7());
}

#[track_caller]
fn check_record(change: impl FnOnce(&mut Vec<u8>), expect: Result<(), RejectCode>) {
    let mut bytes = key_record().to_bytes();
    change(&mut bytes);
    assert_eq!(KeyRecord::parse(&bytes).map(|_| ()), expect);
}

#[test]
fn a_key_record_is_read_as_it_was_written() {
    let record = key_record();
    let bytes = record.to_bytes();
    assert_eq!(bytes.len(), 3_264 + 12 + 11);
    assert_eq!(KeyRecord::parse(&bytes).unwrap(), record);
    let signed = signed_key_record();
    assert_eq!(signed.to_bytes().len(), 8 + bytes.len() + 64 + 3_309);
    assert_eq!(SignedKeyRecord::parse(&signed.to_bytes()).unwrap(), signed);
}

#[test]
fn a_key_record_with_another_id_than_its_name_derives_to_is_refused() {
    check_record(|bytes| bytes[8] ^= 1, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[23] ^= 0x80, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3_264] = b'b', Err(RejectCode::FrameReserved));
    let last = key_record().to_bytes().len() - 1;
    check_record(|bytes| bytes[last] = b'x', Err(RejectCode::FrameReserved));
}

#[test]
fn a_key_record_with_another_key_id_than_its_keys_derive_to_is_refused() {
    check_record(|bytes| bytes[40] ^= 1, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[88] ^= 1, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[2_072] ^= 1, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3_255] ^= 1, Err(RejectCode::FrameReserved));
}

#[test]
fn a_key_record_states_both_algorithms_a_known_state_and_a_version() {
    check_record(|bytes| bytes[0] = 2, Err(RejectCode::FrameReserved));
    for algorithms in [0, 1, 2, 4, 5, 6, 8, 255] {
        check_record(|bytes| bytes[1] = algorithms, Err(RejectCode::FrameReserved));
    }
    check_record(|bytes| bytes[2] = 1, Ok(()));
    check_record(|bytes| bytes[2] = 2, Ok(()));
    check_record(|bytes| bytes[2] = 3, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3] = 1, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[4..8].fill(0), Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3_260] = 1, Err(RejectCode::FrameReserved));
}

#[test]
fn a_key_record_ends_with_its_names() {
    check_record(|bytes| bytes.push(b'a'), Err(RejectCode::FrameLength));
    check_record(|bytes| bytes.truncate(bytes.len() - 1), Err(RejectCode::FrameLength));
    // The same text, cut elsewhere: `acme/plannerc` of `reto.local`.
    check_record(|bytes| (bytes[3_256], bytes[3_258]) = (13, 10), Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3_264] = 0xff, Err(RejectCode::FrameReserved));
    check_record(|bytes| bytes[3_264] = b'A', Err(RejectCode::FrameReserved));
}

#[test]
fn the_longest_names_fit_a_control_frame() {
    let mut signed = signed_key_record();
    signed.record.name = AgentName::parse(&format!("a/{}", "b".repeat(126))).unwrap();
    signed.record.trust_domain = TrustDomain::parse(&"d".repeat(255)).unwrap();
    let mut frame = Vec::new();
    creto_envelope::control::encode_key_record_response(&mut frame, &signed);
    assert_eq!(SignedKeyRecord::parse(&frame[8..]).unwrap(), signed);
}

#[test]
fn the_signed_bytes_are_label_and_record_without_the_state() {
    let record = key_record();
    let mut expect = vec![19];
    expect.extend_from_slice(b"creto/key-record/v1");
    expect.extend_from_slice(&record.to_bytes());
    assert_eq!(record.signed_bytes(), expect);
    for state in [AgentState::Suspended, AgentState::Revoked] {
        let changed = KeyRecord { state, ..record.clone() };
        assert_ne!(changed.to_bytes(), record.to_bytes());
        assert_eq!(changed.signed_bytes(), expect, "control sets the state without the agent");
    }
}

proptest! {
    #[test]
    fn names_that_parse_print_themselves(text in "[a-z0-9._-]{1,40}/[a-z0-9._-]{1,40}") {
        prop_assert_eq!(AgentName::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn any_text_is_a_name_or_an_error_that_says_why(text in ".{0,140}") {
        match AgentName::parse(&text) {
            Ok(name) => prop_assert_eq!(name.as_str(), &text),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn message_ids_keep_their_time(unix_ms in 0u64..1 << 48, random: [u8; 10]) {
        let id = MessageId::from_parts(unix_ms, random);
        prop_assert!(id.is_uuid_v7());
        prop_assert_eq!(id.unix_ms(), unix_ms);
    }

    #[test]
    fn records_carry_every_value(
        version in 1u32.., valid_from_ms: u64, valid_until_ms: u64, ed25519: [u8; 32], x25519: [u8; 32],
        state in prop::sample::select(vec![AgentState::Active, AgentState::Suspended, AgentState::Revoked]),
        name in "[a-z0-9._-]{1,60}/[a-z0-9._-]{1,60}", trust_domain in "[a-z0-9._-]{1,255}",
    ) {
        let record = KeyRecord {
            version, state, valid_from_ms, valid_until_ms, ed25519, x25519,
            name: AgentName::parse(&name).unwrap(),
            trust_domain: TrustDomain::parse(&trust_domain).unwrap(),
            ..key_record()
        };
        prop_assert_eq!(KeyRecord::parse(&record.to_bytes()).unwrap(), record);
    }
}
