use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::control::RotationMode::{Emergency, Planned};

use super::*;

mod locked;
mod ring;

fn keys() -> AgentKeys {
    AgentKeys::generate(AgentName::parse("acme/planner").unwrap(), TrustDomain::default()).unwrap()
}

#[test]
fn a_saved_file_gives_the_same_keys_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("planner.keys");
    let saved = keys().with_record_version(3);
    assert_eq!(saved.file(), None, "they live in memory only");
    saved.save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
    let loaded = AgentKeys::load(&path).unwrap();
    assert_eq!((saved.file(), loaded.file()), (Some(path.as_path()), Some(path.as_path())));
    assert_eq!((loaded.id(), loaded.key_id(), loaded.record_version()), (saved.id(), saved.key_id(), 3));
    assert_eq!(loaded.signing.public(), saved.signing.public());
}

#[test]
fn keys_that_are_saved_again_in_their_place_keep_what_another_process_wrote_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("planner.keys");
    let first = keys();
    first.save(&path).unwrap();
    let other = AgentKeys::load(&path).unwrap();
    other.begin_rotation(Planned, 1).unwrap();
    other.rotation_published(2).unwrap();
    first.save(&path).unwrap();
    let loaded = AgentKeys::load(&path).unwrap();
    assert_eq!((loaded.record_version(), loaded.key_id()), (2, other.key_id()), "what is sealed to it must open");
    assert!(loaded.opening(first.key_id()).is_some());
    // Elsewhere it is a copy.
    first.save(directory.path().join("copy.keys")).unwrap();
}

/// The keys of somebody else, as a file.
fn of_another(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.keys");
    AgentKeys::generate(AgentName::parse(name).unwrap(), TrustDomain::default()).unwrap().save(&path).unwrap();
    fs::read(path).unwrap()
}

