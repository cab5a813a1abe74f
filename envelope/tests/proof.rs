//! Proofs as bytes: one encoding of each, bounded, and nothing that is not understood.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod canonical;
#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;

use canonical::reencode_proof;
use creto_envelope::limits::PROOF_BYTES_MAX;
use creto_envelope::proof::{PROOF_HEADER_BYTES, ProofFormatError, ProofParts, ProofView};
use creto_envelope::{AgentState, SignedKeyRecord};
use sample::{aligned, batch_header, envelope, key_record};

fn proof(plaintext_bytes: usize, path_nodes: usize) -> Vec<u8> {
    let key_record = SignedKeyRecord { record: key_record(), ed25519: [7; 64], ml_dsa_65: Box::new([8; 3309]) };
    let parts = ProofParts {
        batch_header: &batch_header(1_000).to_bytes(),
        leaf_index: 7,
        salt: &[6; 16],
        path: &vec![5; path_nodes * 32],
        envelope: &envelope(plaintext_bytes),
        key_record: &key_record,
    };
    parts.to_bytes()
}

#[test]
fn a_proof_is_understood_and_written_back_as_it_was() {
    for (plaintext_bytes, path_nodes) in [(0, 0), (1, 10), (8, 3), (1_000, 10)] {
        let bytes = aligned(&proof(plaintext_bytes, path_nodes));
        let view = ProofView::parse(&bytes).unwrap();
        assert_eq!((view.leaf_index, view.path.len(), view.salt), (7, path_nodes, &[6; 16]));
        assert_eq!(view.envelope.as_bytes(), envelope(plaintext_bytes));
        assert_eq!(reencode_proof(&bytes).unwrap(), bytes[..]);
    }
}

#[test]
fn the_largest_proof_is_within_its_limit() {
    assert_eq!(PROOF_BYTES_MAX, 1_062_328);
    let bytes = aligned(&proof(1024 * 1024, 10));
    assert!(bytes.len() <= PROOF_BYTES_MAX);
    ProofView::parse(&bytes).unwrap();
}

#[test]
fn a_proof_that_ends_early_or_late_is_refused() {
    let whole = proof(9, 2);
    for cut in 0..whole.len() {
        let error = ProofView::parse(&aligned(&whole[..cut])).unwrap_err();
        let expect = if cut < 8 { ProofFormatError::Magic } else { ProofFormatError::Truncated };
        assert_eq!(error, expect, "{cut} bytes");
    }
    let longer = [&whole[..], &[0; 8]].concat();
    assert_eq!(ProofView::parse(&aligned(&longer)).unwrap_err(), ProofFormatError::Length);
}

#[test]
fn every_changed_bit_is_refused_or_shows_as_that_change() {
    let whole = proof(9, 2);
    let mut bytes = aligned(&whole);
    let (mut refused, mut shown) = (0, 0);
    for at in 0..whole.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            match reencode_proof(&bytes) {
                Ok(again) => {
                    assert_eq!(again, bytes[..], "byte {at}, bit {bit}");
                    shown += 1;
                }
                Err(_) => refused += 1,
            }
            bytes[at] ^= 1 << bit;
        }
    }
    // Keys and names derive to the ids in the record, so most of a record is refused here already; the rest of the
    // file is signatures, hashes and ciphertext, which only their keys can judge.
    assert!(refused > 8 * PROOF_HEADER_BYTES && shown > 8 * 3_448, "{refused} refused, {shown} shown");
}

#[test]
fn each_broken_rule_of_the_header_has_its_own_reason() {
    let whole = proof(9, 2);
    let check = |at: usize, value: u8, expect: ProofFormatError| {
        let mut bytes = aligned(&whole);
        bytes[at] = value;
        assert_eq!(ProofView::parse(&bytes).unwrap_err(), expect, "byte {at}");
    };
    check(0, b'c', ProofFormatError::Magic);
    check(8, 2, ProofFormatError::Version(2));
    check(15, 0xff, ProofFormatError::Truncated);
    for length in [16, 20, 24] {
        check(length + 3, 0xff, ProofFormatError::Length);
    }
    check(32, 11, ProofFormatError::Length);
    for reserved in 33..40 {
        check(reserved, 1, ProofFormatError::Reserved);
    }
}

#[test]
fn what_the_operator_decided_about_an_agent_is_not_part_of_a_proof() {
    let mut key_record = SignedKeyRecord { record: key_record(), ed25519: [7; 64], ml_dsa_65: Box::new([8; 3309]) };
    key_record.record.state = AgentState::Revoked;
    let (header, envelope) = (batch_header(1).to_bytes(), envelope(0));
    let parts = ProofParts {
        batch_header: &header,
        leaf_index: 0,
        salt: &[0; 16],
        path: &[],
        envelope: &envelope,
        key_record: &key_record,
    };
    let mut bytes = aligned(&parts.to_bytes());
    assert_eq!(ProofView::parse(&bytes).unwrap().key_record.record.state, AgentState::Active);
    let state_at = PROOF_HEADER_BYTES + header.len() + envelope.len().next_multiple_of(8) + 8 + 2;
    bytes[state_at] = AgentState::Revoked as u8;
    assert_eq!(ProofView::parse(&bytes).unwrap_err(), ProofFormatError::State);
}
