use super::*;
use crate::fixture::{record, rotated};

#[test]
fn a_fingerprint_is_thirty_digits_in_six_groups() {
    let text = Fingerprint::of_agent(&record("acme/a", 1)).to_string();
    let groups: Vec<_> = text.split(' ').collect();
    assert_eq!(groups.len(), 6, "{text}");
    assert!(groups.iter().all(|group| group.len() == 5 && group.bytes().all(|digit| digit.is_ascii_digit())), "{text}");
}

#[test]
fn the_digits_are_those_of_an_independent_computation() {
    // python3: int.from_bytes(sha256(bytes([27]) + b"creto/fingerprint/record/v1" + bytes(32)).digest()[:5], "big") % 100000, ...
    let of_zeros = Fingerprint::of(RECORD_LABEL, &[&[0; 32]]).to_string();
    assert_eq!(of_zeros, "89977 66367 44238 03989 03158 24899");
}

#[test]
fn the_agents_stays_with_its_signing_keys_and_the_records_changes_with_everything() {
    let first = record("acme/a", 1);
    let next = rotated(&first, 9);
    assert_eq!(Fingerprint::of_agent(&first), Fingerprint::of_agent(&next));
    assert_ne!(Fingerprint::of_record(&first), Fingerprint::of_record(&next));
    let others = [record("acme/a", 2), record("acme/b", 1)];
    for other in &others {
        assert_ne!(Fingerprint::of_agent(&first), Fingerprint::of_agent(other));
    }
    let mut longer = first.clone();
    longer.valid_until_ms += 1;
    assert_eq!(Fingerprint::of_agent(&first), Fingerprint::of_agent(&longer));
    assert_ne!(Fingerprint::of_record(&first), Fingerprint::of_record(&longer));
}
