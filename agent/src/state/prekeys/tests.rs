use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const ME: AgentId = AgentId([7; 16]);
const NOW_MS: u64 = 1_760_000_000_000;

fn made(number: u8, kind: PrekeyKind, version: u32) -> Made {
    Made { kind, version, id: KeyId([number; 16]), seed: Zeroizing::new([number; 32]) }
}

fn one_time(numbers: std::ops::Range<u8>) -> Vec<Made> {
    numbers.map(|number| made(number, PrekeyKind::OneTime, 1)).collect()
}

fn try_open(folder: &Path, agent: AgentId) -> Result<PrekeySecrets, StateError> {
    PrekeySecrets::open(folder, agent, Zeroizing::new([0x55; 32]), NOW_MS)
}

fn open(folder: &Path) -> PrekeySecrets {
    try_open(folder, ME).unwrap()
}

const GRACE: Grace = Grace { last_resort_ms: 500, in_use_ms_max: 3 * KEY_UNUSED_MS_MIN };

/// The prekeys of these numbers that are there.
fn there(secrets: &mut PrekeySecrets, numbers: std::ops::Range<u8>) -> Vec<u8> {
    numbers.filter(|number| secrets.opening(KeyId([*number; 16]), NOW_MS).is_some()).collect()
}

/// Whether the seed of this number stands anywhere in the bytes of the file, sealed as it is there; plain it never does.
fn is_in_file(folder: &Path, number: u8) -> bool {
    let sealed = open(folder).seal(&KeyId([number; 16]), &[number; 32]);
    let bytes = fs::read(folder.join("prekeys")).unwrap();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(!has(&[number; 17]), "neither id nor check, but a plain seed");
    has(&sealed[..32])
}

#[test]
fn what_is_added_is_there_after_a_restart_and_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    assert!(there(&mut open(folder.path()), 1..9).is_empty() && !folder.path().join("prekeys").exists());
    let mut secrets = open(folder.path());
    let last = made(8, PrekeyKind::LastResort, 1);
    secrets.add(one_time(1..8).into_iter().chain([last]).collect(), NOW_MS).unwrap();
    assert_eq!(secrets.last_resort_made_ms(1), None, "the node is not known to have it");
    secrets.uploaded(&[KeyId([8; 16])], NOW_MS).unwrap();
    drop(secrets);
    let mut secrets = open(folder.path());
    assert_eq!(there(&mut secrets, 0..10), (1..9).collect::<Vec<_>>());
    assert_eq!((secrets.last_resort_made_ms(1), secrets.last_resort_made_ms(2)), (Some(NOW_MS), None));
    assert!(secrets.one_time().contains(&KeyId([1; 16])) && !secrets.one_time().contains(&KeyId([8; 16])));
    let (secret, version) = secrets.opening(KeyId([3; 16]), NOW_MS).unwrap();
    assert_eq!((secret.key_id(), version), ([3; 16], 1));
    assert_eq!(secret.public(), RecipientSecret::from_seed(&[3; 32]).public());
    let mode = fs::metadata(folder.path().join("prekeys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(try_open(folder.path(), AgentId([8; 16])), Err(StateError::OtherAgent { .. })));
    // Without the agent's keys nothing opens.
    let mut stolen = PrekeySecrets::open(folder.path(), ME, Zeroizing::new([0x66; 32]), NOW_MS).unwrap();
    assert!(there(&mut stolen, 0..10).is_empty());
}

#[test]
fn what_was_erased_is_in_no_byte_of_the_file_and_its_place_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = open(folder.path());
    secrets.add(one_time(1..9), NOW_MS).unwrap();
    assert!((1..9).all(|number| is_in_file(folder.path(), number)));
    secrets.erase(&[KeyId([2; 16]), KeyId([5; 16]), KeyId([99; 16])]).unwrap();
    let left: Vec<u8> = (1..9).filter(|number| is_in_file(folder.path(), *number)).collect();
    assert_eq!(left, [1, 3, 4, 6, 7, 8]);
    assert_eq!(there(&mut secrets, 1..9), left);
    let bytes = fs::metadata(folder.path().join("prekeys")).unwrap().len();
    secrets.add(one_time(20..22), NOW_MS).unwrap();
    assert_eq!(fs::metadata(folder.path().join("prekeys")).unwrap().len(), bytes);
    assert_eq!(there(&mut open(folder.path()), 0..30), [1, 3, 4, 6, 7, 8, 20, 21]);
}

