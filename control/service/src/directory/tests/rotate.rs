use creto_envelope::RejectCode;
use creto_envelope::control::RotationMode::{self, Emergency, Planned};

use super::*;
use crate::directory::Rotated;
use crate::fixture::{in_mode, next, resigned};
use crate::limits::{EMERGENCIES_PER_WINDOW_MAX, ROTATION_WINDOW_MS, ROTATIONS_PER_WINDOW_MAX};
use crate::rotation::{Refused, Rotation};

fn check(mode: RotationMode, signed: &SignedKeyRecord) -> Result<Rotation, RejectCode> {
    Rotation::check(signed.record.agent_id(), mode, signed.clone(), &TrustDomain::default(), NOW_MS)
}

fn rotate_at(directory: &mut Directory, mode: RotationMode, signed: &SignedKeyRecord, now_ms: u64) -> Rotated {
    let changed = directory.change(vec![Change::Rotate(check(mode, signed).unwrap())], now_ms).unwrap();
    let [Changed::Rotate(rotated)] = changed[..] else { panic!("one change has one answer: {changed:?}") };
    rotated
}

fn rotate(directory: &mut Directory, signed: &SignedKeyRecord) -> Rotated {
    rotate_at(directory, Planned, signed, NOW_MS)
}

/// A directory that knows `acme/a`.
fn with_agent(path: &Path) -> (Directory, Reader, SignedKeyRecord) {
    let (mut directory, reader) = open(path, 10);
    let first = signed("acme/a", 1);
    register(&mut directory, std::slice::from_ref(&first));
    (directory, reader, first)
}

#[test]
fn the_next_version_with_the_same_signing_keys_and_a_new_encryption_key_replaces_the_current_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader, first) = with_agent(&path);
    let id = first.record.agent_id();
    let mut current = first.clone();
    for (version, encryption_seed) in (2..).zip(10..13) {
        let newer = next(&current, 1, encryption_seed);
        let epoch = directory.snapshot().epoch();
        assert_eq!(rotate(&mut directory, &newer), Rotated::Replaced(version));
        assert_eq!(directory.snapshot().epoch(), epoch + 1, "the shards learn of it");
        current = newer;
    }
    drop((directory, reader));
    let (directory, _) = open(&path, 10);
    let snapshot = directory.snapshot();
    let principal = snapshot.principal(&id).unwrap();
    assert_eq!(principal.current(), (&current.record).into());
    let accepted = |now_ms| {
        (1..=4).map(|v| principal.accepts_key(&principal.key_version(v).unwrap().key, now_ms)).collect::<Vec<_>>()
    };
    assert_eq!(accepted(NOW_MS + GRACE_MS - 1), [true; 4], "the times of replacement came through the restart");
    assert_eq!(accepted(NOW_MS + GRACE_MS), [false, false, false, true]);
}

#[test]
fn an_emergency_is_remembered_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    let (mut directory, reader, first) = with_agent(&path);
    let second = next(&first, 1, 2);
    rotate(&mut directory, &second);
    let third = in_mode(Emergency, &next(&second, 1, 3), 1);
    assert_eq!(rotate_at(&mut directory, Emergency, &third, NOW_MS + 1), Rotated::Replaced(3));
    drop((directory, reader));
    let (directory, reader) = open(&path, 10);
    let snapshot = directory.snapshot();
    let principal = snapshot.principal(&first.record.agent_id()).unwrap();
    for (signed, accepts) in [(&first, false), (&second, false), (&third, true)] {
        assert_eq!(principal.accepts_key(&signed.record.key_id(), NOW_MS + 1), accepts);
    }
    let keys = reader.keys(&first.record.name, GRACE_MS, NOW_MS + 1).unwrap().unwrap();
    let states: Vec<_> = keys.versions.iter().map(|v| (v.version, v.state.as_str())).collect();
    assert_eq!(states, [(3, "current"), (2, "revoked"), (1, "revoked")]);
    assert!(reader.keys(&signed("acme/b", 2).record.name, GRACE_MS, 0).unwrap().is_none());
}

