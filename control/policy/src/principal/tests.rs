use creto_envelope::{AgentState, KeyId, RejectCode};

use crate::fixture::{agent, record};
use crate::{Principal, SnapshotBuilder};

fn with_versions(versions: &[(u32, std::ops::Range<u64>)]) -> Principal {
    let mut builder = SnapshotBuilder::new();
    let records = versions.iter().map(|(version, valid)| record("acme/a", *version, valid.clone())).collect();
    builder.insert(AgentState::Active, records).unwrap();
    builder.principal(&agent("acme/a")).unwrap().clone()
}

#[test]
fn every_version_is_found_and_the_newest_is_current() {
    let principal = with_versions(&[(1, 0..10), (2, 5..20), (7, 15..30)]);
    assert_eq!(principal.current_version(), 7);
    assert_eq!(principal.current().record.version, 7);
    for version in [1, 2, 7] {
        assert_eq!(principal.key_record(version).unwrap().record.version, version);
    }
    for version in [0, 3, 8, u32::MAX] {
        assert!(principal.key_record(version).is_none());
    }
}

#[test]
fn keys_of_old_versions_are_known_and_others_are_not() {
    let principal = with_versions(&[(1, 0..10), (2, 5..20)]);
    for version in [1, 2] {
        assert!(principal.has_key_id(&principal.key_record(version).unwrap().record.key_id()));
    }
    assert!(!principal.has_key_id(&KeyId([9; 16])));
    assert!(!principal.has_key_id(&KeyId::ZERO));
}

#[test]
fn a_record_counts_from_its_start_until_just_before_its_end() {
    let principal = with_versions(&[(1, 10..20)]);
    let code = |now_ms| principal.valid_key_record(1, now_ms).err();
    assert_eq!(code(9), Some(RejectCode::KeyNotYetValid));
    assert_eq!(code(10), None);
    assert_eq!(code(19), None);
    assert_eq!(code(20), Some(RejectCode::KeyExpired));
    assert_eq!(principal.valid_key_record(2, 15).err(), Some(RejectCode::UnknownKeyVersion));
}

#[test]
fn a_record_whose_window_is_empty_never_counts() {
    let principal = with_versions(&[(1, 20..20)]);
    assert!([0, 19, 20, 21, u64::MAX].into_iter().all(|now_ms| principal.may_act(now_ms).is_err()));
}
