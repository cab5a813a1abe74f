//! Keys in encrypted files.

use creto_envelope::control::RotationMode::{Emergency, Planned};

use super::*;
use crate::keystore::{Argon2Cost, Passphrase, PassphraseLock};

fn lock(text: &str) -> PassphraseLock {
    PassphraseLock::with_cost(Passphrase::new(text.to_owned()).unwrap(), Argon2Cost::LEAST)
}

fn first() -> PassphraseLock {
    lock("correct horse battery staple")
}

/// Keys in an encrypted file of their own, and its folder.
fn saved_locked() -> (tempfile::TempDir, PathBuf, AgentKeys) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planner.keys");
    let keys = keys();
    keys.save_locked(&path, &first()).unwrap();
    (folder, path, keys)
}

#[test]
fn encrypted_keys_open_with_their_passphrase_and_tell_nobody_else_anything() {
    let (folder, path, keys) = saved_locked();
    assert_eq!(keys.locks(), [LockKind::Passphrase]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left behind");
    let loaded = AgentKeys::load_locked(&path, &first()).unwrap();
    assert_eq!((loaded.id(), loaded.key_id(), loaded.locks()), (keys.id(), keys.key_id(), keys.locks()));
    assert_eq!(loaded.signing.public(), keys.signing.public());

    let without = AgentKeys::load(&path).unwrap_err();
    assert!(matches!(&without, KeysError::Locked { locks, .. } if *locks == [LockKind::Passphrase]), "{without}");
    assert!(without.to_string().contains("its passphrase was not given"), "{without}");
    let wrong = AgentKeys::load_locked(&path, &lock("correct horse battery stapler")).unwrap_err();
    assert!(matches!(wrong, KeysError::WrongPassphrase { .. }), "{wrong}");
    let content = fs::read(&path).unwrap();
    let holds = |secret: &[u8]| content.windows(secret.len()).any(|window| window == secret);
    assert!(!holds(b"acme/planner") && !holds(b"seed") && !holds(BASE64.encode(keys.seeds.ed25519).as_bytes()));
}

#[test]
fn a_passphrase_for_a_plain_file_does_no_harm() {
    let (_folder, path, keys) = saved();
    let loaded = AgentKeys::load_locked(&path, &first()).unwrap();
    assert_eq!((loaded.key_id(), loaded.locks()), (keys.key_id(), vec![]));
}

#[test]
fn a_rotation_of_encrypted_keys_leaves_them_encrypted_and_asks_for_nothing() {
    let (folder, path, keys) = saved_locked();
    keys.begin_rotation(Planned, 1).unwrap();
    assert!(AgentKeys::load_locked(&path, &first()).unwrap().has_pending());
    keys.rotation_published(2).unwrap();
    let loaded = AgentKeys::load_locked(&path, &first()).unwrap();
    assert_eq!((loaded.record_version(), loaded.key_id()), (2, keys.key_id()));
    // And another process of the same agent hears of it by the file.
    loaded.begin_rotation(Emergency, 2).unwrap();
    let third = loaded.pending_record(5, 9).unwrap().1.record.key_id();
    assert!(keys.opening(third).is_some());
    assert!(matches!(AgentKeys::load(&path), Err(KeysError::Locked { .. })));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_passphrase_is_changed_under_a_process_that_goes_on() {
    let (_folder, path, running) = saved_locked();
    let other = AgentKeys::load_locked(&path, &first()).unwrap();
    let second = lock("another one altogether");
    other.save_locked(&path, &second).unwrap();
    assert!(matches!(AgentKeys::load_locked(&path, &first()), Err(KeysError::WrongPassphrase { .. })));
    assert_eq!(AgentKeys::load_locked(&path, &second).unwrap().key_id(), running.key_id());
    // The one that had it open knows neither passphrase, and still writes a file that opens with the new one.
    running.begin_rotation(Planned, 1).unwrap();
    running.rotation_published(2).unwrap();
    running.save(&path).unwrap();
    assert_eq!(AgentKeys::load_locked(&path, &second).unwrap().key_id(), running.key_id());
}

#[test]
fn a_plain_file_is_encrypted_in_its_place_and_is_never_plain_again() {
    let (folder, path, running) = saved();
    let before = fs::read(&path).unwrap();
    AgentKeys::load(&path).unwrap().save_locked(&path, &first()).unwrap();
    let after = fs::read(&path).unwrap();
    assert_ne!(before, after);
    // Whoever had it open when it was plain cannot write it: it would be plain again, or lose what is in it.
    for mode in [Planned, Emergency] {
        let error = running.begin_rotation(mode, 1).unwrap_err();
        assert!(matches!(error, KeysError::Locked { .. }), "{error}");
    }
    assert!(matches!(running.save(&path), Err(KeysError::Locked { .. })));
    assert!(!running.has_pending() && fs::read(&path).unwrap() == after);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(AgentKeys::load_locked(&path, &first()).unwrap().key_id(), running.key_id());
}

#[test]
fn a_plain_copy_in_the_place_of_encrypted_keys_is_encrypted_when_it_is_written_again() {
    let (folder, path, keys) = saved();
    // What somebody kept from before.
    let plain = folder.path().join("plain.keys");
    fs::copy(&path, &plain).unwrap();
    keys.save_locked(&path, &first()).unwrap();
    let running = AgentKeys::load_locked(&path, &first()).unwrap();
    fs::rename(&plain, &path).unwrap();
    assert!(running.reload().unwrap(), "it is another file");
    running.begin_rotation(Planned, 1).unwrap();
    assert!(matches!(AgentKeys::load(&path), Err(KeysError::Locked { .. })));
    assert!(AgentKeys::load_locked(&path, &first()).unwrap().has_pending());
}

#[test]
fn a_copy_of_encrypted_keys_is_encrypted_too() {
    let (folder, path, keys) = saved_locked();
    let copy = folder.path().join("copy.keys");
    keys.save(&copy).unwrap();
    assert_eq!(AgentKeys::load_locked(&copy, &first()).unwrap().key_id(), keys.key_id());
    keys.save(&copy).unwrap();
    let third = lock("a third passphrase");
    let elsewhere = folder.path().join("elsewhere.keys");
    keys.save_locked(&elsewhere, &third).unwrap();
    assert_eq!(AgentKeys::load_locked(&elsewhere, &third).unwrap().key_id(), keys.key_id());
    assert!(AgentKeys::load_locked(&path, &first()).is_ok(), "its own place keeps its lock");
    keys.begin_rotation(Planned, 1).unwrap();
    assert!(AgentKeys::load_locked(&path, &first()).unwrap().has_pending());
}

#[test]
fn an_encrypted_file_that_cannot_be_read_is_never_written_over() {
    let (_folder, path, keys) = saved_locked();
    let content = fs::read(&path).unwrap();
    let stranger = AgentKeys::generate(AgentName::parse("acme/stranger").unwrap(), TrustDomain::default()).unwrap();
    assert!(matches!(stranger.save(&path), Err(KeysError::Locked { .. })));
    assert!(matches!(stranger.save_locked(&path, &lock("not the one")), Err(KeysError::WrongPassphrase { .. })));
    assert!(matches!(stranger.save_locked(&path, &first()), Err(KeysError::OtherKeys { .. })));
    assert_eq!(fs::read(&path).unwrap(), content);

    let middle = content.len() / 2;
    for (damaged, reason) in [
        ([&content[..middle], &[content[middle] ^ 4], &content[middle + 1..]].concat(), "checksum"),
        (content[..middle].to_vec(), "checksum"),
        (String::from_utf8_lossy(&content).replace("\r\n", "\n").into_bytes(), "first line"),
        (content[..14].to_vec(), "first line"),
    ] {
        fs::write(&path, &damaged).unwrap();
        let error = AgentKeys::load_locked(&path, &first()).unwrap_err();
        assert!(matches!(&error, KeysError::Damaged { reason: found, .. } if found.contains(reason)), "{error}");
        assert!(
            matches!(AgentKeys::load(&path), Err(KeysError::Damaged { .. })),
            "and nobody is asked for a passphrase"
        );
        assert!(keys.begin_rotation(Planned, 1).is_err() && keys.save(&path).is_err());
        assert!(stranger.save_locked(&path, &first()).is_err());
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    let mut later = content.clone();
    later[16] = 2;
    fs::write(&path, &later).unwrap();
    assert!(matches!(AgentKeys::load(&path), Err(KeysError::Version { found: 2, .. })));
}

#[test]
fn an_encrypted_file_that_others_can_read_is_refused_too() {
    let (_folder, path, _) = saved_locked();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = AgentKeys::load_locked(&path, &first()).unwrap_err();
    assert!(matches!(error, KeysError::Permissions { mode: 0o640, .. }), "{error}");
}

/// Written by another implementation, from `docs/keystore-format.md` alone.
#[test]
fn a_file_of_keystore_format_1_is_read_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planner.keys");
    fs::write(&path, include_bytes!("../../../tests/fixtures/planner-keystore-1.keys")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let keys = AgentKeys::load_locked(&path, &first()).unwrap();
    assert_eq!((keys.name().as_str(), keys.record_version()), ("acme/planner", 3));
    assert_eq!(keys.key_id(), KeyId(RecipientSecret::from_seed(&[0x33; 32]).key_id()));
    assert_eq!(keys.signing.public(), SigningKeys::from_seeds(&[0x11; 32], &[0x22; 32]).public());
    assert_eq!(crate::keystore::KEYSTORE_FORMAT, 1, "a newer one needs a file of its own here");
}