#[track_caller]
fn is_left_alone(path: &Path, content: &[u8], answer: Result<(), KeysError>) {
    let error = answer.unwrap_err();
    assert!(matches!(error, KeysError::OtherKeys { .. }), "{error}");
    assert!(error.to_string().contains("; move it to where it belongs"), "{error}");
    assert_eq!(fs::read(path).unwrap(), content, "these keys may be nowhere else");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_now_holds_the_keys_of_another_agent_is_never_written_over() {
    for name in ["acme/stranger", "acme/planner"] {
        let (_folder, path, keys) = saved();
        let (own, other) = (fs::read(&path).unwrap(), of_another(name));
        fs::write(&path, &other).unwrap();
        // Found by a message first, and asked again and again: it stays foreign.
        assert!(keys.opening(KeyId([9; 16])).is_none());
        for mode in [Planned, Emergency] {
            is_left_alone(&path, &other, keys.begin_rotation(mode, 1));
            assert!(!keys.has_pending(), "nothing is published that is not on disk");
        }
        is_left_alone(&path, &other, keys.save(&path));
        is_left_alone(&path, &other, keys.reconcile(1, keys.key_id()).map(drop));
        is_left_alone(&path, &other, keys.erase_ended(0));

        // Its own file again, it goes on, and in the middle of a rotation the same happens.
        fs::write(&path, &own).unwrap();
        keys.begin_rotation(Planned, 1).unwrap();
        let (own, next) = (fs::read(&path).unwrap(), keys.pending_record(5, 9).unwrap().1.record.key_id());
        fs::write(&path, &other).unwrap();
        is_left_alone(&path, &other, keys.rotation_published(2));
        is_left_alone(&path, &other, keys.reconcile(2, next).map(drop));
        is_left_alone(&path, &other, keys.reconcile(7, KeyId([7; 16])).map(drop));
        assert!(keys.opening(next).is_some(), "the node has it, so it opens");
        fs::write(&path, &own).unwrap();
        assert_eq!(keys.reconcile(2, next).unwrap(), Standing::Level);
        assert_eq!(AgentKeys::load(&path).unwrap().key_id(), next);
    }
}

#[test]
fn keys_that_differ_in_their_ml_dsa_key_alone_are_anothers() {
    let (_folder, path, keys) = saved();
    let seed = BASE64.encode(keys.seeds.ml_dsa_65);
    let other = fs::read_to_string(&path).unwrap().replace(&seed, &BASE64.encode([7; 32]));
    fs::write(&path, &other).unwrap();
    is_left_alone(&path, other.as_bytes(), keys.begin_rotation(Planned, 1));
}

#[test]
fn keys_are_not_saved_over_others_nor_over_a_file_that_cannot_be_read() {
    let (_folder, path, first) = saved();
    let content = fs::read(&path).unwrap();
    is_left_alone(&path, &content, keys().save(&path));

    // A copy of an agent's own keys may be written over, unless it has a key that is not here.
    let copy = AgentKeys::load(&path).unwrap();
    let (_elsewhere, other_path, _) = saved();
    fs::remove_file(&other_path).unwrap();
    first.save(&other_path).unwrap();
    first.save(&other_path).unwrap();
    copy.begin_rotation(Emergency, 1).unwrap();
    let away = AgentKeys::load(&other_path).unwrap();
    is_left_alone(&path, &fs::read(&path).unwrap(), away.save(&path));
    copy.rotation_published(2).unwrap();
    let newest = AgentKeys::load(&path).unwrap();
    assert!(newest.opening(first.key_id()).is_none());
    newest.save(&other_path).unwrap();
    assert_eq!(AgentKeys::load(&other_path).unwrap().key_id(), copy.key_id(), "keys that it replaced may go");

    for (text, mode) in [("not a key file", 0o600), ("{\"format\": 3}", 0o600), ("", 0o644)] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(first.save(&path).is_err() && away.save(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("open.keys");
    keys().save(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = AgentKeys::load(&path).unwrap_err();
    assert!(matches!(error, KeysError::Permissions { mode: 0o644, .. }));
    assert!(error.to_string().contains("chmod 600"));
}

#[test]
fn a_damaged_file_is_refused_without_telling_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.keys");
    keys().save(&path).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let seed = whole.lines().find(|line| line.contains("x_wing")).unwrap().split('"').nth(3).unwrap().to_owned();
    let damaged = [
        whole.replace(&seed, &seed[..20]),
        whole.replace("x_wing_seed", "xwing_seed"),
        whole.replace("acme/planner", "planner"),
        whole.replace("\"version\": 1", "\"version\": 0"),
        whole.replace("\"current\"", "\"replaced\""),
        whole.replace("\"current\"", "\"pending\""),
        whole.replace("\"current\"", "\"lost\""),
        whole[..whole.len() / 2].to_owned(),
        String::new(),
    ];
    for text in damaged {
        fs::write(&path, &text).unwrap();
        let error = AgentKeys::load(&path).unwrap_err();
        assert!(matches!(error, KeysError::Format { .. }), "{error}");
        assert!(!error.to_string().contains(&seed[..8]), "{error}");
    }
    fs::write(&path, whole.replace("\"format\": 2", "\"format\": 3")).unwrap();
    assert!(matches!(AgentKeys::load(&path).unwrap_err(), KeysError::Version { found: 3, .. }));
}

#[test]
fn a_signed_record_names_the_agent_and_both_signatures_hold() {
    let keys = keys();
    let signed = SignedKeyRecord::parse(&keys.signed_record(2, 5, 9).to_bytes()).unwrap();
    let record = &signed.record;
    assert_eq!((record.agent_id(), record.key_id(), record.version), (keys.id(), keys.key_id(), 2));
    let public = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).unwrap();
    public.verify(&record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65).unwrap();
}

#[test]
fn debug_output_shows_no_secret() {
    let keys = keys();
    let text = format!("{keys:?}");
    assert!(text.contains("acme/planner"));
    let x_wing = *keys.ring().current.seed;
    for seed in [&keys.seeds.ed25519, &keys.seeds.ml_dsa_65, &x_wing] {
        assert!(
            !text.contains(&BASE64.encode(seed))
                && !text.contains(&format!("{seed:?}"))
                && !text.contains(&file::hex(seed))
        );
    }
}

/// Keys in a file of their own, and its folder.
fn saved() -> (tempfile::TempDir, PathBuf, AgentKeys) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planner.keys");
    let keys = keys();
    keys.save(&path).unwrap();
    (folder, path, keys)
}

#[test]
fn a_file_of_format_1_is_read_for_ever_and_becomes_format_2_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planner.keys");
    fs::write(&path, include_str!("../../tests/fixtures/planner-format-1.keys")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let keys = AgentKeys::load(&path).unwrap();
    assert_eq!((keys.name().as_str(), keys.record_version()), ("acme/planner", 3));
    assert_eq!(keys.key_id(), KeyId(RecipientSecret::from_seed(&[0x33; 32]).key_id()));
    assert_eq!(keys.signing.public(), SigningKeys::from_seeds(&[0x11; 32], &[0x22; 32]).public());
    keys.begin_rotation(Planned, 3).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("\"format\": 2"));
    assert_eq!(AgentKeys::load(&path).unwrap().key_id(), keys.key_id());
}