#[test]
fn the_list_of_versions_says_what_is_still_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, reader, first) = with_agent(&folder.path().join("control.redb"));
    let second = next(&first, 1, 2);
    rotate_at(&mut directory, Planned, &second, NOW_MS);
    rotate_at(&mut directory, Planned, &next(&second, 1, 3), NOW_MS + 10);
    let states = |now_ms| {
        let keys = reader.keys(&first.record.name, GRACE_MS, now_ms).unwrap().unwrap();
        keys.versions.into_iter().map(|v| (v.version, v.state, v.accepted_until_ms)).collect::<Vec<_>>()
    };
    let is = |version, state: &str, until_ms| (version, state.to_owned(), until_ms);
    let (first_end, second_end) = (NOW_MS + GRACE_MS, NOW_MS + 10 + GRACE_MS);
    assert_eq!(
        states(first_end - 1),
        [is(3, "current", None), is(2, "grace", Some(second_end)), is(1, "grace", Some(first_end))]
    );
    assert_eq!(states(first_end), [is(3, "current", None), is(2, "grace", Some(second_end)), is(1, "ended", None)]);
}

#[test]
fn what_is_not_the_next_version_of_the_same_agent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _, first) = with_agent(&folder.path().join("control.redb"));
    let refused = |code: RejectCode| Rotated::Refused(code.into());
    let second = next(&first, 1, 2);

    let mut skips_one = second.record.clone();
    skips_one.version = 3;
    assert_eq!(rotate(&mut directory, &sign(skips_one, 1)), refused(RejectCode::RotationVersion));
    let mut other_first = second.record.clone();
    other_first.version = 1;
    assert_eq!(rotate(&mut directory, &sign(other_first, 1)), refused(RejectCode::RotationVersion));
    let mut other_signer = signed("acme/a", 9).record;
    (other_signer.version, other_signer.purpose) = (2, second.record.purpose);
    assert_eq!(rotate(&mut directory, &sign(other_signer, 9)), refused(RejectCode::RotationSigningKeys));
    let mut same_key = first.record.clone();
    (same_key.version, same_key.purpose) = (2, second.record.purpose);
    assert_eq!(rotate(&mut directory, &sign(same_key, 1)), refused(RejectCode::RotationRecord));
    assert_eq!(rotate(&mut directory, &next(&signed("acme/b", 2), 2, 3)), refused(RejectCode::UnknownSender));

    assert_eq!(rotate(&mut directory, &second), Rotated::Replaced(2));
    assert_eq!(rotate(&mut directory, &resigned(&second, 1)), Rotated::Known(2), "whoever lost the answer asks again");
    let mut old_key_again = first.record.clone();
    (old_key_again.version, old_key_again.purpose) = (3, second.record.purpose);
    assert_eq!(rotate(&mut directory, &sign(old_key_again, 1)), refused(RejectCode::RotationRecord));
    let back = in_mode(Planned, &first, 1);
    assert_eq!(rotate(&mut directory, &back), refused(RejectCode::RotationVersion), "versions do not go back");
}

#[test]
fn a_record_that_does_not_hold_does_not_reach_the_directory() {
    let first = signed("acme/a", 1);
    let second = next(&first, 1, 2);
    assert!(check(Planned, &second).is_ok());
    let code = |signed: &SignedKeyRecord| check(Planned, signed).unwrap_err();
    let mut changed = second.clone();
    changed.record.valid_until_ms += 1;
    assert_eq!(code(&changed), RejectCode::RotationRecord, "the signature is over the validity");
    let with = |change: fn(&mut creto_envelope::KeyRecord)| {
        let mut record = second.record.clone();
        change(&mut record);
        code(&sign(record, 1))
    };
    assert_eq!(with(|record| record.valid_until_ms = NOW_MS), RejectCode::RotationRecord);
    assert_eq!(with(|record| record.valid_from_ms = NOW_MS + 1), RejectCode::RotationRecord);
    assert_eq!(with(|record| record.state = AgentState::Suspended), RejectCode::RotationRecord);
    assert_eq!(with(|record| record.x25519 = [0; 32]), RejectCode::RotationRecord);
    let other = signed("acme/b", 2);
    let foreign =
        Rotation::check(first.record.agent_id(), Planned, other, &TrustDomain::default(), NOW_MS).unwrap_err();
    assert_eq!(foreign, RejectCode::SenderMismatch);
}

