use creto_envelope::control::RotationMode::{self, Emergency, Planned};
use creto_envelope::{AgentState, KeyId, RejectCode, SignedKeyRecord};

use crate::fixture::{agent, record};
use crate::{KeyVersion, Principal, Replacement, SnapshotBuilder};

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
    for (version, valid_from_ms) in [(1, 0), (2, 5), (7, 15)] {
        let expect = KeyVersion::from(&record("acme/a", version, valid_from_ms..0).record);
        let known = principal.key_version(version).unwrap();
        assert_eq!((known.version, known.key, known.valid_from_ms), (version, expect.key, valid_from_ms));
    }
    assert_eq!(Some(principal.current()), principal.key_version(7));
    for version in [0, 3, 8, u32::MAX] {
        assert!(principal.key_version(version).is_none());
    }
}

const GRACE_MS: u64 = 1_000;

/// Versions 1, 2, 3 ... of which each but the newest was replaced at this time in this way.
fn with_replacements(replaced: &[Option<(u64, RotationMode)>]) -> Principal {
    let mut builder = SnapshotBuilder::new();
    builder.set_key_grace_ms(GRACE_MS);
    let versions = replaced.iter().zip(1..).map(|(replaced, version)| KeyVersion {
        replaced: replaced.map(|(at_ms, mode)| Replacement { at_ms, mode }),
        ..KeyVersion::from(&record("acme/a", version, 0..u64::MAX).record)
    });
    let mut versions: Vec<_> = versions.collect();
    let newest = u32::try_from(replaced.len()).unwrap() + 1;
    let newest = record("acme/a", newest, 0..u64::MAX);
    versions.push(KeyVersion::from(&newest.record));
    builder.insert_versions(&newest.record.trust_domain, &newest.record.name, AgentState::Active, versions).unwrap();
    builder.principal(&agent("acme/a")).unwrap().clone()
}

/// The versions whose keys are accepted at `now_ms`; those whose prekeys are, are the same.
fn accepted(principal: &Principal, now_ms: u64) -> Vec<u32> {
    let accepts = |version: &u32| {
        let known = principal.key_version(*version);
        let accepts = known.is_some_and(|known| principal.accepts_key(&known.key, now_ms));
        assert_eq!(principal.accepts_version(*version, now_ms), accepts, "version {version} at {now_ms} ms");
        accepts
    };
    (0..=principal.current_version() + 1).filter(accepts).collect()
}

#[test]
fn a_replaced_key_is_accepted_for_exactly_the_grace_period() {
    let principal = with_replacements(&[Some((10_000, Planned)), Some((10_400, Planned))]);
    for (now_ms, expect) in [
        (0, &[1, 2, 3][..]),
        (10_999, &[1, 2, 3]),
        (11_000, &[2, 3]),
        (11_399, &[2, 3]),
        (11_400, &[3]),
        (u64::MAX, &[3]),
    ] {
        assert_eq!(accepted(&principal, now_ms), expect, "at {now_ms} ms");
    }
}

#[test]
fn an_emergency_ends_the_key_and_all_before_it_at_once_and_for_ever() {
    let planned_then_emergency = with_replacements(&[Some((10_000, Planned)), Some((10_001, Emergency))]);
    let emergency_then_planned = with_replacements(&[Some((10_000, Emergency)), Some((10_001, Planned))]);
    for now_ms in [0, 10_000, 10_001, 10_500] {
        assert_eq!(accepted(&planned_then_emergency, now_ms), [3], "a clock that steps back changes nothing");
        assert_eq!(accepted(&emergency_then_planned, now_ms), [2, 3], "what came after it has its own grace period");
    }
    assert_eq!(accepted(&emergency_then_planned, 11_001), [3]);
}

#[test]
fn a_key_that_was_replaced_nobody_knows_when_is_not_accepted() {
    assert_eq!(accepted(&with_replacements(&[None]), 0), [2]);
    assert_eq!(accepted(&with_replacements(&[Some((u64::MAX, Planned))]), u64::MAX - 1), [1, 2]);
}

#[test]
fn a_key_that_the_agent_never_had_is_not_accepted() {
    let principal = with_replacements(&[Some((10_000, Planned))]);
    for key in [KeyId([9; 16]), KeyId::ZERO] {
        assert!(!principal.accepts_key(&key, 10_000));
        assert_eq!(principal.accepted_until_ms(&key), None);
    }
}

#[test]
fn a_record_counts_from_its_start_until_just_before_its_end() {
    let principal = with_versions(&[(1, 10..20)]);
    let code = |now_ms| principal.valid_key_version(1, now_ms).err();
    assert_eq!(code(9), Some(RejectCode::KeyNotYetValid));
    assert_eq!(code(10), None);
    assert_eq!(code(19), None);
    assert_eq!(code(20), Some(RejectCode::KeyExpired));
    assert_eq!(principal.valid_key_version(2, 15).err(), Some(RejectCode::UnknownKeyVersion));
}

#[test]
fn a_record_whose_window_is_empty_never_counts() {
    let principal = with_versions(&[(1, 20..20)]);
    assert!([0, 19, 20, 21, u64::MAX].into_iter().all(|now_ms| principal.may_act(now_ms).is_err()));
}

#[test]
fn a_version_says_whether_it_demands_a_third_signature() {
    let mut signed = SignedKeyRecord::clone(&record("acme/a", 1, 0..10));
    assert!(!KeyVersion::from(&signed.record).has_fn_dsa_512);
    signed.record.fn_dsa_512 = Some(Box::new([1; 897]));
    let mut builder = SnapshotBuilder::new();
    let id = builder.insert(AgentState::Active, vec![signed.into()]).unwrap();
    assert!(builder.principal(&id).unwrap().key_version(1).unwrap().has_fn_dsa_512);
}
