//! Prekeys as docs/prekeys.md gives them: ids, the statement, what a batch may hold.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use creto_envelope::limits::{PREKEY_UPLOAD_BODY_BYTES_MAX, PREKEYS_PER_BATCH_MAX};
use creto_envelope::prekeys::{
    PREKEY_BATCH_HEADER_BYTES, PREKEY_BYTES, PREKEY_STATEMENT_BYTES, Prekey, PrekeyBatch, PrekeyKind,
    SIGNED_PREKEY_FIXED_BYTES, SignedPrekey, prekey_record_version,
};
use creto_envelope::{AgentId, KeyId, RejectCode};
use sample::{prekey_batch, signed_prekey};
use sha2::{Digest, Sha256};

#[test]
fn the_id_of_a_prekey_names_its_version_and_depends_on_every_byte_of_it() {
    let prekey = prekey_batch(1).prekeys[0].clone();
    let hash = Sha256::new()
        .chain_update(b"creto/prekey-id/v1")
        .chain_update([3, 0, 0, 0])
        .chain_update([0; 8])
        .chain_update([0; 32])
        .chain_update([100; 1_184])
        .finalize();
    let mut expect = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    expect[4..].copy_from_slice(&hash[..12]);
    assert_eq!(prekey.id(3), KeyId(expect));
    assert_eq!(prekey_record_version(&prekey.id(3)), 3);
    assert_eq!(prekey_record_version(&prekey.id(u32::MAX)), u32::MAX);

    let mut other_share = prekey.clone();
    other_share.x25519[31] ^= 1;
    let mut other_key = prekey.clone();
    other_key.ml_kem_768[1_183] ^= 1;
    let last_resort = Prekey { kind: PrekeyKind::LastResort, ..prekey.clone() };
    for other in [other_share.id(3), other_key.id(3), last_resort.id(3)] {
        assert_ne!(other.0[4..], expect[4..]);
    }
    // The version is hashed, too: the same keys under another version have another id behind it.
    assert_ne!(prekey.id(4).0[4..], expect[4..]);
}

#[test]
fn the_statement_is_that_of_the_page_byte_by_byte() {
    let PrekeyBatch { agent, signature, .. } = prekey_batch(2);
    let statement = signature.statement(agent, 3, [0xaa; 32]).to_bytes();
    let mut expect = vec![16];
    expect.extend_from_slice(b"creto/prekeys/v1");
    expect.extend_from_slice(&[2; 16]);
    expect.extend_from_slice(&[3, 0, 0, 0, 3, 0, 0, 0]);
    expect.extend_from_slice(&[0xaa; 32]);
    expect.extend_from_slice(&1_700_000_000_004_u64.to_le_bytes());
    assert_eq!(statement[..], expect);
    assert_eq!(statement.len(), PREKEY_STATEMENT_BYTES);
}

#[test]
fn a_batch_has_one_to_128_prekeys_and_at_most_one_of_last_resort_which_is_the_last() {
    let one_time = prekey_batch(128).prekeys[..128].to_vec();
    let batch = |prekeys: Vec<Prekey>| PrekeyBatch { prekeys, ..prekey_batch(0) };
    let parse = |batch: &PrekeyBatch| PrekeyBatch::parse(&batch.to_bytes());
    let largest = batch(one_time.clone());
    assert_eq!(parse(&largest), Ok(largest.clone()));
    assert_eq!(largest.to_bytes().len(), PREKEY_UPLOAD_BODY_BYTES_MAX);
    assert_eq!(largest.one_time(), PREKEYS_PER_BATCH_MAX);
    assert_eq!(prekey_batch(5).one_time(), 5);
    assert_eq!(parse(&batch(Vec::new())), Err(RejectCode::PrekeyBatch));

    // One more than the limit is written by nobody here, so its count is raised by hand.
    let mut too_many = largest.to_bytes();
    too_many.extend_from_slice(&one_time[0].to_bytes());
    too_many[2..4].copy_from_slice(&129_u16.to_le_bytes());
    assert_eq!(PrekeyBatch::parse(&too_many), Err(RejectCode::PrekeyBatch));

    let mut early = prekey_batch(1).prekeys;
    early.reverse();
    assert_eq!(parse(&batch(early)), Err(RejectCode::PrekeyBatch));
}

#[test]
fn sizes_are_those_of_the_page() {
    assert_eq!(prekey_batch(0).prekeys[0].to_bytes().len(), PREKEY_BYTES);
    assert_eq!(prekey_batch(2).to_bytes().len(), PREKEY_BATCH_HEADER_BYTES + 3 * PREKEY_BYTES);
    assert_eq!(signed_prekey().to_bytes().len(), SIGNED_PREKEY_FIXED_BYTES + 2 * 32);
    assert_eq!(prekey_batch(2).agent, AgentId([2; 16]));
}

#[test]
fn a_signed_prekey_has_a_place_in_its_batch_and_a_path_that_a_batch_may_have() {
    let parse = |prekey: &SignedPrekey| SignedPrekey::parse(&prekey.to_bytes());
    let prekey = signed_prekey();
    assert_eq!(parse(&prekey), Ok(prekey.clone()));
    assert_eq!(prekey.id(), prekey.prekey.id(3));
    for (count, index) in [(3, 3), (0, 0), (129, 0)] {
        let outside = SignedPrekey { count, index, ..prekey.clone() };
        assert_eq!(parse(&outside), Err(RejectCode::FrameReserved), "{index} of {count}");
    }
    // A path of 8 nodes is written by nobody here.
    let mut long = SignedPrekey { path: vec![[1; 32]; 7], ..prekey }.to_bytes();
    long.extend_from_slice(&[1; 32]);
    long[16..20].copy_from_slice(&8_u32.to_le_bytes());
    assert_eq!(SignedPrekey::parse(&long), Err(RejectCode::FrameReserved));
}