#[test]
fn a_record_replaces_a_key_in_the_mode_that_it_was_signed_for_and_in_no_other() {
    let first = signed("acme/a", 1);
    let planned = next(&first, 1, 2);
    let emergency = in_mode(Emergency, &planned, 1);
    assert!(check(Planned, &planned).is_ok() && check(Emergency, &emergency).is_ok());
    for (mode, signed) in [(Emergency, &planned), (Planned, &emergency), (Planned, &first), (Emergency, &first)] {
        assert_eq!(check(mode, signed).unwrap_err(), RejectCode::RotationMode, "{mode:?}");
    }
    // Changed in the record as well as beside it: then the signatures do not hold.
    let mut changed = planned;
    changed.record.purpose = emergency.record.purpose;
    assert_eq!(check(Emergency, &changed).unwrap_err(), RejectCode::RotationRecord);
}

#[test]
fn two_that_publish_the_same_version_in_one_commit_do_not_both_win() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _, first) = with_agent(&folder.path().join("control.redb"));
    let second = next(&first, 1, 2);
    let mut same_key = second.record.clone();
    same_key.version = 3;
    let records = [&second, &next(&first, 1, 3), &sign(same_key, 1), &second];
    let changes = records.iter().map(|signed| Change::Rotate(check(Planned, signed).unwrap())).collect();
    let changed = directory.change(changes, NOW_MS).unwrap();
    let refused = |code: RejectCode| Changed::Rotate(Rotated::Refused(code.into()));
    assert_eq!(
        changed,
        [
            Changed::Rotate(Rotated::Replaced(2)),
            refused(RejectCode::RotationVersion),
            refused(RejectCode::RotationRecord),
            Changed::Rotate(Rotated::Known(2)),
        ]
    );
}

#[test]
fn an_agent_cannot_fill_the_disk_with_keys_and_has_room_for_an_emergency() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, _, first) = with_agent(&folder.path().join("control.redb"));
    // Unsigned room for many: the directory trusts what was checked, and a check costs a signature.
    let mut current = first;
    let mut rotate_next = |mode, seed: u32, now_ms| {
        let seed = u8::try_from(seed + 1).unwrap();
        let newer = in_mode(mode, &next(&current, 1, seed), 1);
        let rotated = rotate_at(&mut directory, mode, &newer, now_ms);
        if matches!(rotated, Rotated::Replaced(_)) {
            current = newer;
        }
        rotated
    };
    for count in 1..=ROTATIONS_PER_WINDOW_MAX {
        assert_eq!(rotate_next(Planned, count, NOW_MS), Rotated::Replaced(count + 1));
    }
    let window_ms = u32::try_from(ROTATION_WINDOW_MS).unwrap();
    let full = |retry_after_ms| Rotated::Refused(Refused { code: RejectCode::Overloaded, retry_after_ms });
    assert_eq!(rotate_next(Planned, 90, NOW_MS + 10), full(window_ms - 10));
    for count in ROTATIONS_PER_WINDOW_MAX + 1..=EMERGENCIES_PER_WINDOW_MAX {
        assert_eq!(rotate_next(Emergency, count, NOW_MS), Rotated::Replaced(count + 1));
    }
    assert_eq!(rotate_next(Emergency, 91, NOW_MS), full(window_ms));
    assert_eq!(
        rotate_next(Planned, 92, NOW_MS + ROTATION_WINDOW_MS),
        Rotated::Replaced(EMERGENCIES_PER_WINDOW_MAX + 2)
    );
}

#[test]
fn after_a_failed_commit_the_old_key_is_still_the_current_one() {
    let (storage, is_broken) = faulty::storage();
    let mut directory = Directory::load(Arc::new(storage), 10, GRACE_MS, RETENTION_S, NOW_MS).unwrap();
    let first = signed("acme/a", 1);
    register(&mut directory, std::slice::from_ref(&first));
    is_broken.store(true, Ordering::Relaxed);
    let failed = directory.change(vec![Change::Rotate(check(Planned, &next(&first, 1, 2)).unwrap())], NOW_MS);
    assert!(matches!(failed, Err(ServiceError::Storage(_))), "{failed:?}");
    assert_eq!(directory.snapshot().principal(&first.record.agent_id()).unwrap().current_version(), 1);
}

crate::storage::both::on_postgres_too!(
    the_next_version_with_the_same_signing_keys_and_a_new_encryption_key_replaces_the_current_one,
    an_emergency_is_remembered_over_a_restart,
    the_list_of_versions_says_what_is_still_accepted,
    what_is_not_the_next_version_of_the_same_agent_is_refused,
    two_that_publish_the_same_version_in_one_commit_do_not_both_win,
    an_agent_cannot_fill_the_disk_with_keys_and_has_room_for_an_emergency,
);
