use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::AgentState;

use super::*;
use crate::fixture::{record, rotated};

#[test]
fn a_leaf_is_read_as_it_is_written_and_has_one_form() {
    let revoked = KeyLeaf { since_ms: 77, ..KeyLeaf::of(&record("acme/a", 1), LeafKind::Revoked, 5) };
    let adopted = KeyLeaf { is_adopted: true, ..KeyLeaf::of(&record("acme/a", 1), LeafKind::Emergency, u64::MAX) };
    for leaf in [revoked, adopted, KeyLeaf::of(&record("acme/b", 2), LeafKind::Enrolled, 0)] {
        let bytes = leaf.to_bytes();
        assert_eq!(KeyLeaf::parse(&bytes), Some(leaf));
        for at in 0..KEY_LEAF_BYTES {
            for bit in 0..8 {
                let mut changed = bytes;
                changed[at] ^= 1 << bit;
                let read = KeyLeaf::parse(&changed);
                assert!(read.is_none_or(|read| read.to_bytes() == changed && read != leaf), "byte {at}, bit {bit}");
                assert_ne!(leaf_hash(&changed), leaf.hash());
            }
        }
    }
    let mut since = KeyLeaf::of(&record("acme/b", 2), LeafKind::Enrolled, 0).to_bytes();
    since[16] = 1;
    assert_eq!(KeyLeaf::parse(&since), None, "only a revocation counts since a time");
}

#[test]
fn a_leaf_is_that_of_one_record_whatever_its_state_and_of_no_other() {
    let first = record("acme/a", 1);
    let leaf = KeyLeaf::of(&first, LeafKind::Enrolled, 5);
    assert!(leaf.is_of(&first));
    assert!(KeyLeaf { is_adopted: true, ..leaf }.is_of(&first));
    for state in [AgentState::Suspended, AgentState::Revoked] {
        let mut said = first.clone();
        said.state = state;
        assert!(leaf.is_of(&said), "the state is the node's to say");
    }
    let mut longer = first.clone();
    longer.valid_until_ms += 1;
    let mut renamed = first.clone();
    renamed.name = record("acme/b", 1).name;
    for other in [rotated(&first, 9), record("acme/a", 2), longer, renamed] {
        assert!(!leaf.is_of(&other));
    }
    assert!(!KeyLeaf::of(&first, LeafKind::Revoked, 5).is_of(&first), "a revocation stands for no record");
}

#[test]
fn the_fingerprint_of_signing_keys_is_what_a_verifier_calls_it() {
    let record = record("acme/a", 1);
    let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).unwrap();
    assert_eq!(signing_fingerprint(&record), *keys.fingerprint());
    let mut with_third = record.clone();
    with_third.fn_dsa_512 = Some(Box::new([7; 897]));
    assert_eq!(signing_fingerprint(&with_third), sha256(&[keys.fingerprint(), &[7; 897]]));
}