#[test]
fn one_of_last_resort_goes_a_while_after_the_next_one_and_prekeys_of_a_version_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = open(folder.path());
    let last = |number, version| made(number, PrekeyKind::LastResort, version);
    secrets
        .add(vec![last(1, 1), last(2, 1), made(3, PrekeyKind::OneTime, 1), made(4, PrekeyKind::OneTime, 2)], NOW_MS)
        .unwrap();
    secrets.uploaded(&[KeyId([1; 16])], NOW_MS).unwrap();
    secrets.uploaded(&[KeyId([2; 16])], NOW_MS + 1_000).unwrap();
    let end = |secrets: &mut PrekeySecrets, version: u32, now_ms| {
        secrets.end(|known| known >= version, GRACE, now_ms).unwrap()
    };
    end(&mut secrets, 1, NOW_MS + 1_499);
    assert!(is_in_file(folder.path(), 1));
    // Over, but something was opened not long ago: what is on its way may need it.
    end(&mut secrets, 1, NOW_MS + 1_500);
    assert!(is_in_file(folder.path(), 1));
    end(&mut secrets, 1, NOW_MS + KEY_UNUSED_MS_MIN);
    assert_eq!(there(&mut secrets, 0..9), [2, 3, 4]);
    assert!(!is_in_file(folder.path(), 1));
    secrets.opening(KeyId([2; 16]), NOW_MS + KEY_UNUSED_MS_MIN).unwrap();
    // The key of version 1 is gone: its prekeys leave the file at once, and memory when nothing needed one for a while.
    end(&mut secrets, 2, NOW_MS + KEY_UNUSED_MS_MIN);
    assert!(!is_in_file(folder.path(), 2) && !is_in_file(folder.path(), 3) && is_in_file(folder.path(), 4));
    assert_eq!(there(&mut secrets, 0..9), [2, 3, 4]);
    assert_eq!(there(&mut open(folder.path()), 0..9), [4]);
    end(&mut secrets, 2, NOW_MS + 3 * KEY_UNUSED_MS_MIN);
    assert_eq!(there(&mut secrets, 0..9), [4]);
}

#[test]
fn one_of_last_resort_goes_although_others_are_in_use_and_in_the_end_although_it_is_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = open(folder.path());
    let last = |number| made(number, PrekeyKind::LastResort, 1);
    secrets.add(vec![last(1), last(2), last(3)], NOW_MS).unwrap();
    for number in 1..4 {
        secrets.uploaded(&[KeyId([number; 16])], NOW_MS).unwrap();
    }
    // A busy agent: every minute something is sent to the second, which is replaced, and to the third, which is not.
    let minute_ms = 60_000;
    let mut gone = [None; 3];
    for minute in 0..60 {
        let now_ms = NOW_MS + minute * minute_ms;
        for (number, gone) in (1..).zip(&mut gone) {
            if gone.is_none() && !is_in_file(folder.path(), number) {
                *gone = Some(minute);
            }
        }
        secrets.opening(KeyId([2; 16]), now_ms);
        secrets.opening(KeyId([3; 16]), now_ms);
        secrets.end(|_| true, GRACE, now_ms).unwrap();
    }
    // Ten minutes after it was read; thirty minutes and half a second after it was replaced; not at all.
    assert_eq!(gone, [Some(11), Some(32), None]);
    assert_eq!(there(&mut secrets, 0..9), [3], "nor are they in memory");
}

#[test]
fn what_leaves_the_file_leaves_memory_in_the_end_although_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = open(folder.path());
    secrets.add(vec![made(1, PrekeyKind::LastResort, 1)], NOW_MS).unwrap();
    for minute in 0..40 {
        secrets.opening(KeyId([1; 16]), NOW_MS + minute * 60_000);
        secrets.end(|_| false, GRACE, NOW_MS + minute * 60_000).unwrap();
        assert!(!is_in_file(folder.path(), 1), "at once");
        assert_eq!(there(&mut secrets, 0..9).is_empty(), minute >= 30, "{minute}");
    }
}