#[test]
fn every_step_of_a_rotation_is_in_the_file_and_nothing_else_is_left_behind() {
    let (folder, path, keys) = saved();
    let first = keys.key_id();
    keys.begin_rotation(Planned, 1).unwrap();
    let (mode, record) = keys.pending_record(5, 9).unwrap();
    assert_eq!((mode, record.record.version), (Planned, 2));
    let second = record.record.key_id();

    let reloaded = AgentKeys::load(&path).unwrap();
    assert!(reloaded.has_pending());
    assert_eq!((reloaded.key_id(), reloaded.record_version()), (first, 1), "not before the node has it");
    assert!(reloaded.opening(second).is_some(), "but the node may have it already");

    keys.rotation_published(2).unwrap();
    let reloaded = AgentKeys::load(&path).unwrap();
    assert_eq!((reloaded.key_id(), reloaded.record_version()), (second, 2));
    assert!(!reloaded.has_pending() && reloaded.opening(first).is_some());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn an_emergency_takes_the_old_keys_out_of_the_file_at_once() {
    let (_folder, path, keys) = saved();
    let ids: Vec<_> = [Planned, Planned, Emergency]
        .into_iter()
        .zip(1..)
        .map(|(mode, version)| {
            let before = keys.key_id();
            keys.begin_rotation(mode, version).unwrap();
            keys.rotation_published(version + 1).unwrap();
            before
        })
        .collect();
    let reloaded = AgentKeys::load(&path).unwrap();
    assert_eq!((reloaded.key_id(), reloaded.record_version()), (keys.key_id(), 4));
    for id in ids {
        assert!(reloaded.opening(id).is_none(), "nobody who finds the file finds them");
        assert!(keys.opening(id).is_some(), "what was accepted before is on its way to this process");
    }
}

#[test]
fn a_process_finds_the_keys_that_another_one_put_into_the_file() {
    let (_folder, path, running) = saved();
    let first = running.key_id();
    let other = AgentKeys::load(&path).unwrap();
    other.begin_rotation(Planned, 1).unwrap();
    other.rotation_published(2).unwrap();
    assert!(running.opening(KeyId([9; 16])).is_none());
    assert!(running.opening(other.key_id()).is_some(), "a message to the new key came");
    assert_eq!(running.record_version(), 2);
    assert!(running.opening(first).is_some());
    // And it changes what is there, not what it remembers.
    running.begin_rotation(Planned, 2).unwrap();
    running.rotation_published(3).unwrap();
    let reloaded = AgentKeys::load(&path).unwrap();
    assert_eq!(reloaded.ring().versions(), [3, 2, 1]);
}

#[test]
fn keys_that_are_in_no_file_are_not_replaced() {
    let keys = keys();
    assert!(matches!(keys.begin_rotation(Planned, 1), Err(KeysError::NoFile { .. })));
    assert!(!keys.has_pending());
}

/// Keys in a file that can be read and not written: there is no room in its name for the one that is made beside it.
fn unwritable() -> (tempfile::TempDir, PathBuf, AgentKeys) {
    let (folder, path, _) = saved();
    let long = folder.path().join("k".repeat(240));
    fs::rename(&path, &long).unwrap();
    let keys = AgentKeys::load(&long).unwrap();
    (folder, long, keys)
}

#[test]
fn a_next_key_that_could_not_be_saved_is_forgotten() {
    let (_folder, _, keys) = unwritable();
    assert!(matches!(keys.begin_rotation(Planned, 1), Err(KeysError::File { doing: "written", .. })));
    let node_key = keys.key_id();
    assert_eq!(keys.reconcile(1, node_key).unwrap(), Standing::Level, "nothing is published that is not on disk");
    assert!(keys.pending_record(0, 1).is_none());
}

/// A saved file with this in the place of a third signing key.
fn with_third(path: &Path, key: &str) {
    let text = fs::read_to_string(path).unwrap();
    let field = format!("\"fn_dsa_512_key\": \"{key}\",\n  \"encryption_keys\"");
    fs::write(path, text.replace("\"encryption_keys\"", &field)).unwrap();
}

#[test]
fn keys_without_a_third_have_the_record_and_the_file_that_they_always_had() {
    let (_folder, path, keys) = saved();
    assert!(!keys.has_fn_dsa_512() && keys.signed_record(1, 5, 9).record.fn_dsa_512.is_none());
    assert!(!fs::read_to_string(&path).unwrap().contains("fn_dsa"));
}

#[cfg(not(feature = "fn-dsa"))]
#[test]
fn a_build_without_the_feature_refuses_a_file_with_a_third_key_and_names_the_feature() {
    let (_folder, path, _) = saved();
    with_third(&path, &BASE64.encode([0x59; 1_377]));
    let error = AgentKeys::load(&path).unwrap_err();
    assert!(matches!(error, KeysError::Unsupported { feature: "fn-dsa", .. }), "{error}");
    assert!(error.to_string().contains("--features fn-dsa"), "{error}");
}

#[cfg(feature = "fn-dsa")]
#[test]
fn a_third_key_is_in_the_record_and_in_the_file_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("planner.keys");
    let name = AgentName::parse("acme/planner").unwrap();
    let keys = AgentKeys::generate_with_fn_dsa_512(name, TrustDomain::default()).unwrap();
    keys.save(&path).unwrap();
    let loaded = AgentKeys::load(&path).unwrap();
    let record = SignedKeyRecord::parse(&loaded.signed_record(1, 5, 9).to_bytes()).unwrap().record;
    assert!(record.fn_dsa_512.is_some());
    assert_eq!(record.fn_dsa_512, keys.signed_record(1, 5, 9).record.fn_dsa_512);
    let public = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).unwrap();
    let public = public.with_fn_dsa_512(record.fn_dsa_512.as_deref()).unwrap();
    public.verify_fn_dsa_512(b"statement", loaded.sign_fn_dsa_512(b"statement").as_deref()).unwrap();
    loaded.begin_rotation(Planned, 1).unwrap();
    assert_eq!(loaded.pending_record(5, 9).unwrap().1.record.fn_dsa_512, record.fn_dsa_512);

    let third = BASE64.encode(keys.seeds.fn_dsa_512.as_ref().unwrap().to_stored());
    assert!(!format!("{keys:?}").contains(&third[..12]));
    // A file that lost it is not the file of these keys any more.
    let whole = fs::read_to_string(&path).unwrap();
    let field = format!("\"fn_dsa_512_key\": \"{third}\",");
    assert!(whole.contains(&field));
    fs::write(&path, whole.replace(&field, "")).unwrap();
    assert!(!loaded.reload_if_changed());
    for damaged in [&third[..third.len() - 4], "AAAA", "", "?", &third.replace(&third[40..44], "AAAA")] {
        fs::write(&path, whole.replace(&field, "")).unwrap();
        with_third(&path, damaged);
        let error = AgentKeys::load(&path).unwrap_err();
        assert!(matches!(error, KeysError::Format { .. }), "{error}");
        assert!(error.to_string().contains("FN-DSA-512"), "{error}");
    }
}

#[test]
fn a_next_key_that_could_not_be_saved_is_not_published_while_the_file_cannot_be_read_either() {
    let (_folder, path, keys) = unwritable();
    let (node_key, content) = (keys.key_id(), fs::read(&path).unwrap());
    assert!(keys.begin_rotation(Planned, 1).is_err());
    fs::write(&path, b"not a key file").unwrap();
    assert!(keys.pending_record(0, 1).is_none() && !keys.has_pending());
    assert!(matches!(keys.reconcile(1, node_key), Err(KeysError::Format { .. })));
    assert!(matches!(keys.begin_rotation(Planned, 1), Err(KeysError::Format { .. })), "and nothing is written over it");
    fs::remove_file(&path).unwrap();
    assert_eq!(keys.reconcile(1, node_key).unwrap(), Standing::Level);
    assert!(keys.pending_record(0, 1).is_none());
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(keys.reconcile(1, node_key).unwrap(), Standing::Level);
}