#[test]
fn a_file_that_nobody_has_open_is_opened_to_erase_and_one_that_somebody_has_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = || Zeroizing::new([0x55; 32]);
    let end = || PrekeySecrets::end_in(folder.path(), ME, key(), |version| version > 1, GRACE, NOW_MS);
    end().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
    open(folder.path())
        .add(one_time(1..4).into_iter().chain([made(8, PrekeyKind::OneTime, 2)]).collect(), NOW_MS)
        .unwrap();
    let held = super::super::incoming::lock(folder.path()).unwrap();
    assert!(matches!(end(), Err(StateError::InUse { .. })));
    assert!(is_in_file(folder.path(), 1));
    drop(held);
    end().unwrap();
    assert_eq!(there(&mut open(folder.path()), 0..9), [8]);
    assert!((1..4).all(|number| !is_in_file(folder.path(), number)));
    assert_eq!((open(folder.path()).one_time_of(1), open(folder.path()).one_time_of(2)), (0, 1));
}

#[test]
fn above_the_bound_the_oldest_for_one_use_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = open(folder.path());
    let many = |from: usize, count: usize| -> Vec<Made> {
        let id = |number: usize| KeyId(u128::try_from(number).unwrap().to_le_bytes());
        let seed = || Zeroizing::new([9; 32]);
        let kind = PrekeyKind::OneTime;
        (from..from + count).map(|number| Made { kind, version: 1, id: id(number), seed: seed() }).collect()
    };
    secrets.add(vec![made(255, PrekeyKind::LastResort, 1)], NOW_MS).unwrap();
    secrets.add(many(1, 10), NOW_MS + 1).unwrap();
    // That the node has them does not keep them: they are the oldest.
    secrets.uploaded(&many(1, 10).iter().map(|made| made.id).collect::<Vec<_>>(), NOW_MS + 1).unwrap();
    secrets.add(many(11, PREKEY_SECRETS_MAX - 11), NOW_MS + 2).unwrap();
    secrets.add(many(PREKEY_SECRETS_MAX, 10), NOW_MS + 3).unwrap();
    assert_eq!(secrets.secrets.len(), PREKEY_SECRETS_MAX);
    let is_there = |number: usize| secrets.secrets.contains_key(&KeyId(u128::try_from(number).unwrap().to_le_bytes()));
    assert!((1..11).all(|number| !is_there(number)) && (11..PREKEY_SECRETS_MAX + 10).all(is_there));
    assert!(secrets.secrets.contains_key(&KeyId([255; 16])));
    assert_eq!(open(folder.path()).secrets.len(), PREKEY_SECRETS_MAX);
}

#[test]
fn a_slot_that_is_not_as_it_was_written_costs_itself_and_a_header_that_is_not_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prekeys");
    open(folder.path()).add(one_time(1..4), NOW_MS).unwrap();
    let whole = fs::read(&path).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        try_open(folder.path(), ME)
    };
    assert_eq!(there(&mut with(&|bytes| bytes[512 + 128 + 50] ^= 1).unwrap(), 0..9), [1, 3]);
    // A slot in the place of another.
    assert_eq!(there(&mut with(&|bytes| bytes.copy_within(512..640, 640)).unwrap(), 0..9), [1, 3]);
    assert_eq!(there(&mut with(&|bytes| bytes.truncate(512 + 128 + 60)).unwrap(), 0..9), [1]);
    assert!(there(&mut with(&|bytes| bytes.truncate(100)).unwrap(), 0..9).is_empty(), "made, and then a crash");
    assert!(matches!(with(&|bytes| bytes[8] = 9), Err(StateError::Version { found: 9, .. })));
    for at in [0, 20, 300, 511] {
        assert!(matches!(with(&|bytes| bytes[at] ^= 1), Err(StateError::Damaged { .. })), "byte {at}");
    }
}
